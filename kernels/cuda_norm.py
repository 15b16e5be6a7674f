"""Batch and layer normalisation on a CUDA device; norm.h has the formulas.

Compiled among the ops of `cuda_ops`, by whose names these functions go. SIDE x SIDE threads of a
block share SIDE columns, or SIDE rows: each sums every SIDE-th element in double precision, and
their sums are added in one order. They wait for each other by a function of that file, since the
simulator swaps ``cuda`` there alone.
"""

from types import FunctionType
from typing import TYPE_CHECKING

import numpy as np

from . import COLUMN_STATISTICS

if TYPE_CHECKING:
    from .cuda_ops import (
        ACCUMULATE,
        AT,
        EPSILON,
        SIDE,
        SMOOTHING,
        WORDS,
        activate,
        extended_step,
        extension_of,
        first_of,
        kept_as,
        meet_block,
        rule_of,
        sqrt,
        step,
        stride_of,
    )

MEAN, VARIANCE, INVERSE, FACTOR, D_MEAN, D_SLOPE = range(COLUMN_STATISTICS)


def sum_along(team, value, down):
    """Sum of what the SIDE threads of a column of threads have, or of a row; all of them get it."""
    y, x = team.thread // SIDE, team.thread % SIDE
    team.sums[team.thread] = value
    meet_block()
    total = np.float64(0)
    for k in range(SIDE):
        total += team.sums[k * SIDE + x if down else y * SIDE + k]
    meet_block()
    return total


def mean_and_variance(team, array, place, ld, shape):
    """Of `size` elements from a place on, ld apart, every SIDE-th from `first` on being this
    thread's; what the first mean was off by is taken into account.
    """
    first, size, down = shape
    total = off = square = np.float64(0)
    for k in range(first, size, SIDE):
        total += array[place + k * ld]
    mean = sum_along(team, total, down) / size_of(size)
    for k in range(first, size, SIDE):
        d = array[place + k * ld] - mean
        off += d
        square += d * d
    off = sum_along(team, off, down) / size_of(size)
    variance = sum_along(team, square, down) / size_of(size) - off * off
    return mean + off, variance if variance > 0 else variance * 0


def size_of(size):
    """What a sum of so many is divided by."""
    return size if size > 0 else 1


def column_statistic(op, which):
    """Where the first of what is kept of columns lies, by its number in abi.h."""
    return op[AT.statistics] + which * op[AT.O]


def batch_statistics(team, op, constants, batch, memory):
    """Statistics <- of the columns of input"""
    O, y, x = op[AT.O], team.thread // SIDE, team.thread % SIDE
    for group in range(team.block, (O + SIDE - 1) // SIDE, team.blocks):
        o = group * SIDE + x
        shape = y, batch.n if o < O else 0, True
        place, ld = op[AT.input] + o, op[AT.ld_input]
        mean, variance = mean_and_variance(team, memory.arena, place, ld, shape)
        if y == 0 and o < O:
            inverse = 1 / sqrt(variance + constants[EPSILON])
            memory.arena[column_statistic(op, MEAN) + o] = mean
            memory.arena[column_statistic(op, VARIANCE) + o] = variance
            memory.arena[column_statistic(op, INVERSE) + o] = inverse
            factor = inverse * memory.store[op[AT.weight] + o]
            memory.arena[column_statistic(op, FACTOR) + o] = factor


def place_output(op, memory, r, o, u):
    """Output <- activation(u), unless that is custom, and its slope where that is kept."""
    at = op[AT.output] + r * op[AT.ld_output] + o
    kept = op[AT.slope] + r * op[AT.ld_slope] + o if op[AT.slope] >= 0 else -1
    activate(memory, op[AT.activation], u, at, kept)


def normalize_rows(team, op, constants, batch, memory):
    """Output <- activation(normalised input * scale + bias), over rows; keeps statistics."""
    O, y, x, real = op[AT.O], team.thread // SIDE, team.thread % SIDE, memory.arena.dtype.type
    for group in range(team.block, (batch.n + SIDE - 1) // SIDE, team.blocks):
        r = group * SIDE + y
        size = O if r < batch.n else 0
        place = op[AT.input] + r * op[AT.ld_input]
        mean, variance = mean_and_variance(team, memory.arena, place, 1, (x, size, False))
        mean, inverse = real(mean), real(1 / sqrt(variance + constants[EPSILON]))
        if x == 0 and size > 0:
            memory.arena[op[AT.statistics] + 2 * r] = mean
            memory.arena[op[AT.statistics] + 2 * r + 1] = inverse
        for o in range(x, size, SIDE):
            n = (memory.arena[place + o] - mean) * inverse
            u = n * memory.store[op[AT.weight] + o] + memory.store[op[AT.bias] + o]
            place_output(op, memory, r, o, u)


def normalize_columns(team, op, constants, batch, memory):
    """The same over columns, by statistics of the batch or running ones."""
    O, real = op[AT.O], memory.arena.dtype.type
    for e in range(first_of(team), batch.n * O, stride_of(team)):
        r, o = e // O, e % O
        if op[AT.mean] >= 0:
            mean = memory.store[op[AT.mean] + o]
            variance = memory.store[op[AT.variance] + o]
            inverse = real(1 / sqrt(variance + constants[EPSILON]))
        else:
            mean = memory.arena[column_statistic(op, MEAN) + o]
            inverse = memory.arena[column_statistic(op, INVERSE) + o]
        n = (memory.arena[op[AT.input] + r * op[AT.ld_input] + o] - mean) * inverse
        u = n * memory.store[op[AT.weight] + o] + memory.store[op[AT.bias] + o]
        place_output(op, memory, r, o, u)


def norm_gradient(team, op, batch, memory):
    """Gradients of scale and bias: sums of d_output * n, and of d_output, over the batch."""
    O, y, x = op[AT.O], team.thread // SIDE, team.thread % SIDE
    columns, mode = op[AT.normalization] == WORDS.batch_norm, kept_as(op, batch)
    for group in range(team.block, (O + SIDE - 1) // SIDE, team.blocks):
        o = group * SIDE + x
        at = column_statistic(op, MEAN) + o, column_statistic(op, INVERSE) + o
        of_scale = of_bias = np.float64(0)
        for r in range(y, batch.n if o < O else 0, SIDE):
            if not columns:
                at = op[AT.statistics] + 2 * r, op[AT.statistics] + 2 * r + 1
            d = memory.arena[op[AT.d_output] + r * op[AT.ld_output] + o]
            z = memory.arena[op[AT.input] + r * op[AT.ld_input] + o]
            of_scale += d * (z - memory.arena[at[0]]) * memory.arena[at[1]]
            of_bias += d
        of_scale, of_bias = sum_along(team, of_scale, True), sum_along(team, of_bias, True)
        if y == 0 and o < O:
            if columns:
                rest = of_scale * memory.arena[at[1]] / batch.n
                memory.arena[column_statistic(op, D_MEAN) + o] = of_bias / batch.n
                memory.arena[column_statistic(op, D_SLOPE) + o] = rest
            scale, bias = op[AT.weight_gradient] + o, op[AT.bias_gradient] + o
            if mode == ACCUMULATE:
                of_scale += memory.store[scale]
                of_bias += memory.store[bias]
            memory.store[scale] = of_scale
            memory.store[bias] = of_bias


def backward_rows(team, op, batch, memory):
    """d_input <- d_output through the normalisation, over rows."""
    O, y, x, real = op[AT.O], team.thread // SIDE, team.thread % SIDE, memory.arena.dtype.type
    for group in range(team.block, (batch.n + SIDE - 1) // SIDE, team.blocks):
        r = group * SIDE + y
        size, total, slope = O if r < batch.n else 0, np.float64(0), np.float64(0)
        of = op[AT.d_output] + r * op[AT.ld_output]
        place, at = op[AT.input] + r * op[AT.ld_input], op[AT.statistics] + 2 * r
        mean, inverse = real(0), real(0)
        if size > 0:
            mean, inverse = memory.arena[at], memory.arena[at + 1]
        for o in range(x, size, SIDE):
            g = memory.arena[of + o] * memory.store[op[AT.weight] + o]
            total += g
            slope += g * (memory.arena[place + o] - mean) * inverse
        total = real(sum_along(team, total, False) / O)
        slope = real(sum_along(team, slope, False) / O)
        for o in range(x, size, SIDE):
            g = memory.arena[of + o] * memory.store[op[AT.weight] + o]
            n = (memory.arena[place + o] - mean) * inverse
            to = op[AT.d_input] + r * op[AT.ld_d_input] + o
            memory.arena[to] = inverse * (g - total - n * slope)


def backward_columns(team, op, batch, memory):
    """The same over columns; d_input may be d_output."""
    O = op[AT.O]
    for e in range(first_of(team), batch.n * O, stride_of(team)):
        r, o = e // O, e % O
        z = memory.arena[op[AT.input] + r * op[AT.ld_input] + o]
        d = memory.arena[op[AT.d_output] + r * op[AT.ld_output] + o]
        n = z - memory.arena[column_statistic(op, MEAN) + o]
        rest = n * memory.arena[column_statistic(op, D_SLOPE) + o]
        rest += memory.arena[column_statistic(op, D_MEAN) + o]
        to = op[AT.d_input] + r * op[AT.ld_d_input] + o
        memory.arena[to] = memory.arena[column_statistic(op, FACTOR) + o] * (d - rest)


def norm_update(team, op, constants, batch, memory):
    """Steps on scale and bias unless they are frozen; running statistics take note of the batch,
    see norm.h.
    """
    real, store, n = memory.store.dtype.type, memory.store, batch.n
    of_scale = rule_of(real, op, constants, batch.record, 0)
    of_bias = rule_of(real, op, constants, batch.record, 1)
    extended_scale = extension_of(real, op, constants, batch, memory, 0)
    extended_bias = extension_of(real, op, constants, batch, memory, 1)
    share = constants[SMOOTHING]
    for o in range(first_of(team), op[AT.O], stride_of(team)):
        of_scale_at, of_bias_at = op[AT.weight_gradient] + o, op[AT.bias_gradient] + o
        if op[AT.gradient] == WORDS.update and op[AT.extended]:
            extended_step(extended_scale, store, op[AT.weight] + o, store[of_scale_at])
            extended_step(extended_bias, store, op[AT.bias] + o, store[of_bias_at])
        elif op[AT.gradient] == WORDS.update:
            step(of_scale, store, op[AT.weight] + o, store[of_scale_at])
            step(of_bias, store, op[AT.bias] + o, store[of_bias_at])
        if op[AT.normalization] == WORDS.batch_norm:
            at, new = op[AT.mean] + o, memory.arena[column_statistic(op, MEAN) + o]
            store[at] = real(1 - share) * store[at] + real(share) * new
            if n > 1:
                at, new = op[AT.variance] + o, memory.arena[column_statistic(op, VARIANCE) + o]
                store[at] = real(1 - share) * store[at] + real(share * n / (n - 1)) * new


def norm_op(team, op, constants, batch, memory):
    """Runs an op of a normalisation, or nothing if it is none."""
    kind = op[AT.kind]
    if kind == WORDS.BATCH_STATISTICS:
        batch_statistics(team, op, constants, batch, memory)
    elif kind == WORDS.NORMALIZE and op[AT.normalization] == WORDS.layer_norm:
        normalize_rows(team, op, constants, batch, memory)
    elif kind == WORDS.NORMALIZE:
        normalize_columns(team, op, constants, batch, memory)
    elif kind == WORDS.NORM_GRADIENT:
        norm_gradient(team, op, batch, memory)
    elif kind == WORDS.NORMALIZE_BACKWARD and op[AT.normalization] == WORDS.layer_norm:
        backward_rows(team, op, batch, memory)
    elif kind == WORDS.NORMALIZE_BACKWARD:
        backward_columns(team, op, batch, memory)
    elif kind == WORDS.NORM_UPDATE:
        norm_update(team, op, constants, batch, memory)


#: In an order in which none calls one after it.
_FUNCTIONS = (
    *(sum_along, size_of, mean_and_variance, column_statistic, batch_statistics, place_output),
    *(normalize_rows, normalize_columns, norm_gradient, backward_rows, backward_columns),
    *(norm_update, norm_op),
)


def compiled(names):
    """`norm_op` as a device function among the names of `cuda_ops`."""
    made = {**names, **{name: v for name, v in globals().items() if name.isupper()}}
    for function in _FUNCTIONS:
        name = function.__name__
        made[name] = names["device"](FunctionType(function.__code__, made, name))
    return made[norm_op.__name__]
