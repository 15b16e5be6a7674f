"""What a GPU does with the op table: every op, and the kernels that walk the table.

A *team* of blocks works on one model: either one block, which meets at ``syncthreads``, or the
whole grid, which meets at the grid's barrier. All sums are in an order that depends on the plan
alone, never on the number of blocks, and nothing is added atomically: the same fit has the same
bits every time, alone or beside others.

The simulator of numba (``NUMBA_ENABLE_CUDASIM=1``) runs all of this in Python, with tiles of a few
elements. Its grid barrier knows one block only; ``tests/races.py`` runs any number, and finds what
no barrier orders. What uses ``cuda`` has to be in this file, since both swap that name in it.
"""

import threading
from functools import lru_cache
from math import exp, log, log1p, pow, sqrt, tanh

import numpy as np
from numba import cuda

from . import activations, cuda_norm, losses
from .cuda_functions import no_function, with_function
from .cuda_muon import muon_ops
from .cuda_updates import (
    extended_step,
    extended_update,
    extension_of,
    max_norm,
    penalised,
    rule_of,
    step,
)
from .cuda_words import (  # noqa: F401 - cuda_norm finds some here
    ACCUMULATE,
    AT,
    CLIP_NORM,
    COMBINE,
    DEPTH,
    EPS,
    EPSILON,
    FIRST,
    FORWARD,
    JOB,
    L1_RATIO,
    MICRO,
    N_SCALARS,
    OVERWRITE,
    PIECE,
    RECORD,
    REPORT,
    SIDE,
    SIMULATED,
    SLICE,
    SLOPE,
    SMOOTHING,
    STEP,
    THREADS,
    TILE,
    Batch,
    Data,
    Factor,
    Memory,
    Rules,
    Shape,
    Sink,
    Team,
    device,
    first_of,
    least,
    row_of,
    stride_of,
    weight_of,
)
from .numba_jit import WORDS

if SIMULATED:  # with infinities for what overflows, as on a device
    exp, log, log1p, sqrt, tanh, pow = np.exp, np.log, np.log1p, np.sqrt, np.tanh, np.power


@device
def quiet():
    """Divergence is a value here, not a warning: in the simulator threads are NumPy's, too."""


if SIMULATED:

    def quiet():
        """As above."""
        np.seterr(all="ignore")


any_loss_element, row_loss, end_row = losses.compiled(
    device, exp=exp, log=log, log1p=log1p, tanh=tanh, pow=pow
)


@device
def block_sum(team, value):
    """Sum of what the threads of a block have, by one fixed tree; every thread gets it."""
    team.sums[team.thread] = value
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if team.thread < half:
            team.sums[team.thread] += team.sums[team.thread + half]
        cuda.syncthreads()
        half //= 2
    total = team.sums[0]
    cuda.syncthreads()
    return total


# -------------------------------------------------------------------------- elements


@device
def activated(activation, z):
    """Activation of a hidden unit, or of an output but for softmax."""
    if activation == WORDS.relu:
        return z if not z < 0 else z * 0
    if activation == WORDS.logistic:
        e = exp(-abs(z))
        return (1 if z >= 0 else e) / (1 + e)
    if activation == WORDS.tanh:
        return tanh(z)
    if activation == WORDS.exp:
        return exp(z)
    if activation >= WORDS.leaky_relu:
        return value_and_slope(activation, np.float64(z))[0]
    return z


value_and_slope = activations.compiled(device)


@device
def activate(memory, activation, z, at, kept):
    """Puts an activation where it goes, and its slope where that is kept, if it is."""
    if kept >= 0 and activation != WORDS.custom:
        value, slope = value_and_slope(activation, np.float64(z))
        memory.arena[at], memory.arena[kept] = value, slope
    else:
        memory.arena[at] = activated(activation, z)


@device
def slope(activation, made):
    """Derivative of an activation that is known from what it made."""
    if activation == WORDS.relu:
        return made * 0 + (1 if made != 0 else 0)
    if activation == WORDS.logistic:
        return made * (1 - made)
    if activation == WORDS.tanh:
        return 1 - made * made
    return made * 0 + 1


@device
def softmax(row, at, n):
    """Overwrites n elements from a place on."""
    top = row[at]
    for o in range(1, n):
        if row[at + o] > top:
            top = row[at + o]
    total = top * 0
    for o in range(n):
        e = exp(row[at + o] - top)
        row[at + o] = e
        total += e
    for o in range(n):
        row[at + o] /= total


@device
def finish(sink, rules, memory, apart, place, total):
    """What becomes of the element of a product at a place (r, c); shards are kept apart."""
    r, c = place
    at = sink.place + apart + r * sink.ld + c
    if sink.mode == FORWARD:
        kept = sink.slope + r * sink.slope_ld + c if sink.slope >= 0 else -1
        activate(memory, sink.activation, total + memory.store[sink.other + c], at, kept)
    elif sink.mode == SLOPE:
        made = memory.arena[sink.other + r * sink.other_ld + c]
        memory.arena[at] = total * (made if sink.slope >= 0 else slope(sink.activation, made))
    elif sink.mode == COMBINE:
        other = memory.store[sink.other + r * sink.other_ld + c]
        memory.store[at] = sink.scale * total + sink.shift * other
    elif r == rules.bias_row:
        keep(sink.mode, rules.of_bias, memory.store, rules.bias + apart + c, total)
    else:
        keep(sink.mode, rules.of_weight, memory.store, at, total)


@device
def keep(mode, rule, store, at, gradient):
    """An element of a gradient: it is stepped on, added to what is kept, or written over that."""
    if mode == STEP:
        step(rule, store, at, gradient)
    elif mode == ACCUMULATE:
        store[at] += gradient
    else:
        store[at] = gradient


# -------------------------------------------------------------------------- products


@device
def load(team, tile, factor, first, rows, begin, end):
    """Tile (k, r) <- TILE rows of a factor from `first` on, DEPTH of their elements, zero past the
    end of either. Neighbouring threads read neighbouring elements.
    """
    real = tile.dtype.type
    for e in range(team.thread, TILE * DEPTH, THREADS):
        k, r = (e % DEPTH, e // DEPTH) if factor.depth == 1 else (e // TILE, e % TILE)
        row, at, value = first + r, begin + k, real(0)
        if row < rows and at < end:
            value = real(1)
            if row != factor.ones:
                value = factor.array[factor.start + row * factor.row + at * factor.depth]
        tile[k, r] = value


@device
def products(team, left, right, shape, sink, rules, memory):
    """Every element (r, c) of the product of two factors to its sink.

    An element is one chain of fused multiply-adds over the reduction, whatever the tile.
    """
    across = (shape.columns + TILE - 1) // TILE
    tiles = (shape.rows + TILE - 1) // TILE * across
    y, x = team.thread // SIDE, team.thread % SIDE
    for piece in range(team.block, tiles * shape.shards, team.blocks):
        shard, tile = piece // tiles, piece % tiles
        top, left_most = tile // across * TILE, tile % across * TILE
        end = least(shape.depth, (shard + 1) * shape.shard)
        sums = cuda.local.array((MICRO, MICRO), memory.arena.dtype)
        for i in range(MICRO):
            for j in range(MICRO):
                sums[i, j] = 0
        for begin in range(shard * shape.shard, end, DEPTH):
            load(team, team.left, left, top, shape.rows, begin, end)
            load(team, team.right, right, left_most, shape.columns, begin, end)
            cuda.syncthreads()
            for k in range(DEPTH):
                for i in range(MICRO):
                    value = team.left[k, y + i * SIDE]
                    for j in range(MICRO):
                        sums[i, j] = cuda.fma(value, team.right[k, x + j * SIDE], sums[i, j])
            cuda.syncthreads()
        for i in range(MICRO):
            for j in range(MICRO):
                r, c = top + y + i * SIDE, left_most + x + j * SIDE
                if r < shape.rows and c < shape.columns:
                    finish(sink, rules, memory, shard * rules.apart, (r, c), sums[i, j])


@device
def rules_of(op, constants, batch, memory, bias_row):
    """How weight and bias of an op are stepped on, or where their gradients are kept."""
    real = memory.store.dtype.type
    return Rules(
        rule_of(real, op, constants, batch.record, 0),
        rule_of(real, op, constants, batch.record, 1),
        bias_row,
        op[AT.bias] if op[AT.gradient] == WORDS.update else op[AT.bias_gradient],
        op[AT.shard_bytes],
    )


muon = muon_ops(products, block_sum, rules_of)


@device
def kept_as(op, batch):
    """The mode of a sink of gradients."""
    if op[AT.gradient] == WORDS.update:
        return STEP
    if op[AT.gradient] == WORDS.accumulate or batch.record[RECORD.accumulate] != 0:
        return ACCUMULATE
    return OVERWRITE


@device
def dense_forward(team, op, constants, batch, memory, data):
    """Output <- activation(input . weight + bias), of rows of the arena or of stream X."""
    left = Factor(memory.arena, op[AT.input], op[AT.ld_input], 1, -1)
    if op[AT.from_stream]:
        left = Factor(data.X, batch.first * op[AT.I], op[AT.I], 1, -1)
    right = Factor(memory.store, op[AT.weight], 1, op[AT.O], -1)
    shape = Shape(batch.n, op[AT.O], op[AT.I], 1, op[AT.I])
    rules = rules_of(op, constants, batch, memory, -1)
    kept, ld_kept = op[AT.slope], op[AT.ld_slope]
    place, ld = op[AT.output], op[AT.ld_output]
    sink = Sink(FORWARD, op[AT.activation], place, ld, op[AT.bias], 0, kept, ld_kept, 1.0, 0.0)
    products(team, left, right, shape, sink, rules, memory)


@device
def dense_backward_input(team, op, constants, batch, memory):
    """d_input <- (d_output . weight') * activation'(input)"""
    left = Factor(memory.arena, op[AT.d_output], op[AT.ld_output], 1, -1)
    right = Factor(memory.store, op[AT.weight], op[AT.O], 1, -1)
    shape = Shape(batch.n, op[AT.I], op[AT.O], 1, op[AT.O])
    rules = rules_of(op, constants, batch, memory, -1)
    place, ld = op[AT.d_input], op[AT.ld_d_input]
    made, ld_made, kept = op[AT.input], op[AT.ld_input], op[AT.slope]
    if kept >= 0:
        made, ld_made = kept, op[AT.ld_slope]
    sink = Sink(SLOPE, op[AT.activation], place, ld, made, ld_made, kept, 0, 1.0, 0.0)
    products(team, left, right, shape, sink, rules, memory)


@device
def dense_backward_weight(team, op, constants, batch, memory):
    """Gradient <- input' . d_output, and that of the bias, whose input is one more row of ones."""
    I = op[AT.I] if op[AT.input] >= 0 else 0  # of a CSR input only the bias is left to do
    left = Factor(memory.arena, op[AT.input], 1, op[AT.ld_input], I)
    right = Factor(memory.arena, op[AT.d_output], 1, op[AT.ld_output], -1)
    n, shard = batch.n, op[AT.shard_rows]
    shards, shard = ((n + shard - 1) // shard, shard) if shard > 0 else (1, n)
    ones = 1 if op[AT.bias] >= 0 else 0  # else the bias is a normalization's
    shape = Shape(I + ones, op[AT.O], n, shards, shard)
    rules, mode = rules_of(op, constants, batch, memory, I), kept_as(op, batch)
    place = op[AT.weight] if mode == STEP else op[AT.weight_gradient]
    sink = Sink(mode, 0, place, op[AT.O], 0, 0, -1, 0, 1.0, 0.0)
    products(team, left, right, shape, sink, rules, memory)


@device
def update(team, op, constants, batch, memory):
    """Steps on kept gradients, which those of the shards are added to first."""
    if op[AT.extended]:
        extended_update(team, op, constants, batch, memory)
        return
    rules, n, O = rules_of(op, constants, batch, memory, op[AT.I]), op[AT.I] * op[AT.O], op[AT.O]
    shards = (batch.n - 1) // op[AT.shard_rows] + 1 if op[AT.shard_rows] > 0 else 1
    end = n + O if op[AT.bias] >= 0 else n
    for e in range(first_of(team), end, stride_of(team)):
        bias = e >= n
        place = op[AT.bias_gradient] + e - n if bias else op[AT.weight_gradient] + e
        gradient = memory.store[place]
        for shard in range(1, shards):
            gradient += memory.store[place + shard * rules.apart]
        if bias:
            step(rules.of_bias, memory.store, op[AT.bias] + e - n, gradient)
        else:
            step(rules.of_weight, memory.store, op[AT.weight] + e, gradient)


@device
def gradient_pieces(team, tables, constants, batch, memory):
    """Partials, behind those of squares <- sums over pieces of the parameters of their squared
    mean gradients; returns how many.
    """
    real, piece = memory.store.dtype.type, 0
    for k in range(tables.parameters.shape[0]):
        op = tables.parameters[k]
        n = op[AT.I] * op[AT.O] if op[AT.weight_gradient] >= 0 else 0  # else it is not trained
        O = op[AT.O] if op[AT.bias_gradient] >= 0 else 0
        of_weight = extension_of(real, op, constants, batch, memory, 0)
        of_bias = extension_of(real, op, constants, batch, memory, 1)
        pieces = (n + O + PIECE - 1) // PIECE
        for p in range((team.block - piece) % team.blocks, pieces, team.blocks):
            total = np.float64(0)
            for e in range(p * PIECE + team.thread, least(n + O, (p + 1) * PIECE), THREADS):
                if e < n:
                    w, g = memory.store[op[AT.weight] + e], memory.store[op[AT.weight_gradient] + e]
                    g = penalised(of_weight, w, g)
                else:
                    w = memory.store[op[AT.bias] + e - n]
                    g = penalised(of_bias, w, memory.store[op[AT.bias_gradient] + e - n])
                total += np.float64(g) * np.float64(g)
            total = block_sum(team, total)
            if team.thread == 0:
                memory.partials[n_square_pieces(tables) + piece + p] = total
        piece += pieces
    return piece


@device
def clip_gradient(team, op, constants, memory, first, pieces):
    """Clip_scale <- what clips the gradient, by the sums of its pieces: by the first block."""
    if team.block != 0:
        return
    total = np.float64(0)
    for p in range(team.thread, pieces, THREADS):
        total += memory.partials[first + p]
    total = block_sum(team, total)
    if team.thread == 0:
        scale = constants[CLIP_NORM] / (sqrt(total) + 1e-6)
        memory.store[op[AT.clip_scale]] = 1.0 if scale > 1.0 else scale


# -------------------------------------------------------------------------- CSR input


@device
def csr_forward(team, op, batch, memory, data):
    """Output <- activation(input . weight + bias), of rows of a CSR stream X."""
    O, ld = op[AT.O], op[AT.ld_weight]
    for e in range(first_of(team), batch.n * O, stride_of(team)):
        r, o = e // O, e % O
        row = row_of(batch, r)
        total = memory.store[op[AT.bias] + o]
        for k in range(data.indptr[row], data.indptr[row + 1]):
            weight = memory.store[op[AT.weight] + data.indices[k] * ld + o]
            total = cuda.fma(data.X[k], weight, total)
        at = op[AT.output] + r * op[AT.ld_output] + o
        kept = op[AT.slope] + r * op[AT.ld_slope] + o if op[AT.slope] >= 0 else -1
        activate(memory, op[AT.activation], total, at, kept)


@device
def place_of(batch, memory, row):
    """Which row of the batch a row of the streams is; outside 0 .. n - 1 if it is none."""
    return (memory.positions[row] if batch.ordered else row) - batch.first


@device
def csr_backward_weight(team, op, constants, batch, memory, data):
    """Gradient <- input' . d_output, of rows of a CSR stream X.

    Entries are read by columns, in the order of their rows: a sum needs no atomic addition. Those
    of other batches are passed over.
    """
    rules, mode, O = rules_of(op, constants, batch, memory, 0), kept_as(op, batch), op[AT.O]
    ld, place = op[AT.ld_weight], op[AT.weight]
    if mode != STEP:
        ld, place = O, op[AT.weight_gradient]
    for e in range(first_of(team), op[AT.I] * O, stride_of(team)):
        i, o = e // O, e % O
        total, touched = memory.arena.dtype.type(0), False
        for k in range(data.column_starts[i], data.column_starts[i + 1]):
            r = place_of(batch, memory, data.column_rows[k])
            if r >= 0 and r < batch.n:
                touched = True
                delta = memory.arena[op[AT.d_output] + r * op[AT.ld_output] + o]
                total = cuda.fma(data.column_values[k], delta, total)
        if touched or mode != STEP or not op[AT.lazy]:
            keep(mode, rules.of_weight, memory.store, place + i * ld + o, total)
    dense_backward_weight(team, op, constants, batch, memory)


@device
def is_touched(batch, memory, data, i):
    """Whether the batch has something of a feature."""
    for k in range(data.column_starts[i], data.column_starts[i + 1]):
        r = place_of(batch, memory, data.column_rows[k])
        if r >= 0 and r < batch.n:
            return True
    return False


@device
def csr_update(team, op, constants, batch, memory, data):
    """Steps on kept gradients, if lazy of the features that the batch touches."""
    rules, n, O = rules_of(op, constants, batch, memory, 0), op[AT.I] * op[AT.O], op[AT.O]
    end = n + O if op[AT.bias] >= 0 else n
    for e in range(first_of(team), end, stride_of(team)):
        if e >= n:
            gradient = memory.store[op[AT.bias_gradient] + e - n]
            step(rules.of_bias, memory.store, op[AT.bias] + e - n, gradient)
            continue
        i = e // O
        if not op[AT.lazy] or is_touched(batch, memory, data, i):
            gradient = memory.store[op[AT.weight_gradient] + e]
            at = op[AT.weight] + i * op[AT.ld_weight] + e % O
            step(rules.of_weight, memory.store, at, gradient)


@device
def extended_csr_update(team, op, constants, batch, memory, data):
    """The same by extended steps."""
    real, n, O = memory.store.dtype.type, op[AT.I] * op[AT.O], op[AT.O]
    of_weight = extension_of(real, op, constants, batch, memory, 0)
    of_bias = extension_of(real, op, constants, batch, memory, 1)
    end = n + O if op[AT.bias] >= 0 else n
    for e in range(first_of(team), end, stride_of(team)):
        if e >= n:
            gradient = memory.store[op[AT.bias_gradient] + e - n]
            extended_step(of_bias, memory.store, op[AT.bias] + e - n, gradient)
        elif not op[AT.lazy] or is_touched(batch, memory, data, e // O):
            gradient = memory.store[op[AT.weight_gradient] + e]
            at = op[AT.weight] + e // O * op[AT.ld_weight] + e % O
            extended_step(of_weight, memory.store, at, gradient)


# -------------------------------------------------------------------------- ends


@device
def gather(team, op, batch, memory, data):
    """Output <- rows of stream X"""
    I = op[AT.I]
    for e in range(first_of(team), batch.n * I, stride_of(team)):
        r = e // I
        memory.arena[op[AT.output] + r * op[AT.ld_output] + e % I] = data.X[
            row_of(batch, r) * I + e % I
        ]


@device
def clipped(p, eps):
    """A probability between eps and 1 - eps; what is no number stays so."""
    if p < eps:
        return eps
    return 1 - eps if p > 1 - eps else p


@device
def loss_element(real, op, constants, z, y):
    """Delta and loss of an output before its activation, but for softmax."""
    if op[AT.loss] == WORDS.squared_error:
        return z - y, 0.5 * np.float64(z - y) * np.float64(z - y) / op[AT.O]
    if op[AT.loss] == WORDS.poisson:
        mean = exp(np.float64(z))
        entropy = y * (log(np.float64(y)) - z) if y > 0 else np.float64(0)
        return exp(z) - y, entropy - y + mean
    if op[AT.loss] == WORDS.binary_log_loss:
        p = activated(WORDS.logistic, z)
        c = np.float64(clipped(p, real(constants[EPS])))
        return p - y, -(y * log(c) + (1 - y) * log(1 - c))
    delta, value = any_loss_element(op[AT.loss], np.float64(z), np.float64(y), constants, FIRST)
    return real(delta), value


@device
def loss(team, op, constants, batch, memory, data):
    """Deltas of all rows, and their losses."""
    real, O, kind = memory.arena.dtype.type, op[AT.O], op[AT.loss]
    eps = real(constants[EPS])
    for r in range(first_of(team), batch.n, stride_of(team)):
        row, weight, at = row_of(batch, r), weight_of(batch, data, r), r * op[AT.ld_output]
        z, delta, total = op[AT.output] + at, op[AT.d_output] + at, np.float64(0)
        if kind == WORDS.log_loss:
            softmax(memory.arena, z, O)
            code = z + data.codes[row]
            total = -log(np.float64(clipped(memory.arena[code], eps)))
            memory.arena[code] -= real(1)
        elif kind >= WORDS.smooth_log_loss:
            total = row_loss(kind, memory.arena, z, O, (data, row), constants, FIRST)
        for o in range(O):
            value = memory.arena[z + o]
            if kind != WORDS.log_loss and kind < WORDS.smooth_log_loss:
                y = data.targets[row * O + o]
                value, part = loss_element(real, op, constants, value, y)
                total += part
            memory.arena[delta + o] = value * real(weight)
        memory.arena[op[AT.row_loss] + r] = real(weight * total)


@device
def output_rows(team, op, constants, batch, memory):
    """Out <- output activation of output"""
    O = op[AT.O]
    for r in range(first_of(team), batch.n, stride_of(team)):
        at, to = op[AT.output] + r * op[AT.ld_output], (batch.first + r) * O
        for o in range(O):
            memory.out[to + o] = activated(op[AT.activation], memory.arena[at + o])
        if op[AT.activation] == WORDS.softmax:
            softmax(memory.out, to, O)
        elif op[AT.activation] >= WORDS.ordered:
            end_row(op[AT.activation], memory.out, to, O, constants, FIRST)


# -------------------------------------------------------------------------- losses


@device
def n_square_pieces(tables):
    """How many sums that makes."""
    pieces = 0
    for k in range(tables.parameters.shape[0]):
        op = tables.parameters[k]
        pieces += (op[AT.I] * op[AT.O] + PIECE - 1) // PIECE
    return pieces


@device
def square_pieces(team, tables, batch, memory):
    """Partials <- sums over pieces of the weights of decay times what each adds to twice the
    penalty.
    """
    piece, l1_ratio = 0, tables.constants[0, L1_RATIO]
    for k in range(tables.parameters.shape[0]):
        op = tables.parameters[k]
        O, ld, n = op[AT.O], op[AT.ld_weight], op[AT.I] * op[AT.O]
        decay = batch.record[RECORD.scalars + op[AT.weight_group] * N_SCALARS + WORDS.decay]
        pieces = (n + PIECE - 1) // PIECE
        l1, l2 = 2 * l1_ratio, 1 - l1_ratio
        for p in range((team.block - piece) % team.blocks, pieces, team.blocks):
            total = np.float64(0)
            for e in range(p * PIECE + team.thread, least(n, (p + 1) * PIECE), THREADS):
                weight = np.float64(memory.store[op[AT.weight] + e // O * ld + e % O])
                total += l2 * weight * weight + l1 * abs(weight)
            total = block_sum(team, total)
            if team.thread == 0:
                memory.partials[piece + p] = decay * total
        piece += pieces


@device
def note_step(team, tables, batch, memory, row_loss, report):
    """Adds what the rows of a batch lost to the loss of the epoch: by the first block."""
    pieces = n_square_pieces(tables)
    total = squares = np.float64(0)
    for r in range(team.thread, batch.n, THREADS):
        total += memory.arena[row_loss + r]
    if batch.record[RECORD.penalty] != 0:  # else nobody wrote them
        for p in range(team.thread, pieces, THREADS):
            squares += memory.partials[p]
    total, squares = block_sum(team, total), block_sum(team, squares)
    if team.thread == 0:
        record = batch.record
        share = total + record[RECORD.penalty] * squares
        report[REPORT.loss] += share * record[RECORD.factor]
        report[REPORT.squares] = squares
        report[REPORT.steps] += 1


@device
def note_epoch(report, n):
    """The end of an epoch of n rows: its mean loss, and whether to stop."""
    mean, epoch = report[REPORT.loss] / n, int(report[REPORT.epochs])
    report[REPORT.losses + epoch] = mean
    report[REPORT.loss] = 0
    report[REPORT.epochs] += 1
    if report[REPORT.ruled] != 0:
        worse = mean > report[REPORT.best] - report[REPORT.tol]
        report[REPORT.failed] = report[REPORT.failed] + 1 if worse else 0
        if mean < report[REPORT.best]:
            report[REPORT.best] = mean
        if report[REPORT.failed] > report[REPORT.patience]:
            report[REPORT.stopped] = 1


# -------------------------------------------------------------------------- kernels


@device
def meet_block():
    """All threads of the block wait for each other."""
    cuda.syncthreads()


@device
def meet_grid():
    """All threads of the grid wait for each other; it has to be launched as one."""
    cuda.cg.this_grid().sync()


norm_op = cuda_norm.compiled(globals())


@device
def share_of(job, memory, data, store):
    """The memory and the data of one model."""
    mine = Memory(
        store,
        memory.arena[job[JOB.arena] :],
        memory.positions[job[JOB.positions] :],
        memory.partials[job[JOB.partials] :],
        memory.out[job[JOB.out] :],
    )
    return mine, Data(
        data.X[job[JOB.X] :],
        data.targets[job[JOB.targets] :],
        data.weights[job[JOB.weights] :],
        data.codes[job[JOB.codes] :],
        data.indices[job[JOB.entries] :],
        data.indptr[job[JOB.indptr] :],
        data.column_values[job[JOB.entries] :],
        data.column_rows[job[JOB.entries] :],
        data.column_starts[job[JOB.columns] :],
    )


def custom_ops(function):
    """What calls the user's functions: an activation of rows that were just written, and a loss."""

    @device
    def activate_custom(team, op, batch, memory):
        O = op[AT.O]
        for e in range(first_of(team), batch.n * O, stride_of(team)):
            r, o = e // O, e % O
            at = op[AT.output] + r * op[AT.ld_output] + o
            z = memory.arena[at]
            value, derivative = function(op[AT.function], z, z)
            memory.arena[at] = value
            if op[AT.slope] >= 0:
                memory.arena[op[AT.slope] + r * op[AT.ld_slope] + o] = derivative

    @device
    def custom_loss(team, op, batch, memory, data):
        O = op[AT.O]
        for r in range(first_of(team), batch.n, stride_of(team)):
            row, total = row_of(batch, r), np.float64(0)
            weight, at = weight_of(batch, data, r), r * op[AT.ld_output]
            for o in range(O):
                z = memory.arena[op[AT.output] + at + o]
                value, delta = function(op[AT.function], data.targets[row * O + o], z)
                total += value
                memory.arena[op[AT.d_output] + at + o] = delta * memory.arena.dtype.type(weight)
            memory.arena[op[AT.row_loss] + r] = memory.arena.dtype.type(weight * total)

    return activate_custom, custom_loss


def walker(meet, function):
    """A walk of the table over a batch, by a team that meets in some way, with the user's
    functions.
    """
    from .cuda_draws import augment, copy_rows, partners_of  # made of what is here

    activate_custom, custom_loss = custom_ops(function)

    @device
    def walk(team, tables, batch, memory, data):
        row_loss = -1
        for k in range(tables.ops.shape[0]):
            op, constants = tables.ops[k], tables.constants[k]
            kind = op[AT.kind]
            if kind == WORDS.GATHER:
                gather(team, op, batch, memory, data)
            elif kind == WORDS.DENSE_FORWARD:
                dense_forward(team, op, constants, batch, memory, data)
            elif kind == WORDS.CSR_FORWARD:
                csr_forward(team, op, batch, memory, data)
            elif kind == WORDS.LOSS or kind == WORDS.PARTNER_LOSS:
                targets = batch
                if kind == WORDS.PARTNER_LOSS:
                    copy_rows(team, op, batch, memory)
                    meet()
                    targets = partners_of(batch)
                if op[AT.loss] == WORDS.custom_loss:
                    custom_loss(team, op, targets, memory, data)
                else:
                    loss(team, op, constants, targets, memory, data)
                row_loss = op[AT.row_loss]
            elif kind == WORDS.OUTPUT:
                output_rows(team, op, constants, batch, memory)
            elif kind == WORDS.DENSE_BACKWARD_INPUT:
                dense_backward_input(team, op, constants, batch, memory)
            elif kind == WORDS.DENSE_BACKWARD_SHARD or kind == WORDS.DENSE_BACKWARD_WEIGHT:
                dense_backward_weight(team, op, constants, batch, memory)
            elif kind == WORDS.CSR_BACKWARD_WEIGHT:
                csr_backward_weight(team, op, constants, batch, memory, data)
            elif kind == WORDS.UPDATE:
                update(team, op, constants, batch, memory)
            elif kind == WORDS.CSR_UPDATE and op[AT.extended]:
                extended_csr_update(team, op, constants, batch, memory, data)
            elif kind == WORDS.CSR_UPDATE:
                csr_update(team, op, constants, batch, memory, data)
            elif kind == WORDS.GRADIENT_NORM:
                pieces = gradient_pieces(team, tables, constants, batch, memory)
                meet()
                clip_gradient(team, op, constants, memory, n_square_pieces(tables), pieces)
            elif kind == WORDS.MAX_NORM:
                max_norm(team, op, constants, batch, memory)
            else:
                muon(team, op, constants, batch, memory)
                norm_op(team, op, constants, batch, memory)
                augment(team, op, constants, batch, memory, data)
            forward = kind == WORDS.DENSE_FORWARD or kind == WORDS.CSR_FORWARD
            if (forward or kind == WORDS.NORMALIZE) and op[AT.activation] == WORDS.custom:
                meet()
                activate_custom(team, op, batch, memory)
            if op[AT.meet]:
                meet()
        return row_loss

    return walk


def runner(meet, function):
    """What runs the records of a job, by a team that meets in some way."""
    walk = walker(meet, function)

    @device
    def run(team, tables, memory, data, job, times, report):
        records, orders = times
        n, epoch = job[JOB.n], np.int64(-1)
        seed = np.uint64(job[JOB.seed_low]) | np.uint64(job[JOB.seed_high]) << np.uint64(32)
        for s in range(job[JOB.first], job[JOB.last]):
            record = records[s]
            if report[REPORT.stopped] != 0:
                break
            rows = int(record[RECORD.rows])
            order = orders[job[JOB.order] + int(record[RECORD.epoch]) * n * job[JOB.ordered] :]
            first = int(record[RECORD.start])
            ordered, weighted = job[JOB.ordered], job[JOB.weighted]
            batch = Batch(first, rows, ordered, weighted, order, record, seed, 0)
            if rows == 0:
                meet()  # all have read whether to stop: who sees it later would not meet the others
                if team.block == 0 and team.thread == 0:
                    note_epoch(report, n)
                meet()
                continue
            if batch.ordered and job[JOB.inverted] >= 0 and epoch != int(record[RECORD.epoch]):
                epoch = int(record[RECORD.epoch])
                for row in range(first_of(team), job[JOB.inverted], stride_of(team)):
                    memory.positions[row] = -1
                meet()
                for p in range(first_of(team), n, stride_of(team)):
                    memory.positions[order[p]] = p  # who reads it has met the others since
            if record[RECORD.penalty] != 0:
                square_pieces(team, tables, batch, memory)
            row_loss = walk(team, tables, batch, memory, data)
            if row_loss >= 0 and team.block == 0:
                note_step(team, tables, batch, memory, row_loss, report)
            meet()

    return run


@device
def team_of(memory, block, blocks):
    """The thread that runs, as one of a team."""
    real = memory.arena.dtype
    left = cuda.shared.array(SLICE, real)
    right = cuda.shared.array(SLICE, real)
    sums = cuda.shared.array(THREADS, np.float64)
    return Team(cuda.threadIdx.x, block, blocks, left, right, sums)


if SIMULATED:  # whose threads would allocate the same array twice
    _allocating, _team_of = threading.Lock(), team_of

    def team_of(memory, block, blocks):
        """As above."""
        with _allocating:
            return _team_of(memory, block, blocks)


@lru_cache(maxsize=64)
def kernels_with(functions, real):
    """The two kernels, with functions of the user in a plan of some dtype compiled into them."""
    function = no_function
    for number, added in enumerate(functions):
        function = with_function(added, real, number, function)
    run, run_on_grid = runner(meet_block, function), runner(meet_grid, function)

    @cuda.jit
    def run_blocks(tables, memory, data, jobs, records, orders, reports):
        """Runs the records of many models, each by one block, its weights and moments in shared
        memory if the launch asked for as much.
        """
        quiet()
        job = jobs[cuda.blockIdx.x]
        team = team_of(memory, 0, 1)
        place, size = job[JOB.store], job[JOB.size]
        store = memory.store[place:]
        near = cuda.shared.array(0, memory.store.dtype)
        shared = near.size >= size
        if shared:
            store = near[:]
            for e in range(team.thread, size, THREADS):
                store[e] = memory.store[place + e]
            cuda.syncthreads()
        mine, its_data = share_of(job, memory, data, store)
        report = reports[job[JOB.report] :]
        run(team, tables, mine, its_data, job, (records, orders), report)
        if shared:  # all have met after the last record
            for e in range(team.thread, size, THREADS):
                memory.store[place + e] = store[e]

    @cuda.jit
    def run_grid(tables, memory, data, jobs, records, orders, reports):
        """Runs the records of one model by the whole grid."""
        quiet()
        job = jobs[0]
        team = team_of(memory, cuda.blockIdx.x, cuda.gridDim.x)
        mine, its_data = share_of(job, memory, data, memory.store[job[JOB.store] :])
        report = reports[job[JOB.report] :]
        run_on_grid(team, tables, mine, its_data, job, (records, orders), report)

    return run_blocks, run_grid
