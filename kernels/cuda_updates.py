"""Optimizer steps on a CUDA device. Nothing here waits for other threads."""

from math import sqrt

import numpy as np

from .cuda_words import (
    AT,
    BETA_2,
    CLIP_VALUE,
    EPSILON,
    L1_RATIO,
    MAX_NORM,
    N_SCALARS,
    RECORD,
    SIMULATED,
    TINY,
    Rule,
    device,
    first_of,
    stride_of,
)
from .numba_jit import WORDS
from .steps import Extension, compiled

if SIMULATED:  # with infinities for what overflows, as on a device
    sqrt = np.sqrt

penalised, extended_step, limit = compiled(device, sqrt)


@device
def step(rule, store, at, gradient):
    """Steps one element of a parameter."""
    w = store[at]
    g = (gradient + rule.decay * w) * rule.inverse
    first = store[at + rule.slot_0]
    if rule.optimizer == WORDS.adam:
        first = rule.beta * first + rule.rest * g
        second = rule.beta_2 * store[at + rule.slot_1] + rule.rest_2 * (g * g)
        store[at + rule.slot_1] = second if second >= rule.tiny else second * 0
        w -= rule.rate * first / (sqrt(second) + rule.epsilon)
    else:
        first = rule.beta * first - rule.rate * g
        w += rule.beta * first - rule.rate * g if rule.optimizer == WORDS.nesterov else first
    store[at + rule.slot_0] = first if abs(first) >= rule.tiny else first * 0
    store[at] = w


@device
def rule_of(real, op, constants, record, which):
    """How the weight (0) or the bias (1) of an op is stepped on."""
    group = op[AT.weight_group] if which == 0 else op[AT.bias_group]
    place = op[AT.weight] if which == 0 else op[AT.bias]
    slot_0 = op[AT.weight_slot_0] if which == 0 else op[AT.bias_slot_0]
    slot_1 = op[AT.weight_slot_1] if which == 0 else op[AT.bias_slot_1]
    at = RECORD.scalars + group * N_SCALARS
    momentum, beta_2 = record[at + WORDS.momentum], constants[BETA_2]
    return Rule(
        op[AT.optimizer],
        real(record[at + WORDS.rate]),
        real(record[at + WORDS.decay]),
        real(momentum),
        real(1 - momentum),
        real(beta_2),
        real(1 - beta_2),
        real(record[RECORD.inverse_weight]),
        real(constants[EPSILON]),
        real(constants[TINY]),
        slot_0 - place,
        slot_1 - place,
    )


@device
def extension_of(real, op, constants, batch, memory, which):
    """How the weight (0) or the bias (1) of an extended op is stepped on."""
    rule = rule_of(real, op, constants, batch.record, which)
    group = op[AT.weight_group] if which == 0 else op[AT.bias_group]
    place = op[AT.weight] if which == 0 else op[AT.bias]
    slot_2 = op[AT.weight_slot_2] if which == 0 else op[AT.bias_slot_2]
    average = op[AT.weight_average] if which == 0 else op[AT.bias_average]
    at, record = RECORD.scalars + group * N_SCALARS, batch.record
    decay, l1_ratio = record[at + WORDS.decay], constants[L1_RATIO]
    epsilon = constants[EPSILON] * record[at + WORDS.correction]
    return Extension(
        rule.optimizer,
        rule.rate,
        rule.beta,
        rule.rest,
        rule.beta_2,
        rule.rest_2,
        real(record[at + WORDS.gradient_rate]),
        real(epsilon if epsilon > constants[TINY] else constants[TINY]),
        rule.tiny,
        real(decay * (1 - l1_ratio)),
        real(decay * l1_ratio),
        rule.inverse,
        real(record[at + WORDS.shrink]),
        memory.store[op[AT.clip_scale]] if op[AT.clip_scale] >= 0 else real(1),
        real(constants[CLIP_VALUE]),
        real(record[at + WORDS.average]),
        rule.slot_0,
        rule.slot_1,
        slot_2 - place,
        average - place if average >= 0 else 0,
    )


@device
def extended_update(team, op, constants, batch, memory):
    """`update` by extended steps."""
    real, n, O = memory.store.dtype.type, op[AT.I] * op[AT.O], op[AT.O]
    of_weight = extension_of(real, op, constants, batch, memory, 0)
    of_bias = extension_of(real, op, constants, batch, memory, 1)
    shards = (batch.n - 1) // op[AT.shard_rows] + 1 if op[AT.shard_rows] > 0 else 1
    end = n + O if op[AT.bias] >= 0 else n  # else the bias is a normalization's
    for e in range(first_of(team), end, stride_of(team)):
        bias = e >= n
        place = op[AT.bias_gradient] + e - n if bias else op[AT.weight_gradient] + e
        gradient = memory.store[place]
        for shard in range(1, shards):
            gradient += memory.store[place + shard * op[AT.shard_bytes]]
        if bias:
            extended_step(of_bias, memory.store, op[AT.bias] + e - n, gradient)
        else:
            extended_step(of_weight, memory.store, op[AT.weight] + e, gradient)


@device
def max_norm(team, op, constants, batch, memory):
    """Weight <- columns shrunk to a norm of max_norm, if longer; the average loses as much."""
    O, ld, at = op[AT.O], op[AT.ld_weight], RECORD.scalars + op[AT.weight_group] * N_SCALARS
    apart = op[AT.weight_average] - op[AT.weight] if op[AT.weight_average] >= 0 else 0
    rest = 1 - batch.record[at + WORDS.average]
    for o in range(first_of(team), O, stride_of(team)):
        places = op[AT.weight] + o, ld, op[AT.I], apart
        limit(memory.store, places, constants[MAX_NORM], rest)
