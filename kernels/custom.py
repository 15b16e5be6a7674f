"""The user's activations and losses: compiled by numba to pointers that kernels call, and judged.

A function of single numbers becomes a loop over many, in the dtype that is computed with, so that
LLVM makes vectors of it.
"""

import ctypes
import dis
import inspect
import re
from functools import lru_cache
from operator import ipow, pow
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numba import cfunc, njit, types
from numba.core import ir
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import FunctionPass, register_pass
from numba.core.dispatcher import Dispatcher
from numba.core.untyped_passes import IRProcessing

from . import elementwise
from .elementwise import INLINED

#: Names of what a complex step cannot go through: it would lose the imaginary part, or change what
#: is computed.
NOT_ANALYTIC = frozenset(
    {
        *("abs", "absolute", "fabs", "max", "maximum", "fmax", "min", "minimum", "fmin"),
        *("sign", "copysign", "where", "heaviside", "clip", "select", "real", "imag", "conj"),
        *("floor", "ceil", "round", "rint", "trunc", "isnan", "isfinite", "isinf", "float"),
        *("hypot", "fmod", "mod", "remainder", "argmax", "argmin", "sort"),
    }
)
#: Of a function, by its kind: of z, or of y and z.
N_ARGUMENTS = {"activation": 1, "loss": 2}
#: Where an activation is tried, and a loss beside each of some targets.
POINTS = np.concatenate([[0.0], *(s * np.geomspace(1e-3, 20, 24) * 1.01 for s in (-1, 1))])
#: Where derivatives are compared besides, if the function is finite there: far out, a complex step
#: may have overflown where the function has not.
FAR = np.array([-1000.0, -200.0, -50.0, 50.0, 200.0, 1000.0])
#: Of differences, relative to z or 1: where truncation and rounding are about even.
_STEP = np.finfo(np.float64).eps ** (1 / 3)
#: How far a derivative may be from differences.
RELATIVE_ERROR = 1e-3


class Compiled(NamedTuple):
    """Addresses for an ``hl_function`` (abi.h), and what keeps them alive."""

    pointers: tuple[int, int, int]
    derivative: str  # "given", "by complex steps" or "by differences"
    kept: tuple[Any, ...]


# ------------------------------------------------------------------------ compilation


@register_pass(mutates_CFG=False, analysis_only=False)
class _NarrowConstants(FunctionPass):
    """Makes constants float32, as an array's dtype would: Python's own would have all that they
    meet computed in float64. Integers stay where they count something or are an exponent.
    """

    _name = "narrow_constants"

    def __init__(self):
        FunctionPass.__init__(self)

    def run_pass(self, state):
        """Whether anything was changed."""
        kept, changed = set(), False
        statements = [s for block in state.func_ir.blocks.values() for s in block.body]
        for statement in statements:
            if isinstance(statement, ir.Assign) and isinstance(statement.value, ir.Expr):
                kept |= _counting(statement.value, state.func_ir)
        for statement in statements:
            if not isinstance(statement, ir.Assign):
                continue
            value = statement.value
            if isinstance(value, ir.Const | ir.Global | ir.FreeVar) and (
                (type(value.value) is float and _fits(value.value))
                or (type(value.value) is int and statement.target.name not in kept)
            ):
                value.value = np.float32(value.value)
                changed = True
        return changed


def _fits(number):
    """Whether a number is one of float32's range."""
    limits = np.finfo(np.float32)
    return number == 0 or limits.tiny <= abs(number) <= limits.max or not np.isfinite(number)


def _counting(expression, function_ir):
    """Names of variables that an expression takes for integers."""
    if expression.op in ("binop", "inplace_binop"):
        return {expression.rhs.name} if expression.fn in (pow, ipow) else set()
    if expression.op == "call":
        callee = _constant(expression.func, function_ir)
        if getattr(callee, "__name__", "") in ("max", "min", "maximum", "minimum", "where"):
            return set()
        return {argument.name for argument in expression.args}
    if expression.op in ("unary", "phi", "cast"):
        return set()
    return {variable.name for variable in expression.list_vars()}


def _constant(variable, function_ir):
    """What a variable is known to be, or None."""
    try:
        return function_ir.infer_constant(variable)
    except Exception:  # numba has no error of its own for it that is public
        return None


class _NarrowCompiler(CompilerBase):
    """numba's own, with float32 constants."""

    def define_pipelines(self):
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_NarrowConstants, IRProcessing)
        passes.finalize()
        return [passes]


def source_of(function, kind):
    """The Python function to compile, of as many arguments as its kind has: what a numba dispatcher
    was made of; or one that calls a builtin, a ufunc, or a function with defaults.
    """
    source = function.py_func if isinstance(function, Dispatcher) else function
    if isinstance(source, FunctionType):
        if source.__code__.co_argcount == N_ARGUMENTS[kind]:
            return source
        function = njit(source, **INLINED)
    return (lambda y, z: function(y, z)) if kind == "loss" else (lambda z: function(z))


@lru_cache(maxsize=256)
def jitted(function, kind, dtype):
    """A function compiled when first called, with constants of the dtype it is called with where
    they can be: some count, in ways that only a compiler finds out.
    """
    source = source_of(function, kind)
    if dtype == "float32":
        narrow = njit(source, **INLINED, pipeline_class=_NarrowCompiler)
        try:
            narrow.compile((types.float32,) * N_ARGUMENTS[kind])
        except Exception:
            return njit(source, **INLINED)
        return narrow
    return njit(source, **INLINED)


@lru_cache(maxsize=256)
def derivative_of(function, dtype):
    """The derivative by z, to be called from compiled code, and where it is from: the user, complex
    steps (exact to rounding), or central differences (to ten digits).

    References
    ----------
    Squire and Trapp (1998), "Using complex variables to estimate derivatives of real functions",
    SIAM Review 40(1).
    """
    if function.derivative is not None:
        return jitted(function.derivative, function.kind, dtype), "given"
    if analytic(source_of(function.value, function.kind)):
        step = _complex_step(function)
        if _agrees(step, function):
            return step, "by complex steps"
    return _difference(function), "by differences"


def _complex_step(function):
    f, step = jitted(function.value, function.kind, "float64"), 1e-20

    def derivative(z):
        return f(complex(z, step)).imag / step

    def derivative_of_loss(y, z):
        return f(y, complex(z, step)).imag / step

    return njit(derivative_of_loss if function.kind == "loss" else derivative, **INLINED)


def _difference(function):
    f, width = jitted(function.value, function.kind, "float64"), _STEP

    def difference(z):
        h = width * max(1.0, abs(z))
        above, below = z + h, z - h
        return (f(above) - f(below)) / (above - below)

    def difference_of_loss(y, z):
        h = width * max(1.0, abs(z))
        above, below = z + h, z - h
        return (f(y, above) - f(y, below)) / (above - below)

    return njit(difference_of_loss if function.kind == "loss" else difference, **INLINED)


def _agrees(derivative, function):
    """Whether complex steps are right where they are tried, far out, too: what is called may lose
    the imaginary part, as a power of three and more does, or overflow.
    """
    z = np.concatenate([POINTS, FAR])
    y = np.zeros(z.size)
    if function.kind == "loss":
        y, z = (grid.ravel() for grid in np.meshgrid([0.0, 1.0, 10.0], z))
    try:
        slopes = np.array([_at(derivative, function, y[k], z[k]) for k in range(z.size)])
    except Exception:  # it has no complex form, or divides by zero
        return False
    return not _apart(function, y, z, slopes)[0].any()


def analytic(function):
    """Whether nothing to be seen in a function's code, or in that of functions it calls, stands in
    the way of a complex step: comparisons, branches, abs, max and the like.
    """
    for part in _reached(function):
        for instruction in dis.get_instructions(part):
            if instruction.opname == "COMPARE_OP" or "JUMP_IF" in instruction.opname:
                return False
        if NOT_ANALYTIC & set(part.__code__.co_names):
            return False
    return True


def raises(function):
    """Whether a function, or one that it calls, has a statement that raises."""
    return any(
        instruction.opname == "RAISE_VARARGS"
        for part in _reached(function)
        for instruction in dis.get_instructions(part)
    )


def _reached(function):
    """A Python function and those that it calls by name, but for our own."""
    found, left = [], [function]
    while left:
        part = left.pop()
        part = part.py_func if isinstance(part, Dispatcher) else part
        own = getattr(part, "__module__", None) == elementwise.__name__
        if isinstance(part, FunctionType) and not own and part not in found:
            found.append(part)
            names = inspect.getclosurevars(part)
            left += [*names.globals.values(), *names.nonlocals.values()]
    return found


@lru_cache(maxsize=256)
def compiled(function, dtype):
    """Pointers to loops over a function of the user.

    Parameters
    ----------
    function : hotloop.spec.Function
        Its value and derivative are of z (an activation), or of y and z (a loss).
    dtype : {"float32", "float64"}
        Of the arrays that the loops go over.

    Returns
    -------
    Compiled
    """
    real, cast = getattr(types, dtype), getattr(np, dtype)
    value = jitted(function.value, function.kind, dtype)
    derivative, how = derivative_of(function, dtype)
    array, size = types.CPointer(real), types.intp
    if function.kind == "loss":

        def loss(y, z, row_loss, n):
            for i in range(n):
                at = z[i]
                row_loss[i] = cast(value(y[i], at))
                z[i] = cast(derivative(y[i], at))

        pointer = cfunc(types.void(array, array, array, size))(loss)
        return Compiled((0, 0, pointer.address), how, (pointer,))

    def activate(z, n):
        for i in range(n):
            z[i] = cast(value(z[i]))

    def activate_and_slope(z, slope, n):
        for i in range(n):
            at = z[i]
            z[i] = cast(value(at))
            slope[i] = cast(derivative(at))

    alone = cfunc(types.void(array, size))(activate)
    both = cfunc(types.void(array, array, size))(activate_and_slope)
    return Compiled((alone.address, both.address, 0), how, (alone, both))


def evaluate(function, dtype, y, z):
    """Values and derivatives of a compiled function at points z, of a loss beside targets y."""
    _, activate, loss = compiled(function, dtype).pointers
    values, slopes = z.astype(dtype), np.empty(z.shape, dtype)
    places, count = [array.ctypes.data for array in (values, slopes)], ctypes.c_ssize_t(z.size)
    kinds = [ctypes.c_void_p] * (3 if loss else 2)
    call = ctypes.CFUNCTYPE(None, *kinds, ctypes.c_ssize_t)(loss or activate)
    if loss:
        targets = y.astype(dtype)
        call(targets.ctypes.data, *places, count)
        return slopes, values
    call(*places, count)
    return values, slopes


# --------------------------------------------------------------------------- judgement


@lru_cache(maxsize=256)
def judge(function, dtype, targets=()):
    """Compiles a function and tries it.

    Parameters
    ----------
    function : hotloop.spec.Function
    dtype : {"float32", "float64"}
    targets : tuple of float, default=()
        Some targets, for a loss.

    Returns
    -------
    str
        Where its derivative is from, see :class:`Compiled`.

    Raises
    ------
    ValueError
        If numba cannot compile it, if it is NaN somewhere it is tried, or if its derivative is not
        that of its value.
    """
    what = f"{function.kind}={function.name}"
    _require_compilable(function, what)
    try:
        how = compiled(function, dtype).derivative
    except Exception as error:
        raise ValueError(f"{what} cannot be compiled by numba: {_first_words(error)}") from error
    y, z = np.zeros(POINTS.size), POINTS.astype(dtype).astype(np.float64)
    if function.kind == "loss":
        y, z = (grid.ravel() for grid in np.meshgrid(np.array(targets), z))
    near = z.size
    y, z = _with_far(function, y, z, targets)
    values, slopes = evaluate(function, dtype, y, z)
    for name, found in (("value", values), ("derivative", slopes)):
        wrong = np.flatnonzero(np.isnan(found[:near]))
        if wrong.size:
            raise ValueError(
                f"the {name} of {what} is NaN at {_point(function, y, z, wrong[0])}. It must be a "
                "number wherever training may go: bound what it divides by or takes the root or "
                "logarithm of."
            )
    apart, expected = _apart(function, y, z, slopes)
    wrong = np.flatnonzero(apart & np.isfinite(slopes))
    if wrong.size:
        at = wrong[0]
        raise ValueError(
            f"the derivative of {what} is {slopes[at]:.6g} at {_point(function, y, z, at)}, but "
            f"differences of its value say {expected[at]:.6g}. Mend the "
            "derivative, or leave it out: it is computed then."
        )
    return how


def _require_compilable(function, what):
    """Value and given derivative compile for float64, return real numbers and raise nothing."""
    n_arguments = N_ARGUMENTS[function.kind]
    for name in ("value", "derivative"):
        part = getattr(function, name)
        if part is None:
            continue
        if raises(source_of(part, function.kind)):
            raise ValueError(
                f"the {name} of {what} raises or asserts: it runs where no error can be passed on. "
                "Return a number for every input."
            )
        signature = (types.float64,) * n_arguments
        try:
            f = jitted(part, function.kind, "float64")
            f.compile(signature)
            returned = f.overloads[signature].signature.return_type
        except Exception as error:
            raise ValueError(
                f"the {name} of {what} cannot be compiled by numba as a function of "
                f"{n_arguments} number{'s' * (n_arguments > 1)}: {_first_words(error)} Write it "
                "with arithmetic, the functions of math, and exp, log, tanh and erf of "
                "hotloop.elementwise, which are the fastest."
            ) from error
        if not isinstance(returned, types.Float | types.Integer | types.Boolean):
            raise ValueError(f"the {name} of {what} must return a real number, not {returned}.")


def _with_far(function, y, z, targets):
    """More points: far out, and for a loss around its targets."""
    if function.kind != "loss":
        return np.zeros(z.size + FAR.size), np.concatenate([z, FAR])
    targets = np.array(targets)
    around, steps = (grid.ravel() for grid in np.meshgrid(targets, np.concatenate([POINTS, FAR])))
    return np.concatenate([y, around]), np.concatenate([z, around + steps])


def _apart(function, y, z, slopes):
    """Where derivatives are not those of the value, as far as differences can tell, and these."""
    expected, known = _differences(function, y, z)
    scale = min(1.0, np.abs(expected[known]).max(initial=0.0))
    close = np.abs(slopes - expected) <= RELATIVE_ERROR * (scale + np.abs(expected))
    return known & ~close, expected


def _at(f, function, y, z):
    """What a compiled part of a function is at a point."""
    return f(y, z) if function.kind == "loss" else f(z)


def _differences(function, y, z):
    """Central differences, and where they are known: not beside a kink, in noise, at infinity."""
    f = jitted(function.value, function.kind, "float64")
    expected, known = np.empty(z.shape), np.empty(z.shape, bool)
    with np.errstate(all="ignore"):
        for k in range(z.size):
            h = 1e-5 * max(1.0, abs(z[k]))
            places = np.array([z[k] - h, z[k], z[k] + h, z[k] - 2 * h, z[k] + 2 * h])
            below, at, above, lower, upper = (
                np.float64(_at(f, function, y[k], place)) for place in places
            )
            left, right = (at - below) / h, (above - at) / h
            expected[k] = (left + right) / 2
            wider = (upper - lower) / (4 * h)
            noise = 16 * np.finfo(np.float64).eps * max(abs(at), abs(z[k] * expected[k])) / h
            known[k] = (
                np.isfinite(expected[k])
                and abs(left - right) < 1e-2 * (abs(left) + abs(right) + 1e-9)
                and abs(wider - expected[k]) < 1e-4 * (abs(expected[k]) + 1e-9)
                and noise < 1e-4 * (abs(expected[k]) + 1e-9)
            )
    return expected, known


def _point(function, y, z, k):
    """A point for a message."""
    return f"y = {y[k]:g}, z = {z[k]:g}" if function.kind == "loss" else f"z = {z[k]:g}"


def _first_words(error):
    """What numba has to say, without its pages of advice."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # colours
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Failed in", "File ", "During:"))]
    words = (told or lines or [type(error).__name__])[0]
    return words if words.endswith(".") else words + "."
