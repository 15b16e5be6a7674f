"""Extended steps of optimizers, one element at a time, for all who compile Python: numba, CUDA.

What optimizer.h says of them, by other code. The functions run as they stand, and :func:`compiled`
makes those of a backend of them. Imports no compiler: whoever has one brings it.
"""

from collections import namedtuple
from math import sqrt
from types import FunctionType

import numpy as np

from . import OPTIMIZERS

_RULES = ("sgd", "nesterov", "adam", "amsgrad", "nadam", "rmsprop", "adagrad", "lion")
SGD, NESTEROV, ADAM, AMSGRAD, NADAM, RMSPROP, ADAGRAD, LION = (OPTIMIZERS[r] for r in _RULES)

#: How an element of a parameter is stepped on. l2, l1: what the penalty adds to a gradient for each
#: unit of a weight, and of its sign. kept: of the average. Slots and average are so far from the
#: element; an average of 0 is none.
Extension = namedtuple(
    "Extension",
    "rule rate beta rest beta_2 rest_2 gradient_rate epsilon tiny l2 l1 inverse shrink clip_scale "
    "clip_value kept slot_0 slot_1 slot_2 average",
)


def sign(x):
    """-1, 0 or 1 of the type of x; NaN stays."""
    return x / abs(x) if abs(x) > 0 else x


def penalised(x, w, gradient):
    """An element of the mean gradient with its penalty, before it is clipped."""
    return (gradient + x.l2 * w + x.l1 * sign(w)) * x.inverse


def normal(x, value):
    """A moment, or 0 for what is too small: arithmetic on that is slow."""
    return value if not abs(value) < x.tiny else value * 0


def step_with_one(x, store, at, w, g):
    """The weight after a step by the rules that keep one moment, which is overwritten."""
    first = store[at + x.slot_0]
    if x.rule == LION:
        store[at + x.slot_0] = normal(x, x.beta_2 * first + x.rest_2 * g)
        return w - x.rate * sign(x.beta * first + x.rest * g)
    if x.rule == ADAGRAD:
        first += g * g
        store[at + x.slot_0] = normal(x, first)
        return w - x.rate * g / (sqrt(first) + x.epsilon)
    first = x.beta * first - x.rate * g
    store[at + x.slot_0] = normal(x, first)
    return w + (x.beta * first - x.rate * g if x.rule == NESTEROV else first)


def step_with_more(x, store, at, w, g):
    """The same of those that keep two, or three."""
    first = store[at + x.slot_0]
    second = x.beta_2 * store[at + x.slot_1] + x.rest_2 * (g * g)
    store[at + x.slot_1] = normal(x, second)
    root = sqrt(second) + x.epsilon
    if x.rule == RMSPROP:
        first = x.beta * first + g / root
        store[at + x.slot_0] = normal(x, first)
        return w - x.rate * first
    first = x.beta * first + x.rest * g
    store[at + x.slot_0] = normal(x, first)
    if x.rule == NADAM:
        return w - (x.rate * first + x.gradient_rate * g) / root
    if x.rule == AMSGRAD:
        if second < store[at + x.slot_2]:
            second = store[at + x.slot_2]
        store[at + x.slot_2] = normal(x, second)
        root = sqrt(second) + x.epsilon
    return w - x.rate * first / root


def extended_step(x, store, at, gradient):
    """Steps one element of a parameter by its gradient."""
    w = store[at]
    g = penalised(x, w, gradient) * x.clip_scale
    if abs(g) > x.clip_value:
        g = x.clip_value * sign(g)
    if x.rule == ADAM or x.rule == AMSGRAD or x.rule == NADAM or x.rule == RMSPROP:
        w = step_with_more(x, store, at, w * x.shrink, g)
    else:
        w = step_with_one(x, store, at, w * x.shrink, g)
    store[at] = w
    if x.average != 0:
        store[at + x.average] = w + x.kept * (store[at + x.average] - w)


def limit(store, places, most, rest):
    """Shrinks a column of a weight to a norm, if it is longer; the average loses as much.

    `places` is where it starts, how far apart its elements are and how many, and how far away their
    average is, 0 being none; `rest` what an average takes of a weight.
    """
    start, stride, n, average = places
    total = most * 0.0
    for at in range(start, start + n * stride, stride):
        total += (1.0 * store[at]) * (1.0 * store[at])
    norm = sqrt(total)
    if norm > most:
        scale = most / norm
        for at in range(start, start + n * stride, stride):
            old = store[at]
            store[at] = scale * old
            if average != 0:
                store[at + average] += rest * (store[at] - old)


def compiled(jit, root=sqrt):
    """`penalised`, `extended_step` and `limit`, compiled by `jit`: numba's, for some device."""
    known = _known(jit, root)
    return known["penalised"], known["extended_step"], known["limit"]


def _known(jit, root):
    """The same and all that they call, by name."""
    known = {**globals(), "sqrt": root}
    _add(jit, known, sign, penalised, normal, step_with_one, step_with_more, extended_step, limit)
    return known


def _add(jit, known, *functions):
    for function in functions:
        name = function.__name__
        known[name] = jit(FunctionType(function.__code__, known, name))


# ------------------------------------------------------------ ops as records, for numba


def extension_of(words, op, batch, store, bias):
    """How the weight or the bias of an extended op is stepped on."""
    real, item = store.dtype.type, store.itemsize
    group = op.bias_group if bias else op.weight_group
    place = op.bias if bias else op.weight
    slot_0 = op.bias_slot_0 if bias else op.weight_slot_0
    slot_1 = op.bias_slot_1 if bias else op.weight_slot_1
    slot_2 = op.bias_slot_2 if bias else op.weight_slot_2
    average = op.bias_average if bias else op.weight_average
    scalars = batch.scalars[group * words.n_scalars : (group + 1) * words.n_scalars]
    momentum, decay = scalars[words.momentum], scalars[words.decay]
    tiny = np.finfo(store.dtype).tiny
    return Extension(
        op.optimizer,
        real(scalars[words.rate]),
        real(momentum),
        real(1 - momentum),
        real(op.beta_2),
        real(1 - op.beta_2),
        real(scalars[words.gradient_rate]),
        max(real(op.epsilon * scalars[words.correction]), tiny),
        tiny,
        real(decay * (1 - op.l1_ratio)),
        real(decay * op.l1_ratio),
        real(batch.inverse_weight),
        real(scalars[words.shrink]),
        store[op.clip_scale // item] if op.clip_scale >= 0 else real(1),
        real(op.clip_value),
        real(scalars[words.average]),
        (slot_0 - place) // item,
        (slot_1 - place) // item,
        (slot_2 - place) // item,
        (average - place) // item if average >= 0 else 0,
    )


def extended_steps(words, op, batch, store, gradient, parameter):
    """`step` of an extended op. `parameter` is whether it is a bias, and where it begins."""
    bias, place = parameter
    x = extension_of(words, op, batch, store, bias)
    for j in range(gradient.size):
        extended_step(x, store, place + j, gradient[j])


def gradient_squares(words, op, batch, memory):
    """Norms <- sum of squares of the mean gradient"""
    store, item, total = memory.store, memory.store.itemsize, 0.0
    sizes = op.I * op.O, op.O
    for bias in range(2):
        x = extension_of(words, op, batch, store, bias == 1)
        place = (op.bias if bias else op.weight) // item
        if place < 0:  # it is a normalization's
            continue
        of_gradient = (op.bias_gradient if bias else op.weight_gradient) // item
        for e in range(sizes[bias]):
            total += np.float64(penalised(x, store[place + e], store[of_gradient + e])) ** 2
    store[op.norms // item] = total


def gradient_norm(op, memory):
    """Clip_scale <- what clips the gradient, by the sums of all layers"""
    store, item, total = memory.store, memory.store.itemsize, 0.0
    for k in range(op.I):
        total += store[(op.norms + 8 * k) // item]
    store[op.clip_scale // item] = min(1.0, op.clip_norm / (sqrt(total) + 1e-6))


def max_norm(words, op, batch, memory):
    """Weight <- columns shrunk to a norm of max_norm, if longer; the average loses as much."""
    store, item, at = memory.store, memory.store.itemsize, op.weight_group * words.n_scalars
    rest = 1 - batch.scalars[at + words.average]
    average = (op.weight_average - op.weight) // item if op.weight_average >= 0 else 0
    for o in range(op.O):
        limit(store, (op.weight // item + o, op.O, op.I, average), op.max_norm, rest)


def of_records(jit):
    """What steps on op records, compiled by `jit`: numba's, for the processor."""
    known, found = _known(jit, sqrt), (extended_steps, gradient_squares, gradient_norm, max_norm)
    _add(jit, known, extension_of, *found)
    return tuple(known[function.__name__] for function in found)
