"""The random words of dropout, noise and augmentation in Python, for all who compile Python.

``hl_draw`` in abi.h says what they are. The functions run as they stand, on numbers of NumPy or
Python, and :func:`compiled` makes those of another backend of them, on the processor or on a
graphics card. Words and counters have 32 bits but are kept in uint64, in which no product of two
and no sum overflows. Imports no compiler: whoever has one brings it.
"""

from math import log, sqrt
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


def normal(word, bits):
    """A word as a standard normal number, float64, of its upper 32 (float64) or 23 (float32) bits.

    Wichura (1988), "Algorithm AS 241: The percentage points of the normal distribution", Applied
    Statistics 37(3): PPND16, whose third case no word of 32 bits reaches.
    """
    kept = np.float64(word >> np.uint64(32 - bits))
    q = (kept + 0.5) * (2.0**-32 if bits == 32 else 2.0**-23) - 0.5
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        above = 2.5090809287301226727e3 * r + 3.3430575583588128105e4
        above = (above * r + 6.7265770927008700853e4) * r + 4.5921953931549871457e4
        above = (above * r + 1.3731693765509461125e4) * r + 1.9715909503065514427e3
        above = (above * r + 1.3314166789178437745e2) * r + 3.3871328727963666080e0
        below = 5.2264952788528545610e3 * r + 2.8729085735721942674e4
        below = (below * r + 3.9307895800092710610e4) * r + 2.1213794301586595867e4
        below = (below * r + 5.3941960214247511077e3) * r + 6.8718700749205790830e2
        below = (below * r + 4.2313330701600911252e1) * r + 1.0
        return q * above / below
    r = sqrt(-log(0.5 - abs(q))) - 1.6
    above = 7.74545014278341407640e-4 * r + 2.27238449892691845833e-2
    above = (above * r + 2.41780725177450611770e-1) * r + 1.27045825245236838258e0
    above = (above * r + 3.64784832476320460504e0) * r + 5.76949722146069140550e0
    above = (above * r + 4.63033784615654529590e0) * r + 1.42343711074968357734e0
    below = 1.05075007164441684324e-9 * r + 5.47593808499534494600e-4
    below = (below * r + 1.51986665636164571966e-2) * r + 1.48103976427480074590e-1
    below = (below * r + 6.89767334985100004550e-1) * r + 1.67638483018380384940e0
    below = (below * r + 2.05319162663775882187e0) * r + 1.0
    return above / below if q > 0 else -above / below


def threshold(rate):
    """The word from which on a value is kept, if it is dropped at a rate in [0, 1): for plans."""
    if not 0 <= rate < 1:
        raise ValueError(f"a rate of dropout must be in [0, 1), got {rate!r}")
    return min(round(rate * 2**32), 2**32 - 1)


def compiled(jit):
    """`block`, `uniform32`, `uniform64` and `normal`, each compiled by `jit`: numba's, for some
    device.
    """
    return tuple(
        jit(FunctionType(function.__code__, globals(), function.__name__))
        for function in (block, uniform32, uniform64, normal)
    )
