"""The ops of a GPU that draw, and those of mixup's pairs: what ``augment.h`` is.

Nothing here may say ``cuda``, which the simulator swaps in ``cuda_ops.py`` alone.
"""

import numpy as np

from . import philox
from .cuda_ops import gather
from .cuda_words import AT, EPS, RECORD, SCALE, Batch, device, first_of, least, stride_of
from .numba_jit import WORDS

random_block, _, _, normal = philox.compiled(device)


@device
def dropout(team, op, constants, batch, memory):
    """Output, slope <- that times 0 or 1 / (1 - rate)"""
    real, O = memory.arena.dtype.type, op[AT.O]
    blocks, step = (O + 3) // 4, np.uint64(batch.record[RECORD.step])
    for e in range(first_of(team), batch.n * blocks, stride_of(team)):
        r, k = e // blocks, e % blocks
        four = random_block(batch.seed, step, np.uint64(op[AT.draw]), r, k)
        for o in range(4 * k, least(4 * k + 4, O)):
            drops = four[o - 4 * k] < np.uint64(op[AT.threshold])
            kept = real(0) if drops else real(constants[SCALE])
            at = op[AT.output] + r * op[AT.ld_output] + o
            memory.arena[at] *= kept
            if op[AT.slope] >= 0:
                memory.arena[op[AT.slope] + r * op[AT.ld_slope] + o] *= kept


@device
def noise(team, op, constants, batch, memory):
    """Output <- that plus `scale` times normal numbers"""
    real, O = memory.arena.dtype.type, op[AT.O]
    blocks, step = (O + 3) // 4, np.uint64(batch.record[RECORD.step])
    bits = 32 if constants[EPS] < 1e-9 else 23  # by the type of the arena
    for e in range(first_of(team), batch.n * blocks, stride_of(team)):
        r, k = e // blocks, e % blocks
        four = random_block(batch.seed, step, np.uint64(op[AT.draw]), r, k)
        for o in range(4 * k, least(4 * k + 4, O)):
            z = real(normal(four[o - 4 * k], bits))
            memory.arena[op[AT.output] + r * op[AT.ld_output] + o] += real(constants[SCALE]) * z


@device
def partners_of(batch):
    """The batch whose rows are the partners of those of this one."""
    rows = batch.first, batch.n, batch.ordered, batch.weighted, batch.order
    return Batch(*rows, batch.record, batch.seed, batch.n // 2)


@device
def copy_rows(team, op, batch, memory):
    """Output <- input"""
    O = op[AT.O]
    for e in range(first_of(team), batch.n * O, stride_of(team)):
        r, o = e // O, e % O
        value = memory.arena[op[AT.input] + r * op[AT.ld_input] + o]
        memory.arena[op[AT.output] + r * op[AT.ld_output] + o] = value


@device
def mix_rows(team, op, batch, memory):
    """Output <- mix * output + (1 - mix) * input"""
    real, O, mix = memory.arena.dtype.type, op[AT.O], batch.record[RECORD.scalars + WORDS.mix]
    for e in range(first_of(team), batch.n * O, stride_of(team)):
        r, o = e // O, e % O
        at = op[AT.output] + r * op[AT.ld_output] + o
        other = memory.arena[op[AT.input] + r * op[AT.ld_input] + o]
        memory.arena[at] = real(mix) * memory.arena[at] + real(1 - mix) * other


@device
def augment(team, op, constants, batch, memory, data):
    """An op that changes rows at random, if it is one."""
    if op[AT.kind] == WORDS.DROPOUT:
        dropout(team, op, constants, batch, memory)
    elif op[AT.kind] == WORDS.NOISE:
        noise(team, op, constants, batch, memory)
    elif op[AT.kind] == WORDS.PARTNER_GATHER:
        gather(team, op, partners_of(batch), memory, data)
    elif op[AT.kind] == WORDS.MIX:
        mix_rows(team, op, batch, memory)
