"""Batch and layer normalisation for numba on the CPU; norm.h has the formulas, and says why.

Compiled among the ops of `numba_cpu`, by whose names these functions go.
"""

from types import FunctionType
from typing import TYPE_CHECKING

from . import COLUMN_STATISTICS

if TYPE_CHECKING:
    from .numba_cpu import (
        activate,
        activate_custom,
        activate_with_slopes,
        extended_steps,
        sqrt,
        step,
    )

MEAN, VARIANCE, INVERSE, FACTOR, D_MEAN, D_SLOPE = range(COLUMN_STATISTICS)


def mean_and_variance(z):
    """Of numbers that lie apart; what the first mean was off by is taken into account."""
    total, off, square = z.dtype.type(0), z.dtype.type(0), z.dtype.type(0)
    for value in z:
        total += value
    mean = total / z.dtype.type(z.size)
    for value in z:
        off += value - mean
        square += (value - mean) * (value - mean)
    off /= z.dtype.type(z.size)
    return mean + off, max(square / z.dtype.type(z.size) - off * off, z.dtype.type(0))


def inverse_deviation(op, variance, real):
    """1 / sqrt(variance + epsilon)"""
    return real(1) / sqrt(variance + real(op.epsilon))


def column_of(array, place, ld, n):
    """N numbers from a place on, ld apart."""
    return array[place : place + (n - 1) * ld + 1 : ld]


def column_statistic(op, memory, which):
    """Where the first of what is kept of columns lies, by its number in abi.h."""
    return op.statistics // memory.arena.itemsize + which * op.O


def batch_statistics(op, batch, memory):
    """Statistics <- of the columns of input"""
    item, real, arena = memory.arena.itemsize, memory.arena.dtype.type, memory.arena
    for o in range(op.O):
        z = column_of(arena, op.input // item + o, op.ld_input, batch.n)
        mean, variance = mean_and_variance(z)
        inverse = inverse_deviation(op, variance, real)
        arena[column_statistic(op, memory, MEAN) + o] = mean
        arena[column_statistic(op, memory, VARIANCE) + o] = variance
        arena[column_statistic(op, memory, INVERSE) + o] = inverse
        factor = inverse * memory.store[op.weight // item + o]
        arena[column_statistic(op, memory, FACTOR) + o] = factor


def running_statistics(op, memory):
    """The same from running ones, for predictions."""
    item, real, store = memory.store.itemsize, memory.store.dtype.type, memory.store
    for o in range(op.O):
        memory.arena[column_statistic(op, memory, MEAN) + o] = store[op.mean // item + o]
        inverse = inverse_deviation(op, store[op.variance // item + o], real)
        memory.arena[column_statistic(op, memory, INVERSE) + o] = inverse


def of_row(words, op, memory, r, o):
    """Mean and inverse deviation that output o of row r is normalised by."""
    mean, inverse = column_statistic(op, memory, MEAN), column_statistic(op, memory, INVERSE)
    if op.normalization == words.batch_norm:
        return memory.arena[mean + o], memory.arena[inverse + o]
    return memory.arena[mean + 2 * r], memory.arena[mean + 2 * r + 1]


def normalize(words, op, batch, memory):
    """Output <- normalised input * scale + bias, which has to be activated."""
    item, real = memory.arena.itemsize, memory.arena.dtype.type
    scale, bias = op.weight // item, op.bias // item
    if op.mean >= 0:
        running_statistics(op, memory)
    for r in range(batch.n):
        at, place = op.input // item + r * op.ld_input, op.output // item + r * op.ld_output
        if op.normalization == words.layer_norm:
            start = op.statistics // item + 2 * r
            mean, variance = mean_and_variance(memory.arena[at : at + op.O])
            memory.arena[start] = mean
            memory.arena[start + 1] = inverse_deviation(op, variance, real)
        for o in range(op.O):
            mean, inverse = of_row(words, op, memory, r, o)
            n = (memory.arena[at + o] - mean) * inverse
            memory.arena[place + o] = n * memory.store[scale + o] + memory.store[bias + o]


def norm_gradient(words, op, batch, memory):
    """Gradients of scale and bias: sums of d_output * n, and of d_output, over the batch."""
    item, real = memory.arena.itemsize, memory.arena.dtype.type
    for o in range(op.O):
        of_scale, of_bias = real(0), real(0)
        for r in range(batch.n):
            mean, inverse = of_row(words, op, memory, r, o)
            d = memory.arena[op.d_output // item + r * op.ld_output + o]
            of_scale += d * (memory.arena[op.input // item + r * op.ld_input + o] - mean) * inverse
            of_bias += d
        if op.normalization == words.batch_norm:
            memory.arena[column_statistic(op, memory, D_MEAN) + o] = of_bias / real(batch.n)
            rest = of_scale * of_row(words, op, memory, 0, o)[1] / real(batch.n)
            memory.arena[column_statistic(op, memory, D_SLOPE) + o] = rest
        for place, g in ((op.weight_gradient, of_scale), (op.bias_gradient, of_bias)):
            at = place // item + o
            memory.store[at] = memory.store[at] + g if op.gradient == words.accumulate else g


def normalize_backward(words, op, batch, memory):
    """d_input <- d_output through the normalisation; d_input may be d_output over columns."""
    item, real = memory.arena.itemsize, memory.arena.dtype.type
    arena, scale = memory.arena, op.weight // item
    factor, d_mean = column_statistic(op, memory, FACTOR), column_statistic(op, memory, D_MEAN)
    d_slope = column_statistic(op, memory, D_SLOPE)
    for r in range(batch.n):
        at, of = op.input // item + r * op.ld_input, op.d_output // item + r * op.ld_output
        to, total, slope = op.d_input // item + r * op.ld_d_input, real(0), real(0)
        if op.normalization == words.batch_norm:
            for o in range(op.O):
                n = arena[at + o] - of_row(words, op, memory, r, o)[0]
                rest = arena[d_mean + o] + n * arena[d_slope + o]
                arena[to + o] = arena[factor + o] * (arena[of + o] - rest)
            continue
        mean, inverse = of_row(words, op, memory, r, 0)
        for o in range(op.O):
            g = memory.arena[of + o] * memory.store[scale + o]
            total += g
            slope += g * (memory.arena[at + o] - mean) * inverse
        total /= real(op.O)
        slope /= real(op.O)
        for o in range(op.O):
            g = memory.arena[of + o] * memory.store[scale + o]
            n = (memory.arena[at + o] - mean) * inverse
            memory.arena[to + o] = inverse * (g - total - n * slope)


def smooth_statistics(op, batch, memory):
    """Running statistics take note of the batch; one row says nothing of a variance."""
    item, store, real = memory.store.itemsize, memory.store, memory.store.dtype.type
    m, n = op.smoothing, batch.n
    for o in range(op.O):
        at = op.mean // item + o
        store[at] = (
            real(1 - m) * store[at] + real(m) * memory.arena[column_statistic(op, memory, MEAN) + o]
        )
        if n > 1:
            at = op.variance // item + o
            variance = memory.arena[column_statistic(op, memory, VARIANCE) + o]
            store[at] = real(1 - m) * store[at] + real(m * n / (n - 1)) * variance


def activate_rows(words, op, batch, memory):
    """Overwrites all rows of the output with their activation."""
    for r in range(batch.n):
        place = op.output // memory.arena.itemsize + r * op.ld_output
        row, kept = memory.arena[place : place + op.O], op.slope // memory.arena.itemsize
        if op.slope >= 0 and op.activation != words.custom:
            kept += r * op.ld_slope
            activate_with_slopes(op.activation, row, memory.arena[kept : kept + op.O])
        else:
            activate(words, op.activation, row)
    if op.activation == words.custom:
        activate_custom(op, batch, memory)


def norm_steps(words, op, batch, memory):
    """Steps on scale and bias."""
    item, store = memory.store.itemsize, memory.store
    of_scale = store[op.weight_gradient // item : op.weight_gradient // item + op.O]
    of_bias = store[op.bias_gradient // item : op.bias_gradient // item + op.O]
    if op.extended:
        extended_steps(words, op, batch, store, of_scale, (False, op.weight // item))
        extended_steps(words, op, batch, store, of_bias, (True, op.bias // item))
    else:
        places = op.weight // item, op.weight_slot_0 // item, op.weight_slot_1 // item
        step(words, op, batch, store, op.weight_group, of_scale, places)
        places = op.bias // item, op.bias_slot_0 // item, op.bias_slot_1 // item
        step(words, op, batch, store, op.bias_group, of_bias, places)


def norm_update(words, op, batch, memory):
    """Steps on scale and bias unless they are frozen; running statistics take note of the batch."""
    if op.gradient == words.update:
        norm_steps(words, op, batch, memory)
    if op.normalization == words.batch_norm:
        smooth_statistics(op, batch, memory)


def norm_op(words, op, batch, memory):
    """Runs an op of a normalisation; whether it is one."""
    if op.kind == words.BATCH_STATISTICS:
        batch_statistics(op, batch, memory)
    elif op.kind == words.NORMALIZE:
        normalize(words, op, batch, memory)
        activate_rows(words, op, batch, memory)
    elif op.kind == words.NORM_GRADIENT:
        norm_gradient(words, op, batch, memory)
    elif op.kind == words.NORMALIZE_BACKWARD:
        normalize_backward(words, op, batch, memory)
    elif op.kind == words.NORM_UPDATE:
        norm_update(words, op, batch, memory)
    else:
        return False
    return True


#: In an order in which none calls one after it.
_FUNCTIONS = (
    *(mean_and_variance, inverse_deviation, column_of, column_statistic, running_statistics),
    *(of_row, batch_statistics, normalize, norm_gradient, normalize_backward),
    *(smooth_statistics, activate_rows, norm_steps, norm_update, norm_op),
)


def compiled(jit, names):
    """`norm_op`, compiled by numba's `jit` among the names of `numba_cpu`."""
    made = {**names, **{name: v for name, v in globals().items() if name.isupper()}}
    for function in _FUNCTIONS:
        name = function.__name__
        made[name] = jit(FunctionType(function.__code__, made, name))
    return made[norm_op.__name__]
