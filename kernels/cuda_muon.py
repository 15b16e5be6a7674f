"""Steps of Muon (see muon.h) on a CUDA device."""

from math import sqrt

import numpy as np

from .cuda_updates import extended_step, extension_of
from .cuda_words import (
    AT,
    COMBINE,
    EPSILON,
    N_SCALARS,
    OVERWRITE,
    RECORD,
    SCALE,
    SHIFT,
    SIMULATED,
    THREADS,
    Factor,
    Shape,
    Sink,
    device,
    first_of,
    stride_of,
)
from .muon import compiled
from .numba_jit import WORDS

if SIMULATED:  # with infinities for what overflows, as on a device
    sqrt = np.sqrt

clipped_gradient, new_moment, direction = compiled(device)


@device
def matrix_scalar(op, batch, memory, which):
    """One of the scalars of a matrix."""
    at = RECORD.scalars + op[AT.weight_group] * N_SCALARS
    return memory.store.dtype.type(batch.record[at + which])


@device
def place_in(op, i, o):
    """Where Z has the element (i, o) of a weight: it is the transpose of a wide one."""
    ld = op[AT.ld_matrix]
    return o * ld + i if op[AT.I] < op[AT.O] else i * ld + o


@device
def muon_update(team, op, constants, batch, memory):
    """Weight <- a step along left, which was made orthogonal; bias by its own rule"""
    store, n, O = memory.store, op[AT.I] * op[AT.O], op[AT.O]
    x = extension_of(store.dtype.type, op, constants, batch, memory, 1)
    momentum = matrix_scalar(op, batch, memory, WORDS.matrix_momentum)
    rate = matrix_scalar(op, batch, memory, WORDS.matrix_rate) * store.dtype.type(constants[SCALE])
    shrink = matrix_scalar(op, batch, memory, WORDS.matrix_shrink)
    kept = matrix_scalar(op, batch, memory, WORDS.average)
    end = n + O if op[AT.bias] >= 0 else n  # else the bias is a normalization's
    for e in range(first_of(team), end, stride_of(team)):
        if e >= n:
            extended_step(x, store, op[AT.bias] + e - n, store[op[AT.bias_gradient] + e - n])
        else:
            m, g = op[AT.weight_slot_0] + e, store[op[AT.weight_gradient] + e]
            store[m] = new_moment(momentum, store[m], g)
            along = store[op[AT.left] + place_in(op, e // O, e % O)]
            w = shrink * store[op[AT.weight] + e] - rate * along
            store[op[AT.weight] + e] = w
            if op[AT.weight_average] >= 0:
                average = op[AT.weight_average] + e
                store[average] = w + kept * (store[average] - w)


def norm_ops(block_sum):
    """What makes Z of the gradient and the momentum."""

    @device
    def squares(team, op, constants, batch, memory):
        """Gradient <- the mean one, penalised and clipped; norms <- sums of squares of the
        directions of each row.
        """
        store, O = memory.store, op[AT.O]
        x = extension_of(store.dtype.type, op, constants, batch, memory, 0)
        momentum = matrix_scalar(op, batch, memory, WORDS.matrix_momentum)
        for i in range(team.block, op[AT.I], team.blocks):
            total = np.float64(0)
            for e in range(i * O + team.thread, (i + 1) * O, THREADS):
                at = op[AT.weight_gradient] + e
                g = clipped_gradient(x, store[op[AT.weight] + e], store[at])
                store[at] = g
                m = store[op[AT.weight_slot_0] + e]
                d = np.float64(direction(momentum, op[AT.nesterov] != 0, m, g))
                total += d * d
            total = block_sum(team, total)
            if team.thread == 0:
                store[op[AT.norms] + i] = total

    @device
    def unit_norm(team, op, constants, batch, memory):
        """Result <- the direction, of norm 1"""
        store, O, total = memory.store, op[AT.O], np.float64(0)
        for i in range(team.thread, op[AT.I], THREADS):
            total += store[op[AT.norms] + i]
        norm = sqrt(block_sum(team, total))
        factor = store.dtype.type(1 / (constants[EPSILON] if norm < constants[EPSILON] else norm))
        momentum = matrix_scalar(op, batch, memory, WORDS.matrix_momentum)
        for e in range(first_of(team), op[AT.I] * O, stride_of(team)):
            m, g = store[op[AT.weight_slot_0] + e], store[op[AT.weight_gradient] + e]
            along = direction(momentum, op[AT.nesterov] != 0, m, g)
            store[op[AT.result] + place_in(op, e // O, e % O)] = along * factor

    return squares, unit_norm


def muon_ops(products, block_sum, rules_of):
    """All ops of Muon as one function, of what it has in common with other ops."""
    squares, unit_norm = norm_ops(block_sum)

    @device
    def product(team, op, constants, batch, memory):
        """Result <- left' . left, or left . (scale right + shift 1)"""
        store, ld, wide = memory.store, op[AT.ld_matrix], op[AT.I] < op[AT.O]
        n, m = (op[AT.O], op[AT.I]) if wide else (op[AT.I], op[AT.O])
        gram = op[AT.kind] == WORDS.MUON_GRAM
        depth = n if gram else m
        left = Factor(store, op[AT.left], 1 if gram else ld, ld if gram else 1, -1)
        right = Factor(store, op[AT.right], 1, ld, -1)
        shape = Shape(n if op[AT.kind] == WORDS.MUON_APPLY else m, m, depth, 1, depth)
        rules = rules_of(op, constants, batch, memory, -1)
        mode, of = OVERWRITE if gram else COMBINE, op[AT.left]
        scale, shift = constants[SCALE], constants[SHIFT]
        sink = Sink(mode, 0, op[AT.result], ld, of, ld, -1, 0, scale, shift)
        products(team, left, right, shape, sink, rules, memory)

    @device
    def muon(team, op, constants, batch, memory):
        """Runs an op of Muon, or nothing if it is none."""
        kind = op[AT.kind]
        if kind == WORDS.MUON_SQUARES:
            squares(team, op, constants, batch, memory)
        elif kind == WORDS.MUON_SCALE:
            unit_norm(team, op, constants, batch, memory)
        elif kind == WORDS.MUON_UPDATE:
            muon_update(team, op, constants, batch, memory)
        elif kind == WORDS.MUON_GRAM or kind == WORDS.MUON_POLYNOMIAL or kind == WORDS.MUON_APPLY:
            product(team, op, constants, batch, memory)

    return muon
