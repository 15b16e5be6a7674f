"""Numbers that know how far a float32 or float64 computation of them may be off.

Running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, section 3.3):
every operation adds the error it may commit itself, u times its result, to the errors its
operands bring along. A dot product of K terms commits (K + 1) u sum |a||b| in any order, with
or without fma (section 3.1). Run on :class:`Bounded` numbers, the formulas of :mod:`oracle`
so give the float64 reference and, element by element, the bound a correct kernel keeps.

u is the machine epsilon, twice the unit roundoff: the factor pays for second-order terms.
"""

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from scipy.special import expit, xlogy

#: Units in the last place an elementary function (exp, tanh, ...) may be off.
FUNCTION_ULPS = 4


class Bounded(NDArrayOperatorsMixin):
    """Float64 values and a bound on the error of computing them in ``dtype``."""

    def __init__(self, value, error, dtype):
        self.value = np.asarray(value, dtype=np.float64)
        self.error = np.broadcast_to(np.asarray(error, dtype=np.float64), self.value.shape)
        self.dtype = np.dtype(dtype)

    @classmethod
    def rounded(cls, value, dtype):
        """An input: its only error is that of writing it down in ``dtype``."""
        value = np.asarray(value, dtype=np.float64)
        with np.errstate(over="ignore"):
            return cls(value, np.abs(value - value.astype(dtype)), dtype)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if method != "__call__" or kwargs or ufunc not in RULES:
            return NotImplemented
        operands = [x if isinstance(x, Bounded) else Bounded.rounded(x, self.dtype) for x in inputs]
        with np.errstate(all="ignore"):
            value, error = RULES[ufunc](np.finfo(self.dtype).eps, *operands)
            error = np.where(np.isnan(error), np.inf, error)
        underflow = 0 if ufunc in EXACT else np.finfo(self.dtype).tiny
        return Bounded(value, error + underflow, self.dtype)

    def sum(self, axis=None, **kwargs):
        n = self.value.size if axis is None else self.value.shape[axis]
        own = n * np.finfo(self.dtype).eps * np.abs(self.value)
        value = self.value.sum(axis=axis, **kwargs)
        return Bounded(value, (self.error + own).sum(axis=axis, **kwargs), self.dtype)

    def max(self, **kwargs):
        return Bounded(self.value.max(**kwargs), self.error.max(**kwargs), self.dtype)

    def clip(self, low, high):
        return Bounded(self.value.clip(low, high), self.error, self.dtype)

    def through(self, step):
        """Of a function that does not fall and commits no error, however it jumps."""
        value = step(self.value)
        up, down = step(self.value + self.error) - value, value - step(self.value - self.error)
        return Bounded(value, np.maximum(up, down), self.dtype)

    def __getitem__(self, index):
        return Bounded(self.value[index], self.error[index], self.dtype)

    def __len__(self):
        return len(self.value)

    @property
    def T(self):
        return Bounded(self.value.T, self.error.T, self.dtype)

    @property
    def shape(self):
        return self.value.shape

    def change_from(self, start):
        """The difference to exact numbers; the subtraction itself commits no error."""
        return Bounded(self.value - start, self.error, self.dtype)

    @property
    def conclusive(self):
        """Whether the bound is small beside the values, so that a wrong result cannot pass."""
        return np.linalg.norm(self.error) <= 0.1 * np.linalg.norm(self.value)


def _add(u, a, b):
    value = a.value + b.value
    return value, a.error + b.error + u * np.abs(value)


def _subtract(u, a, b):
    value = a.value - b.value
    return value, a.error + b.error + u * np.abs(value)


def _multiply(u, a, b):
    value = a.value * b.value
    carried = a.error * np.abs(b.value) + np.abs(a.value) * b.error + a.error * b.error
    return value, carried + u * np.abs(value)


def _divide(u, a, b):
    value = a.value / b.value
    room = np.abs(b.value) - b.error
    carried = np.where(room > 0, (a.error + np.abs(value) * b.error) / room, np.inf)
    return value, carried + u * np.abs(value)


def _matmul(u, a, b):
    A, B = np.abs(a.value), np.abs(b.value)
    carried = a.error @ B + A @ b.error + a.error @ b.error
    return a.value @ b.value, carried + (A.shape[1] + 1) * u * (A @ B)


def _power(u, a, n):
    assert n.value == 2, "only squares are needed"
    return _multiply(u, a, a)


def _maximum(u, a, floor):
    value = np.maximum(a.value, floor.value)
    return value, np.where(a.value + a.error < floor.value, 0, a.error)


def _greater(u, a, floor):
    """0 or 1; where the sign is uncertain, either may be right."""
    gap = a.value - floor.value
    return (gap > 0).astype(float), ((np.abs(gap) <= a.error) & (a.error > 0)).astype(float)


def _exp(u, a):
    value = np.exp(a.value)
    return value, value * (np.expm1(a.error) + FUNCTION_ULPS * u)


def _expit(u, a):
    value = expit(a.value)
    return value, value * (expit(-a.value) * np.expm1(a.error) + FUNCTION_ULPS * u)


def _tanh(u, a):
    value = np.tanh(a.value)
    carried = (1 - value**2) * np.expm1(2 * a.error) / 2
    return value, carried + FUNCTION_ULPS * u * np.abs(value)


def _sqrt(u, a):
    value = np.sqrt(a.value)
    up = np.sqrt(a.value + a.error) - value
    down = value - np.sqrt(np.maximum(a.value - a.error, 0))
    return value, np.maximum(up, down) + u * value


def _xlogy(u, y, p):
    value = xlogy(y.value, p.value)
    relative = -np.log1p(-np.minimum(p.error / p.value, 1))
    carried = np.where(y.value == 0, 0, np.abs(y.value) * relative)
    return value, carried + FUNCTION_ULPS * u * np.abs(value)


RULES = {
    np.add: _add,
    np.subtract: _subtract,
    np.multiply: _multiply,
    np.divide: _divide,
    np.matmul: _matmul,
    np.power: _power,
    np.maximum: _maximum,
    np.greater: _greater,
    np.exp: _exp,
    expit: _expit,
    np.tanh: _tanh,
    np.sqrt: _sqrt,
    xlogy: _xlogy,
    np.negative: lambda u, a: (-a.value, a.error),
}

#: Operations that round nothing.
EXACT = (np.maximum, np.greater, np.negative)


def assert_within(actual, reference, what="result"):
    """Fail unless every element of ``actual`` lies within the reference's own bound.

    Fails too where the reference is too small beside the bound to tell right from wrong
    (an all-zero result would pass there), on another shape, and on NaN or infinity.
    """
    actual = np.asarray(actual)
    assert actual.shape == reference.shape, (
        f"{what}: shape {actual.shape}, expected {reference.shape}"
    )
    assert np.isfinite(actual).all(), f"{what}: not finite"
    assert reference.conclusive, (
        f"{what}: the bound {np.linalg.norm(reference.error):.2g} says nothing about values of "
        f"norm {np.linalg.norm(reference.value):.2g}; choose other data"
    )
    off = np.abs(actual.astype(np.float64) - reference.value)
    if not (off <= reference.error).all():
        ratio = np.atleast_1d(off / reference.error)
        worst = np.unravel_index(np.argmax(ratio), ratio.shape)
        raise AssertionError(
            f"{what}: {np.count_nonzero(off > reference.error)} of {off.size} elements are out "
            f"of bounds, the worst at {tuple(int(i) for i in worst)}: "
            f"{np.atleast_1d(actual)[worst]!r}, expected "
            f"{np.atleast_1d(reference.value)[worst]!r}, off by {ratio[worst]:.3g} times the bound"
        )
