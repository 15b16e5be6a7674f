"""exp, log, tanh and erf for functions that numba compiles, as fast as the kernels' own.

numba's own calls into the C library cost 2 to 16 ns an element, since no loop over them is
vectorised. These are arithmetic alone, so that LLVM inlines them and makes vectors of the loop that
a function is called in; the same operations in every lane.
"""

import cmath
import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir as llvm
from numba import njit, types
from numba.extending import intrinsic, overload
from scipy.special import erf as _scipy_erf

#: No checks that raise, and no call that would keep a loop from becoming vectors.
INLINED = {"error_model": "numpy", "forceinline": True}

# ------------------------------------------------------------ exp, log, tanh and erf


def exp(x):
    """E to the power x, for numbers, NumPy arrays, and in functions that numba compiles."""
    return np.exp(x)


def log(x):
    """Natural logarithm; likewise."""
    return np.log(x)


def tanh(x):
    """Hyperbolic tangent; likewise."""
    return np.tanh(x)


def erf(x):
    """Error function, of real numbers; likewise."""
    return _scipy_erf(x)


@intrinsic(target="generic")
def _fma(typing, a, b, c):
    return a(a, a, a), lambda context, builder, signature, args: builder.fma(*args)


@intrinsic(target="generic")
def _bits(typing, x):
    integer = types.int32 if x == types.float32 else types.int64
    return integer(x), _bitcast


@intrinsic(target="generic")
def _number(typing, x):
    real = types.float32 if x == types.int32 else types.float64
    return real(x), _bitcast


def _bitcast(context, builder, signature, args):
    return builder.bitcast(args[0], context.get_value_type(signature.return_type))


def _polynomial(coefficients):
    """A function that evaluates a polynomial by Horner's scheme; the highest power comes first."""

    @intrinsic(target="generic")
    def evaluate(typing, x):
        def generate(context, builder, signature, args):
            kind = context.get_value_type(x)
            value = llvm.Constant(kind, coefficients[0])
            for coefficient in coefficients[1:]:
                value = builder.fma(value, args[0], llvm.Constant(kind, coefficient))
            return value

        return x(x), generate

    return evaluate


class _Format(NamedTuple):
    """What differs between the two floating-point formats; see vmath.h for what it is for."""

    real: Any
    integer: Any
    mantissa_bits: int
    bias: int
    magic: float  # adding it rounds to an integer
    ln2: tuple[str, str]  # high and low part
    exp_range: tuple[float, float]
    exp_terms: int
    sqrt_half: int  # bits of it
    log_series: tuple[str, ...]
    erf_small: tuple[float, ...]  # of erf(x) / x in x ** 2, for x ** 2 in [0, 1]
    erf_large: tuple[float, ...]  # of erfc(x) exp(x ** 2) in (x - 2) / (x + 2)
    erf_end: float  # from where on erf is 1


_FORMATS = {
    types.float32: _Format(
        np.float32,
        np.int32,
        23,
        127,
        1.5 * 2**23,
        ("0x1.63p-1", "-0x1.bd0106p-13"),
        (-105.0, 89.5),
        8,
        0x3F3504F3,
        ("0xf89e26.0p-26", "0x91e9ee.0p-25", "0xccce13.0p-25", "0xaaaaaa.0p-24"),
        (
            7.87587506e-05,
            -0.000801686429,
            0.00518908742,
            -0.026854212,
            0.112835947,
            -0.376126267,
            1.12837917,
        ),
        (
            -0.000944159634,
            -0.000836589974,
            0.00699485541,
            0.00373214135,
            -0.0789785233,
            0.241658211,
            -0.427185848,
            0.255395676,
        ),
        4.0,
    ),
    types.float64: _Format(
        np.float64,
        np.int64,
        52,
        1023,
        1.5 * 2**52,
        ("0x1.62e42feep-1", "0x1.a39ef35793c76p-33"),
        (-746.0, 710.0),
        14,
        0x3FE6A09E667F3BCD,
        (
            *("0x1.2f112df3e5244p-3", "0x1.39a09d078c69fp-3", "0x1.7466496cb03dep-3"),
            *("0x1.c71c51d8e78afp-3", "0x1.2492494229359p-2", "0x1.999999997fa04p-2"),
            "0x1.5555555555593p-1",
        ),
        (
            5.957176147748911e-11,
            -1.1372848856791674e-09,
            1.4659775274047436e-08,
            -1.6350312701054695e-07,
            1.6461000484121368e-06,
            -1.4925595266831182e-05,
            0.0001205533111164271,
            -0.000854832698083379,
            0.0052239776248180145,
            -0.026866170645076792,
            0.11283791670954879,
            -0.3761263890318375,
            1.1283791670955126,
        ),
        (
            -1.1352571477273627e-06,
            1.272567661840228e-06,
            4.011749647325067e-06,
            1.3058577122278017e-06,
            -1.3998283772784976e-05,
            -2.7562209161129353e-05,
            2.7527175557227246e-05,
            0.00017435947400205157,
            4.355558686575482e-05,
            -0.0009819769411038642,
            -0.00084714325299195,
            0.006997461736971578,
            0.0037328924043978336,
            -0.07897858101570611,
            0.24165819424246585,
            -0.4271858474139585,
            0.25539567631050575,
        ),
        6.0,
    ),
}


def _exp_in(f):
    """e^x = 2^n e^r, as v_exp in vmath.h."""
    real, integer, shift = f.real, f.integer, f.integer(f.mantissa_bits)
    magic, bias, half, inverse = real(f.magic), integer(f.bias), real(0.5), real(1 / math.log(2))
    high, low = (real(-float.fromhex(part)) for part in f.ln2)
    smallest, largest = map(real, f.exp_range)
    series = _polynomial([1 / math.factorial(k) for k in reversed(range(f.exp_terms))])

    def exp_of(x):
        bound = max(smallest, min(largest, x))
        n = _fma(bound, inverse, magic) - magic
        r = _fma(n, low, _fma(n, high, bound))
        first = _fma(n, half, magic)
        rest = n - (first - magic) + magic
        power = _number(integer((_bits(first) + bias) << shift))
        value = series(r) * power * _number(integer((_bits(rest) + bias) << shift))
        return x if x != x else value

    return exp_of


def _log_in(f):
    """Log x = k ln 2 + log m, as v_log in vmath.h; here of any number."""
    real, integer, shift = f.real, f.integer, f.integer(f.mantissa_bits)
    one, two, half = real(1), real(2), real(0.5)
    start, mask = integer(f.sqrt_half), integer(2**f.mantissa_bits - 1)
    high, low = (real(float.fromhex(part)) for part in f.ln2)
    tiny, scale, scaled = np.finfo(real).tiny, real(2.0**f.mantissa_bits), real(f.mantissa_bits)
    nan, infinity, zero = real(np.nan), real(np.inf), real(0)
    series = _polynomial([float.fromhex(c) for c in f.log_series])

    def log_of(x):
        subnormal = x < tiny
        normal = x * scale if subnormal else x
        parts = integer(_bits(normal) - start)
        k = real(integer(parts >> shift)) - (scaled if subnormal else zero)
        m = _number(integer(integer(parts & mask) + start)) - one
        s = m / (two + m)
        z = s * s
        half_square = half * m * m
        rest = _fma(s, z * series(z) + half_square, k * low)
        value = _fma(k, high, m - (half_square - rest))
        value = -infinity if x == zero else value
        return value if zero <= x < infinity else (x if x == infinity else nan)

    return log_of


def _tanh_in(f):
    """From e^2|x|, and near zero from a series of expm1: x - x^3 / 3 .. by its own polynomial."""
    real = f.real
    one, two, zero, edge = real(1), real(2), real(0), real(0.625)
    if real is np.float32:
        small = _polynomial(
            [
                -5.70498872745e-3,
                2.06390887954e-2,
                -5.37397155531e-2,
                1.33314422036e-1,
                -3.33332819422e-1,
            ]
        )

        def near_zero(x, z):
            return _fma(z * small(z), x, x)
    else:
        top = _polynomial(
            [-9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3]
        )
        bottom = _polynomial(
            [1.0, 1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3]
        )

        def near_zero(x, z):
            return _fma(x * z, top(z) / bottom(z), x)

    small_of, exp_of = njit(near_zero, **INLINED), njit(_exp_in(f), **INLINED)

    def tanh_of(x):
        size = abs(x)
        large = one - two / (exp_of(size + size) + one)
        large = -large if x < zero else large
        return small_of(x, x * x) if size < edge else large

    return tanh_of


def _erf_in(f):
    """X P(x^2) near zero, else 1 - e^-x^2 Q((x - 2) / (x + 2)), by Chebyshev fits."""
    real = f.real
    one, two, zero, end = real(1), real(2), real(0), real(f.erf_end)
    small, tail = _polynomial(f.erf_small), _polynomial(f.erf_large)
    exp_of = njit(_exp_in(f), **INLINED)

    def erf_of(x):
        size = min(abs(x), end)
        square = size * size
        t = (size - two) / (size + two)
        large = one - exp_of(-square) * tail(t)
        large = -large if x < zero else large
        value = x * small(square) if size < one else large
        return x if x != x else value

    return erf_of


def _provide(function, in_format, in_complex):
    """Has numba take our own function: in each format, for integers by float64, for complex
    numbers that of cmath (None: there is none).
    """
    bodies = {kind: in_format(parts) for kind, parts in _FORMATS.items()}

    @overload(function, target="generic", jit_options=INLINED)
    def chosen(x):
        if isinstance(x, types.Integer | types.Boolean):
            return lambda x: function(float(x))
        if isinstance(x, types.Complex) and in_complex is not None:
            return lambda x: in_complex(x)
        return bodies.get(x)


_provide(exp, _exp_in, cmath.exp)
_provide(log, _log_in, cmath.log)
_provide(tanh, _tanh_in, cmath.tanh)
_provide(erf, _erf_in, None)
