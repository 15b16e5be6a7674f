"""Random words by numba on one thread, and ops that draw them: what ``augment.h`` is."""

import numpy as np

from . import philox
from .numba_jit import jit

random_block, uniform32, uniform64, normal = philox.compiled(jit)


@jit
def draw_words(drawn, row, column, words):
    """Words (B, n) <- the generator's from a row and a column on, for a (seed, step, op)."""
    seed, step, op = drawn
    last = column + words.shape[1]
    for r in range(words.shape[0]):
        for k in range(column // 4, (last + 3) // 4):
            four = random_block(seed, step, op, row + r, k)
            for i in range(max(4 * k, column), min(4 * k + 4, last)):
                words[r, i - column] = four[i - 4 * k]


@jit
def draw_uniform(words, out):
    """Out <- the words as numbers in [0, 1) of its dtype."""
    for i in range(words.size):
        word = np.uint64(words.flat[i])
        out.flat[i] = uniform32(word) if out.itemsize == 4 else uniform64(word)


def draw(seed, step, op, row, column, out):
    """Fills an array (B, n) of uint32, float32 or float64: the same as `draw` of the engine."""
    words = out if out.dtype == np.uint32 else np.empty(out.shape, np.uint32)
    drawn = np.uint64(seed), np.uint64(step), np.uint64(op)
    draw_words(drawn, row, column, words)
    if words is not out:
        draw_uniform(words, out)


@jit
def dropout(op, batch, memory):
    """Output, slope <- that times 0 or 1 / (1 - rate)"""
    item, real = memory.arena.itemsize, memory.arena.dtype.type
    drawn = batch.seed, batch.step, np.uint64(op.draw)
    for r in range(batch.n):
        for k in range((op.O + 3) // 4):
            four = random_block(*drawn, r, k)
            for o in range(4 * k, min(4 * k + 4, op.O)):
                kept = real(op.scale) if four[o - 4 * k] >= np.uint64(op.threshold) else real(0)
                at = op.output // item + r * op.ld_output + o
                memory.arena[at] *= kept
                if op.slope >= 0:
                    memory.arena[op.slope // item + r * op.ld_slope + o] *= kept


@jit
def noise(op, batch, memory):
    """Output <- that plus `scale` times normal numbers"""
    item, real = memory.arena.itemsize, memory.arena.dtype.type
    bits = 32 if item == 8 else 23
    for r in range(batch.n):
        for k in range((op.O + 3) // 4):
            four = random_block(batch.seed, batch.step, np.uint64(op.draw), r, k)
            for o in range(4 * k, min(4 * k + 4, op.O)):
                z = real(normal(four[o - 4 * k], bits))
                memory.arena[op.output // item + r * op.ld_output + o] += real(op.scale) * z


@jit
def mix_rows(words, op, batch, memory):
    """Output <- mix * output + (1 - mix) * input"""
    item, real = memory.arena.itemsize, memory.arena.dtype.type
    mix = batch.scalars[words.mix]
    for r in range(batch.n):
        source, at = op.input // item + r * op.ld_input, op.output // item + r * op.ld_output
        for o in range(op.O):
            own, other = memory.arena[at + o], memory.arena[source + o]
            memory.arena[at + o] = real(mix) * own + real(1 - mix) * other
