"""The random words of dropout, noise and augmentation in Python, for all who compile Python.

``hl_draw`` in abi.h says what they are. The functions run as they stand, on numbers of NumPy or
Python, and :func:`compiled` makes those of another backend of them, on the processor or on a
graphics card. Words and counters have 32 bits but are kept in uint64, in which no product of two
and no sum overflows. Imports no compiler: whoever has one brings it.
"""

from types import FunctionType

import numpy as np

_HALF = np.uint64(32)
_LOWER = np.uint64(0xFFFFFFFF)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_ROUNDS = 10


def block(seed, step, op, row, column_block):
    """The words of columns 4 * column_block .. + 3 of a row: four uint64 below 2**32.

    A round is
    c0, c1, c2, c3 = high(M1 c2) ^ c1 ^ k0, low(M1 c2), high(M0 c0) ^ c3 ^ k1, low(M0 c0).
    """
    k0, k1 = np.uint64(seed) & _LOWER, np.uint64(seed) >> _HALF
    c0, c1 = np.uint64(column_block) & _LOWER, np.uint64(row) & _LOWER
    c2, c3 = np.uint64(op) & _LOWER, np.uint64(step) & _LOWER
    for _ in range(_ROUNDS):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOWER
        c2, c3 = (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOWER
        k0, k1 = (k0 + _W0) & _LOWER, (k1 + _W1) & _LOWER
    return c0, c1, c2, c3


def uniform32(word):
    """A word as a number in [0, 1), float32."""
    return np.float32(word >> np.uint64(8)) * np.float32(2.0**-24)


def uniform64(word):
    """A word as a number in [0, 1), float64."""
    return np.float64(word) * np.float64(2.0**-32)


def threshold(rate):
    """The word from which on a value is kept, if it is dropped at a rate in [0, 1): for plans."""
    if not 0 <= rate < 1:
        raise ValueError(f"a rate of dropout must be in [0, 1), got {rate!r}")
    return min(round(rate * 2**32), 2**32 - 1)


def compiled(jit):
    """`block`, `uniform32` and `uniform64`, each compiled by `jit`: numba's, for some device."""
    return tuple(
        jit(FunctionType(function.__code__, globals(), function.__name__))
        for function in (block, uniform32, uniform64)
    )
