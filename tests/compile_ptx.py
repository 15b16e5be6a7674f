"""Compiles the CUDA kernels to PTX, as for a GPU, where there is none; run by test_cuda.py.

    python tests/compile_ptx.py        prints a line for each kernel; needs numba-cuda and its NVVM

Exits with 77 where these are absent.
"""

import sys
from types import SimpleNamespace

import numpy as np

try:
    import numba_cuda  # noqa: F401
    from numba import cuda, typeof
    from numba.cuda import api, dispatcher
    from numba.cuda.cudadrv.nvvm import NVVM

    NVVM()
except Exception as error:
    print(f"no NVVM to compile with: {error!r}")
    sys.exit(77)

from hotloop.kernels import cuda_copies, cuda_ops, cuda_words

from hotloop import spec
from hotloop.elementwise import erf, exp, log, tanh

CC = (9, 0)
for module in (api, dispatcher):  # ask no driver for the device that code is to be for
    module.get_current_device = lambda: SimpleNamespace(compute_capability=CC)


def gelu(z):
    return 0.5 * z * (1 + erf(z / 1.4142135623730951)) + 0.0 * tanh(z)


def log_cosh(y, z):
    d = abs(z - y)
    return d + log(1 + exp(-2 * d))


def arguments(real):
    """Of the kernels, each array with as many dimensions as it has."""

    def array(n_dims, dtype):
        return np.zeros((1,) * n_dims, dtype)

    tables = cuda_words.Tables(array(2, np.int64), array(2, np.int64), array(2, np.float64))
    memory = cuda_words.Memory(
        array(1, real), array(1, real), array(1, np.int32), array(1, np.float64), array(1, real)
    )
    kinds = dict.fromkeys(cuda_words.Data._fields, np.int32)
    kinds |= dict.fromkeys(("X", "targets", "column_values"), real)
    kinds |= {"weights": np.float64, "indptr": np.int64, "column_starts": np.int64}
    data = cuda_words.Data(*(array(1, kinds[name]) for name in cuda_words.Data._fields))
    rest = array(2, np.int64), array(2, np.float64), array(1, np.int32), array(1, np.float64)
    return (tables, memory, data, *rest)


def compiled(kernel, arrays, *about):
    ptx, _ = cuda.compile_ptx(kernel.py_func, tuple(map(typeof, arrays)), cc=CC)
    assert ".visible .entry" in ptx
    print(kernel.py_func.__name__, *about, len(ptx), flush=True)


def main():
    custom = spec.Function("activation", gelu), spec.Function("loss", log_cosh)
    for functions in ((), custom):
        for real in (np.float32, np.float64):
            for kernel in cuda_ops.kernels_with(functions, np.dtype(real).name):
                compiled(kernel, arguments(real), np.dtype(real), len(functions))
    for real, other in ((np.float32, np.float64), (np.float64, np.float32)):
        values, rows = np.zeros(1, real), np.zeros(1, np.int64)
        compiled(cuda_copies.extremes, (values, values, values), np.dtype(real))
        compiled(cuda_copies.convert, (values, np.zeros(1, other)), np.dtype(real))
        compiled(cuda_copies.gather, (np.zeros((1, 1), real), rows, values), np.dtype(real))


if __name__ == "__main__":
    main()
