"""Memory of a CUDA device: what is put there, and arrays of the user that lie there already.

Such an array is known by ``__cuda_array_interface__`` or by DLPack, and is read in place.
"""

import ctypes
import threading
from functools import cached_property
from types import SimpleNamespace

import numpy as np
from numba import config, cuda

from . import CUDA_DRIVER, cuda_copies
from .cuda_copies import BLOCKS, THREADS
from .dlpack import interface_of

SIMULATED = bool(config.ENABLE_CUDASIM)
#: One launch or copy at a time, from whichever thread.
DEVICE = threading.RLock()
#: Of the driver: the attribute of a pointer that says which device has the memory.
_DEVICE_ORDINAL = 9
#: The legacy default stream, which numba works in, as DLPack numbers it.
_STREAM = 1


def on_device(make, n_bytes):
    """What `make` returns; MemoryError if the device has no room for it."""
    try:
        with DEVICE:
            return make()
    except Exception as error:
        if getattr(error, "code", None) != 2 and "OUT_OF_MEMORY" not in str(error):
            raise
        raise MemoryError(
            f"the CUDA device has no room for {n_bytes / 2**20:,.1f} MiB more. Use a smaller "
            "network or batch_size, free memory on the device, or use device='cpu'."
        ) from error


def empty(size, dtype):
    """An array on the device, one element at least."""
    dtype = np.dtype(dtype)
    return on_device(lambda: cuda.device_array(max(1, size), dtype), max(1, size) * dtype.itemsize)


def upload(array):
    """A flat copy of an array on the device; one that is there already is read in place."""
    if getattr(array, "__cuda_ndarray__", False):
        return array.reshape(-1)
    if array.size == 0:
        return empty(1, array.dtype)
    return on_device(lambda: cuda.to_device(array.reshape(-1)), array.nbytes)


def matrix(array):
    """A copy on the device, of the same shape."""
    return on_device(lambda: cuda.to_device(np.ascontiguousarray(array)), array.nbytes)


def joined(arrays, dtype):
    """Vectors of a dtype one after the other on the device; one that is alone is not copied if it
    lies there.
    """
    if not arrays:
        return empty(1, dtype)
    if len(arrays) == 1:
        return upload(arrays[0])
    ends = np.cumsum([array.size for array in arrays]).tolist()
    whole = empty(ends[-1], dtype)
    with DEVICE:
        for array, end in zip(arrays, ends, strict=True):
            if array.size:
                whole[end - array.size : end].copy_to_device(array)
    return whole


class DeviceMatrix:
    """A matrix that lies on the device: as much of an ndarray as a fit asks for.

    Parameters
    ----------
    array : numba device array
        Shared, not copied; `min` and what follows need one that is C-contiguous and not empty.
    """

    def __init__(self, array):
        self.array = array
        self.dtype = np.dtype(array.dtype)
        self.shape, self.strides = tuple(array.shape), tuple(array.strides)
        self.ndim, self.size = len(self.shape), int(np.prod(self.shape))

    @property
    def __cuda_array_interface__(self):
        if SIMULATED:
            return self.array._ary.__array_interface__
        return self.array.__cuda_array_interface__

    @property
    def carray(self):
        """Whether it is C-contiguous and aligned."""
        if not self.size:
            return True
        address = self.__cuda_array_interface__["data"][0]
        return address % self.dtype.itemsize == 0 and _packed(
            self.shape, self.strides, self.dtype.itemsize
        )

    @cached_property
    def _extremes(self):
        found = [empty(BLOCKS * THREADS, self.dtype) for _ in range(2)]
        _run(cuda_copies.extremes, self.array.reshape(-1), *found)
        low, high = (part.copy_to_host() for part in found)
        return low.min(), high.max()

    def min(self):
        """The smallest element, NaN if there is one."""
        return self._extremes[0]

    def max(self):
        """The largest element, NaN if there is one."""
        return self._extremes[1]

    def astype(self, dtype, copy=False):
        """The matrix in another dtype, on the device; itself if it has that."""
        if self.dtype == dtype and not copy:
            return self
        target = empty(self.size, dtype)
        _run(cuda_copies.convert, self.array.reshape(-1), target)
        return DeviceMatrix(target.reshape(*self.shape))

    def __getitem__(self, rows):
        """Rows of it: a view for a slice, else copied on the device."""
        if isinstance(rows, slice):
            return DeviceMatrix(self.array[rows])
        rows = np.arange(self.shape[0])[rows]  # or IndexError
        shape = len(rows), self.shape[1]
        if 0 in shape:
            return DeviceMatrix(cuda.device_array(shape, self.dtype))
        target = empty(shape[0] * shape[1], self.dtype)
        _run(cuda_copies.gather, self.array, upload(rows), target)
        return DeviceMatrix(target.reshape(*shape))


def _packed(shape, strides, itemsize):
    """Whether elements follow on each other, row by row."""
    for n, step in zip(reversed(shape), reversed(strides), strict=True):
        if n > 1 and step != itemsize:
            return False
        itemsize *= n
    return True


def _run(kernel, *arrays):
    """A kernel whose threads share the elements, to its end."""
    with DEVICE:
        kernel[BLOCKS, THREADS](*arrays)
        cuda.synchronize()


def device_matrix(given):
    """An array of the user where it lies on the device, of any shape and dtype.

    Parameters
    ----------
    given : array
        With ``__cuda_array_interface__`` or ``__dlpack__``, or the simulator's; it is kept alive.

    Returns
    -------
    DeviceMatrix

    Raises
    ------
    ValueError
        If it cannot be read here: it is masked, on another device, or only seems to be on one.
    """
    if isinstance(given, DeviceMatrix):
        return given
    if SIMULATED and getattr(given, "__cuda_ndarray__", False):
        return DeviceMatrix(given)
    if hasattr(given, "__cuda_array_interface__"):
        owner, interface = given, dict(given.__cuda_array_interface__)
    else:
        owner = _capsule_of(given)
        interface = interface_of(owner)
    if getattr(given, "__cuda_ndarray__", False):  # numba does not tell of strides that are 0
        interface["strides"] = tuple(given.strides)
    if interface.get("mask") is not None:
        raise ValueError("a masked array on a CUDA device cannot be read; fill in what is masked.")
    if any(step < 0 for step in interface.get("strides") or ()):
        raise ValueError("an array on a CUDA device has negative strides; make it C-contiguous.")
    with DEVICE:
        cuda.synchronize()  # whichever stream writes to it: not every interface says which
        return DeviceMatrix(_view(interface, owner))


def copy_to_host(given):
    """An array of the user as a NumPy array, copied from the device."""
    array = device_matrix(given).array
    with DEVICE:
        return array.copy_to_host()


def _capsule_of(given):
    """The DLPack capsule of an array, once it may be read in the default stream."""
    try:
        return given.__dlpack__(stream=_STREAM)
    except Exception as error:  # whatever its library raises where it has no dense array to give
        name = f"{type(given).__module__}.{type(given).__qualname__}"
        raise ValueError(
            f"{name} lies on a CUDA device, but __dlpack__ does not hand it out: {error}"
        ) from error


def _view(interface, owner):
    """A numba array of the memory that an interface describes, which keeps its owner alive."""
    address, shape = interface["data"][0], tuple(interface["shape"])
    dtype, strides = np.dtype(interface["typestr"]), interface.get("strides")
    if 0 in shape:
        return cuda.device_array(shape, dtype)
    if strides and _packed(shape, strides, dtype.itemsize):
        strides = None  # numba goes by those of one row, too
    interface = {**interface, "strides": strides, "stream": None}
    if SIMULATED:  # its devices have the memory of the host
        described = SimpleNamespace(__array_interface__=interface, owner=owner)
        return type(cuda.device_array(1))(np.asarray(described))
    here, there = int(cuda.current_context().device.id), ctypes.c_int(-1)
    ask = ctypes.CDLL(CUDA_DRIVER).cuPointerGetAttribute
    failed = ask(ctypes.byref(there), _DEVICE_ORDINAL, ctypes.c_uint64(address))
    if failed or there.value != here:  # to read it all the same would be the end of the context
        where = "no memory of CUDA" if failed else f"memory of CUDA device {there.value}"
        raise ValueError(
            f"an array says that it lies on a CUDA device, but it is {where}, and kernels run on "
            f"device {here}. Copy it there, or choose its device by numba.cuda.select_device."
        )
    return cuda.from_cuda_array_interface(interface, owner=owner)
