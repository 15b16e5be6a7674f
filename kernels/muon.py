"""Steps of Muon (see muon.h) for all who compile Python: numba, CUDA.

The first functions, of one element, run as they stand; the others are ops as records, for numba.
Imports no compiler: whoever has one brings it.
"""

from math import sqrt
from types import FunctionType

import numpy as np

from . import steps
from .steps import extension_of, penalised


def clipped_gradient(x, w, gradient):
    """An element of the mean gradient as a step takes it: with its penalty, and clipped."""
    g = penalised(x, w, gradient) * x.clip_scale
    if g > x.clip_value:
        return x.clip_value
    return -x.clip_value if g < -x.clip_value else g


def new_moment(momentum, m, g):
    """An element of the momentum after a step."""
    return momentum * m + (1 - momentum) * g


def direction(momentum, nesterov, m, g):
    """An element of what is made orthogonal."""
    new = new_moment(momentum, m, g)
    return momentum * new + (1 - momentum) * g if nesterov else new


def place_in(op, i, o):
    """Where Z has the element (i, o) of a weight: it is the transpose of a wide one."""
    return o * op.ld_matrix + i if op.I < op.O else i * op.ld_matrix + o


def momentum_of(words, op, batch, store):
    """Of the matrices."""
    at = op.weight_group * words.n_scalars + words.matrix_momentum
    return store.dtype.type(batch.scalars[at])


def muon_squares(words, op, batch, memory):
    """Gradient <- the mean one, penalised and clipped; norms <- sum of squares of the direction"""
    store, item, total = memory.store, memory.store.itemsize, 0.0
    x = extension_of(words, op, batch, store, False)
    momentum = momentum_of(words, op, batch, store)
    weight, moment = op.weight // item, op.weight_slot_0 // item
    gradient = op.weight_gradient // item
    for e in range(op.I * op.O):
        g = clipped_gradient(x, store[weight + e], store[gradient + e])
        store[gradient + e] = g
        total += np.float64(direction(momentum, op.nesterov, store[moment + e], g)) ** 2
    store[op.norms // item] = total


def muon_scale(words, op, batch, memory):
    """Result <- the direction, of norm 1"""
    store, item = memory.store, memory.store.itemsize
    momentum = momentum_of(words, op, batch, store)
    scale = store.dtype.type(1 / max(sqrt(store[op.norms // item]), op.epsilon))
    moment, gradient, to = op.weight_slot_0 // item, op.weight_gradient // item, op.result // item
    for i in range(op.I):
        for o in range(op.O):
            e = i * op.O + o
            along = direction(momentum, op.nesterov, store[moment + e], store[gradient + e])
            store[to + place_in(op, i, o)] = along * scale


def muon_gram(op, memory):
    """Result <- left' . left"""
    store, item, ld = memory.store, memory.store.itemsize, op.ld_matrix
    m, left, result = min(op.I, op.O), op.left // item, op.result // item
    for r in range(m):
        row = store[result + r * ld : result + r * ld + m]
        row[:] = 0
        for k in range(max(op.I, op.O)):
            factor, at = store[left + k * ld + r], left + k * ld
            for c in range(m):
                row[c] += factor * store[at + c]


def muon_product(op, memory):
    """Result <- left . (scale right + shift 1)"""
    store, item, ld = memory.store, memory.store.itemsize, op.ld_matrix
    m, left, right = min(op.I, op.O), op.left // item, op.right // item
    scale, shift = store.dtype.type(op.scale), store.dtype.type(op.shift)
    for r in range(op.units):
        row = store[op.result // item + r * ld : op.result // item + r * ld + m]
        for c in range(m):
            row[c] = shift * store[left + r * ld + c]
        for k in range(m):
            factor, at = scale * store[left + r * ld + k], right + k * ld
            for c in range(m):
                row[c] += factor * store[at + c]


def muon_update(words, op, batch, memory):
    """Weight <- a step along left, which was made orthogonal"""
    store, item, real = memory.store, memory.store.itemsize, memory.store.dtype.type
    at = op.weight_group * words.n_scalars
    momentum, left = momentum_of(words, op, batch, store), op.left // item
    rate = real(batch.scalars[at + words.matrix_rate] * op.scale)
    shrink, kept = batch.scalars[at + words.matrix_shrink], batch.scalars[at + words.average]
    for i in range(op.I):
        for o in range(op.O):
            e = i * op.O + o
            w, m = op.weight // item + e, op.weight_slot_0 // item + e
            store[m] = new_moment(momentum, store[m], store[op.weight_gradient // item + e])
            store[w] = real(shrink) * store[w] - rate * store[left + place_in(op, i, o)]
            if op.weight_average >= 0:
                average = op.weight_average // item + e
                store[average] = store[w] + real(kept) * (store[average] - store[w])


def muon(words, op, batch, memory):
    """All ops of Muon but the last."""
    if op.kind == words.MUON_SQUARES:
        muon_squares(words, op, batch, memory)
    elif op.kind == words.MUON_SCALE:
        muon_scale(words, op, batch, memory)
    elif op.kind == words.MUON_GRAM:
        muon_gram(op, memory)
    elif op.kind == words.MUON_POLYNOMIAL or op.kind == words.MUON_APPLY:
        muon_product(op, memory)


_ELEMENTS = clipped_gradient, new_moment, direction


def compiled(jit):
    """`clipped_gradient`, `new_moment` and `direction`, compiled by `jit`: numba's, for some
    device.
    """
    known = _known(jit, *_ELEMENTS)
    return tuple(known[function.__name__] for function in _ELEMENTS)


def of_records(jit):
    """`muon` and `muon_update`, compiled by `jit`: numba's, for the processor."""
    ops = muon_squares, muon_scale, muon_gram, muon_product, muon_update, muon
    known = _known(jit, extension_of, *_ELEMENTS, place_in, momentum_of, *ops)
    return known["muon"], known["muon_update"]


def _known(jit, *functions):
    """Functions and what they call, by name."""
    known = {**vars(steps), **globals()}
    for function in (steps.sign, penalised, *functions):
        name = function.__name__
        known[name] = jit(FunctionType(function.__code__, known, name))
    return known
