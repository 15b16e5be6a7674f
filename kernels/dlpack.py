"""What a DLPack capsule tells of an array, in the words of ``__cuda_array_interface__``.

numba reads that interface and no DLPack. A capsule is only looked into here, not consumed: whoever
reads the array keeps the capsule, which gives the memory back when it goes.
"""

import ctypes


class _Tensor(ctypes.Structure):
    """``DLTensor``, with which a ``DLManagedTensor`` begins."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


#: Letters of NumPy for the codes of types; others, like bfloat16, are bytes without a meaning.
_LETTERS = {0: "i", 1: "u", 2: "f", 5: "c", 6: "b"}

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def interface_of(capsule):
    """The array of a capsule as a ``__cuda_array_interface__`` of version 3.

    Parameters
    ----------
    capsule : PyCapsule
        Of ``__dlpack__`` without `max_version`. The memory is there as long as it is.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If it is no such capsule, or was consumed.
    """
    tensor = _Tensor.from_address(_pointer_of(capsule, b"dltensor"))
    itemsize = tensor.bits * tensor.lanes // 8
    letter = _LETTERS.get(tensor.code) if tensor.lanes == 1 else None
    strides = None
    if tensor.strides:
        strides = tuple(step * itemsize for step in tensor.strides[: tensor.ndim])
    return {
        "version": 3,
        "shape": tuple(tensor.shape[: tensor.ndim]),
        "typestr": f"<{letter}{itemsize}" if letter else f"|V{itemsize}",
        "data": ((tensor.data or 0) + tensor.byte_offset, False),
        "strides": strides,
    }
