"""Activations of hidden units and their derivatives, for all who compile Python: numba, CUDA.

In double precision, whatever they are called for; `vmath.h` has the same on vectors. At a kink a
derivative is the one that PyTorch takes. The functions run as they stand, and :func:`compiled`
makes those of another backend of them. Imports no compiler: whoever has one brings it.
"""

from collections import namedtuple
from math import erfc, exp, expm1, log1p, pi, sqrt, tanh
from types import FunctionType
from typing import Any

from . import ACTIVATIONS

_KIND: Any = namedtuple("_KIND", ACTIVATIONS)(**ACTIVATIONS)
#: Of selu: what it multiplies, and what the exponential of a negative number besides.
_SCALE, _BELOW = 1.0507009873554804934, 1.7580993408473768599
#: Of gelu_tanh, whose gate is the logistic function of root * (z + cubic * z ** 3).
_ROOT, _CUBIC = sqrt(8 / pi), 0.044715
_SQRT_HALF, _SQRT_2_PI = sqrt(0.5), sqrt(2 * pi)


def bounded(z, low, high):
    """The number between two others that is nearest to z."""
    if z < low:
        return low
    return high if z > high else z


def logistic(z):
    """1 / (1 + e^-z), from e^-|z| so that both tails keep their relative accuracy."""
    e = exp(-abs(z))
    return (1.0 if z >= 0 else e) / (1 + e)


def gated(z, x, dx):
    """Z times the logistic function of x, and its derivative, where x has the derivative dx."""
    gate = logistic(x)
    return z * gate, gate + z * (gate * logistic(-x)) * dx


def gelu_tanh(z):
    """Z (1 + tanh(..)) / 2; far out it is 0 or z."""
    near = bounded(z, -32.0, 32.0)
    square = _CUBIC * near * near
    return gated(z, _ROOT * near * (1 + square), _ROOT * (1 + 3 * square))


def mish(z):
    """Z tanh(log(1 + e^z)), the tanh being upper / (upper + rest)."""
    e = exp(-abs(z))
    upper, rest = (e * (e + 2), 2.0) if z < 0 else (1 + 2 * e, 2 * e * e)
    both = upper + rest
    slope = z * (rest / both) * ((both + upper) / both) * logistic(z)
    return z * (upper / both), upper / both + slope


def straight(activation, z):
    """What has no exponential."""
    if activation == _KIND.relu:
        return (z, 1.0) if z > 0 else (0.0, 0.0)
    if activation == _KIND.leaky_relu:
        return (z, 1.0) if z > 0 else (0.01 * z, 0.01)
    if activation == _KIND.softsign:
        return z / (1 + abs(z)), 1 / (1 + abs(z)) ** 2
    gate, outside = bounded(z + 3, 0.0, 6.0) / 6, 1.0 if z > 0 else 0.0
    if activation == _KIND.hard_sigmoid:
        return gate, 1 / 6 if abs(z) < 3 else 0.0
    if activation == _KIND.hard_swish:
        return z * gate, z / 3 + 0.5 if abs(z) < 3 else outside
    return z, 1.0


def value_and_slope(activation, z):
    """An activation of z, a float64, and its derivative, by the number it has; of what is no number
    both are none. Not for softmax, nor for functions of the user.
    """
    if z != z:
        return z, z
    if activation == _KIND.logistic:
        return logistic(z), logistic(z) * logistic(-z)
    if activation == _KIND.tanh:
        return tanh(z), 1 - tanh(z) ** 2
    if activation == _KIND.elu:
        return (z, 1.0) if z > 0 else (expm1(z), exp(z))
    if activation == _KIND.selu:
        return (_SCALE * z, _SCALE) if z > 0 else (_BELOW * expm1(z), _BELOW * exp(z))
    if activation == _KIND.gelu:
        phi = erfc(-z * _SQRT_HALF) / 2
        return z * phi, phi + z * exp(-0.5 * z * z) / _SQRT_2_PI
    if activation == _KIND.gelu_tanh:
        return gelu_tanh(z)
    if activation == _KIND.silu:
        return gated(z, z, 1.0)
    if activation == _KIND.mish:
        return mish(z)
    if activation == _KIND.softplus:
        return bounded(z, 0.0, z) + log1p(exp(-abs(z))), logistic(z)
    return straight(activation, z)


def compiled(jit):
    """`value_and_slope`, compiled by `jit`: numba's, for some device."""
    names = dict(globals())
    for function in (bounded, logistic, gated, gelu_tanh, mish, straight, value_and_slope):
        name = function.__name__
        names[name] = jit(FunctionType(function.__code__, names, name))
    return names["value_and_slope"]
