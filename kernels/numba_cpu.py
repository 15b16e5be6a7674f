"""The op table run by numba on one thread: portable, and a second implementation of every op.

Plans for it are laid out by `ROW_MAJOR` (``hotloop.kernels``): weights are plain (I, O) rows, and
nothing is padded. Offsets of an op are bytes, here they become elements. Everything is one flat
array of the plan's dtype; `O` elements from a place on are a row.
"""

import time
from collections import namedtuple
from math import exp, log, sqrt, tanh

import numpy as np
from llvmlite import ir as llvm
from numba import types
from numba.extending import intrinsic

from . import DTYPES, GRADIENTS, KINDS, activations, losses, muon, numba_norm, steps
from .custom import compiled
from .numba_draws import draw as draw  # for those who look at words
from .numba_draws import dropout, mix_rows, noise
from .numba_jit import WORDS, jit

#: What a run reads: X dense (n * I,), or its CSR arrays; codes (n,), of several heads (n * heads,),
#: or targets (n * O,); weights (n,). What there is not is empty.
Streams = namedtuple("Streams", "X indices indptr codes targets weights")
#: What it works on, flat: activations and deltas, parameters, a weight that is read where the user
#: has it, the gradient of one row of a weight or of a bias, that of the whole weight on CSR input
#: (zero between steps), the features that a batch has, the user's functions (functions * 3,),
#: each an hl_function, and the constants of losses.
Memory = namedtuple("Memory", "arena store plain row gradient touched marks functions constants")
#: The rows of a step, what its optimizer is to know, and what is drawn for it. Row r is the partner
#: of that row, `turn` rows further on, where turn is not 0.
Batch = namedtuple("Batch", "order first n scalars inverse_weight seed step turn")
#: Epochs of n rows in batches of `size`; mean losses and the stopping rule are kept up to date.
#: `drawn`: the seed of what is drawn, and the number of the first step of all calls.
Epochs = namedtuple("Epochs", "orders n size scalars losses stop drawn")
#: How far they have come. done: epochs, rows of the one under way, scalars used up, steps of all
#: calls; loss: of the epoch under way.
Progress = namedtuple("Progress", "done loss")

#: How long a call of compiled code may take: signals are answered between calls.
CALL_SECONDS = 0.02


@intrinsic
def call(typing, address, arguments):
    """Calls a C function of integers (pointers among them) that returns nothing."""

    def generate(context, builder, signature, values):
        integers = [builder.extract_value(values[1], k) for k in range(len(arguments))]
        kind = llvm.FunctionType(llvm.VoidType(), [integer.type for integer in integers])
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), integers)
        return context.get_dummy_value()

    return types.void(address, arguments), generate


loss_element, row_loss, end_row = losses.compiled(jit)
extended_steps, gradient_squares, gradient_norm, max_norm = steps.of_records(jit)
muon_op, muon_update = muon.of_records(jit)


@jit
def row_of(batch, r):
    """Row of the streams that is row r of the batch, or its partner."""
    place = batch.first + (r + batch.turn if r + batch.turn < batch.n else r + batch.turn - batch.n)
    return batch.order[place] if batch.order.size else place


# ------------------------------------------------------------------------------ forward


value_and_slope = activations.compiled(jit)


@jit
def activate_with_slopes(activation, row, slopes):
    """Overwrites a row with its activation, and keeps the slopes if there is room for them."""
    for o in range(row.size):
        row[o], slope = value_and_slope(activation, np.float64(row[o]))
        if slopes.size:
            slopes[o] = slope


@jit
def activate(words, activation, row):
    """Overwrites a row with its activation, which may be that of an output layer."""
    one = row.dtype.type(1)
    if activation == words.relu:
        for o in range(row.size):
            row[o] = max(row[o], row.dtype.type(0))
    elif activation == words.logistic:
        for o in range(row.size):
            e = exp(-abs(row[o]))
            row[o] = (one if row[o] >= 0 else e) / (one + e)
    elif activation == words.tanh:
        for o in range(row.size):
            row[o] = tanh(row[o])
    elif activation == words.exp:
        for o in range(row.size):
            row[o] = exp(row[o])
    elif activation == words.softmax:
        top, total = row.max(), row.dtype.type(0)
        for o in range(row.size):
            row[o] = exp(row[o] - top)
            total += row[o]
        for o in range(row.size):
            row[o] /= total
    elif activation != words.identity and activation != words.custom:
        activate_with_slopes(activation, row, row[:0])


@jit
def activate_custom(op, batch, memory):
    """Overwrites all rows with the user's activation of them, and keeps its slopes if need be."""
    item = memory.arena.itemsize
    for r in range(batch.n):
        at = op.output // item + r * op.ld_output
        row = memory.arena[at : at + op.O].ctypes.data
        if op.slope < 0:
            call(memory.functions[3 * op.function], (np.intp(row), np.intp(op.O)))
        else:
            at = op.slope // item + r * op.ld_slope
            slope = memory.arena[at : at + op.O].ctypes.data
            places = np.intp(row), np.intp(slope), np.intp(op.O)
            call(memory.functions[3 * op.function + 1], places)


@jit
def weight_stride(op):
    """Elements from a row of a weight to the next: more than O where slots lie between."""
    return op.ld_weight if op.ld_weight > 0 else op.O


@jit
def add_product(row, factor, other):
    """Row += factor * other"""
    for o in range(row.size):
        row[o] += factor * other[o]


@jit
def forward_row(words, op, values, columns, memory, r):
    """Row r of the output <- activation(bias + sum over entries of value * weight[column])"""
    item, weight, start = memory.store.itemsize, memory.plain, 0
    at = op.output // item + r * op.ld_output
    row = memory.arena[at : at + op.O]
    if op.weight >= 0:
        weight, start = memory.store, op.weight // item
    row[:] = memory.store[op.bias // item : op.bias // item + op.O]
    for e in range(values.size):
        i = columns[e] if columns.size else e
        place = start + i * weight_stride(op)
        add_product(row, values[e], weight[place : place + op.O])
    if op.slope >= 0 and op.activation != words.custom:
        at = op.slope // item + r * op.ld_slope
        activate_with_slopes(op.activation, row, memory.arena[at : at + op.O])
    else:
        activate(words, op.activation, row)


@jit
def dense_forward(words, op, batch, streams, memory):
    """Output <- activation(input . weight + bias), of rows of the arena or of stream X."""
    item = memory.store.itemsize
    for r in range(batch.n):
        source = memory.arena
        place = op.input // item + r * op.ld_input
        if op.from_stream:
            source, place = streams.X, (batch.first + r) * op.I
        values, all_columns = source[place : place + op.I], streams.indices[:0]
        forward_row(words, op, values, all_columns, memory, r)
    if op.activation == words.custom:
        activate_custom(op, batch, memory)


@jit
def csr_forward(words, op, batch, streams, memory):
    """The same, of rows of a CSR stream X."""
    for r in range(batch.n):
        row = row_of(batch, r)
        begin, end = streams.indptr[row], streams.indptr[row + 1]
        values, columns = streams.X[begin:end], streams.indices[begin:end]
        forward_row(words, op, values, columns, memory, r)
    if op.activation == words.custom:
        activate_custom(op, batch, memory)


@jit
def gather(op, batch, streams, memory):
    """Output <- rows of stream X"""
    for r in range(batch.n):
        place = op.output // memory.arena.itemsize + r * op.ld_output
        start = row_of(batch, r) * op.I
        memory.arena[place : place + op.I] = streams.X[start : start + op.I]


# --------------------------------------------------------------------------------- ends


@jit
def output_rows(words, op, batch, memory, out):
    """Out <- output activation of output"""
    for r in range(batch.n):
        place = op.output // memory.arena.itemsize + r * op.ld_output
        row = out[(batch.first + r) * op.O : (batch.first + r + 1) * op.O]
        row[:] = memory.arena[place : place + op.O]
        if op.activation >= words.ordered:
            end_row(op.activation, row, 0, op.O, memory.constants, 0)
        else:
            activate(words, op.activation, row)


@jit
def clipped(p, eps):
    """A probability between eps and 1 - eps."""
    return max(eps, min(1 - eps, p))


@jit
def loss_row(words, op, z, streams, memory, row):
    """The loss of a row of outputs before their activation; z becomes the delta dL/dz."""
    real, total = z.dtype.type, 0.0
    if op.loss == words.custom_loss:
        y, losses = streams.targets[row * op.O : (row + 1) * op.O], memory.row[: op.O]
        places = np.intp(y.ctypes.data), np.intp(z.ctypes.data), np.intp(losses.ctypes.data)
        call(memory.functions[3 * op.function + 2], (*places, np.intp(op.O)))
        return losses.sum()
    eps = np.finfo(z.dtype).eps
    if op.loss == words.log_loss:
        activate(words, words.softmax, z)
        code = streams.codes[row]
        total = -log(clipped(z[code], eps))
        z[code] -= real(1)
        return total
    if op.loss >= words.smooth_log_loss:
        return row_loss(op.loss, z, 0, op.O, (streams, row), memory.constants, 0)
    for o in range(op.O):
        y = streams.targets[row * op.O + o]
        if op.loss == words.squared_error:
            z[o] -= y
            total += 0.5 * z[o] * z[o] / op.O
        elif op.loss == words.poisson:
            mean = exp(z[o])
            entropy = y * (log(np.float64(y)) - z[o]) if y > 0 else 0.0
            total += entropy - y + exp(np.float64(z[o]))
            z[o] = mean - y
        elif op.loss == words.binary_log_loss:
            activate(words, words.logistic, z[o : o + 1])
            c = clipped(z[o], eps)
            total -= y * log(c) + (1 - y) * log(1 - c)
            z[o] -= y
        else:
            at = np.float64(z[o])
            delta, part = loss_element(op.loss, at, np.float64(y), memory.constants, 0)
            z[o] = real(delta)
            total += part
    return total


@jit
def loss(words, op, batch, streams, memory):
    """Deltas of all rows; returns the sum of their losses."""
    item, total = memory.arena.itemsize, 0.0
    for r in range(batch.n):
        place, to, row = op.output // item + r * op.ld_output, op.d_output // item, row_of(batch, r)
        z = memory.arena[place : place + op.O]
        loss_of_row = loss_row(words, op, z, streams, memory, row)
        weight = streams.weights[row] if streams.weights.size else 1.0
        total += weight * loss_of_row
        delta = memory.arena[to + r * op.ld_output : to + r * op.ld_output + op.O]
        for o in range(op.O):
            delta[o] = z[o] * z.dtype.type(weight)
    return total


# ------------------------------------------------------------------------------ backward


@jit
def dense_backward_input(words, op, batch, memory):
    """d_input <- (d_output . weight') * activation'(input), by the weight's mirror (O, I)"""
    item, one = memory.arena.itemsize, memory.arena.dtype.type(1)
    for r in range(batch.n):
        at, of = op.d_input // item + r * op.ld_d_input, op.d_output // item + r * op.ld_output
        row, delta = memory.arena[at : at + op.I], memory.arena[of : of + op.O]
        row[:] = 0
        for o in range(op.O):
            start = op.mirror // item + o * op.I
            add_product(row, delta[o], memory.store[start : start + op.I])
        at = op.input // item + r * op.ld_input
        made = memory.arena[at : at + op.I]  # by the activation, which is known from it
        for i in range(op.I):
            if op.slope >= 0:
                row[i] *= memory.arena[op.slope // item + r * op.ld_slope + i]
            elif op.activation == words.relu:
                row[i] = row[i] if made[i] != 0 else row.dtype.type(0)
            elif op.activation == words.logistic:
                row[i] *= made[i] * (one - made[i])
            elif op.activation == words.tanh:
                row[i] *= one - made[i] * made[i]


@jit
def step(words, op, batch, store, group, gradient, places):
    """Steps as many elements as the gradient has, at places of weight and slots in the store."""
    weight, slot_0, slot_1 = places
    real, at = store.dtype.type, group * words.n_scalars
    rate, decay = real(batch.scalars[at + words.rate]), real(batch.scalars[at + words.decay])
    momentum = batch.scalars[at + words.momentum]
    beta, rest = real(momentum), real(1 - momentum)
    beta_2, rest_2 = real(op.beta_2), real(1 - op.beta_2)
    inverse, epsilon = real(batch.inverse_weight), real(op.epsilon)
    tiny = np.finfo(store.dtype).tiny  # what is smaller is taken for zero: arithmetic on it is slow
    for j in range(gradient.size):
        w = store[weight + j]
        g = (gradient[j] + decay * w) * inverse
        first = store[slot_0 + j]
        if op.optimizer == words.adam:
            first = beta * first + rest * g
            second = beta_2 * store[slot_1 + j] + rest_2 * (g * g)
            store[slot_1 + j] = second if second >= tiny else real(0)
            w -= rate * first / (sqrt(second) + epsilon)
        else:
            first = beta * first - rate * g
            w += beta * first - rate * g if op.optimizer == words.nesterov else first
        store[slot_0 + j] = first if abs(first) >= tiny else real(0)
        store[weight + j] = w


@jit
def sink_weight(words, op, batch, memory, i, gradient):
    """The gradient of row i of a weight: it is stepped on, or kept."""
    item, ld = memory.store.itemsize, weight_stride(op)
    if op.gradient == words.update and op.extended:
        parameter = False, op.weight // item + i * ld
        extended_steps(words, op, batch, memory.store, gradient, parameter)
        return
    if op.gradient == words.update:
        weight, slot_0, slot_1 = op.weight, op.weight_slot_0, op.weight_slot_1
        places = weight // item + i * ld, slot_0 // item + i * ld, slot_1 // item + i * ld
        step(words, op, batch, memory.store, op.weight_group, gradient, places)
        return
    keep(words, op, memory.store, op.weight_gradient // item + i * op.O, gradient)


@jit
def sink_bias(words, op, batch, memory, gradient):
    """The gradient of a bias: it is stepped on, or kept."""
    item = memory.store.itemsize
    if op.bias < 0:  # it is a normalization's
        return
    if op.gradient == words.update and op.extended:
        extended_steps(words, op, batch, memory.store, gradient, (True, op.bias // item))
        return
    if op.gradient == words.update:
        places = op.bias // item, op.bias_slot_0 // item, op.bias_slot_1 // item
        step(words, op, batch, memory.store, op.bias_group, gradient, places)
        return
    keep(words, op, memory.store, op.bias_gradient // item, gradient)


@jit
def keep(words, op, store, place, gradient):
    """Writes a gradient over what is at a place of the store, or adds it there."""
    if op.gradient == words.overwrite:
        store[place : place + op.O] = 0
    add_product(store[place : place + op.O], store.dtype.type(1), gradient)


@jit
def sum_columns(op, memory, begin, end, columns):
    """Columns <- sum of d_output over the rows begin .. end of the batch"""
    columns[:] = 0
    for r in range(begin, end):
        at = op.d_output // memory.arena.itemsize + r * op.ld_output
        add_product(columns, columns.dtype.type(1), memory.arena[at : at + op.O])


@jit
def sum_products(op, memory, i, begin, end, gradient):
    """Gradient <- row i of input' . d_output, over the rows begin .. end of the batch"""
    item = memory.arena.itemsize
    gradient[:] = 0
    for r in range(begin, end):
        delta, value = (
            op.d_output // item + r * op.ld_output,
            op.input // item + r * op.ld_input + i,
        )
        add_product(gradient, memory.arena[value], memory.arena[delta : delta + op.O])


@jit
def dense_backward_weight(words, op, batch, memory):
    """Gradient <- input' . d_output"""
    gradient = memory.row[: op.O]
    for i in range(op.I):
        sum_products(op, memory, i, 0, batch.n, gradient)
        sink_weight(words, op, batch, memory, i, gradient)
    sum_columns(op, memory, 0, batch.n, gradient)
    sink_bias(words, op, batch, memory, gradient)
    if op.gradient == words.update:
        refresh(op, memory)


@jit
def keep_shard(op, memory, begin, end, place):
    """dense_backward_weight to where the gradient of a shard is kept, `place` bytes further on."""
    item = memory.store.itemsize
    for i in range(op.I):
        at = (op.weight_gradient + place) // item + i * op.O
        sum_products(op, memory, i, begin, end, memory.store[at : at + op.O])
    if op.bias >= 0:
        at = (op.bias_gradient + place) // item
        sum_columns(op, memory, begin, end, memory.store[at : at + op.O])


@jit
def refresh(op, memory):
    """Mirror <- transpose of the weight"""
    item = memory.store.itemsize
    if op.mirror >= 0:
        for i in range(op.I):
            for o in range(op.O):
                weight = memory.store[op.weight // item + i * op.O + o]
                memory.store[op.mirror // item + o * op.I + i] = weight


@jit
def find_touched(batch, streams, memory):
    """Touched <- the features that the batch has, each once; returns how many. Leaves no mark."""
    n = 0
    for r in range(batch.n):
        row = row_of(batch, r)
        for i in streams.indices[streams.indptr[row] : streams.indptr[row + 1]]:
            if not memory.marks[i]:
                memory.marks[i] = 1
                memory.touched[n] = i
                n += 1
    for i in memory.touched[:n]:
        memory.marks[i] = 0
    return n


@jit
def csr_gradient(op, batch, streams, memory, gradient):
    """Gradient (I * O) += input' . d_output"""
    for r in range(batch.n):
        row, at = row_of(batch, r), op.d_output // memory.arena.itemsize + r * op.ld_output
        delta = memory.arena[at : at + op.O]
        for e in range(streams.indptr[row], streams.indptr[row + 1]):
            i = streams.indices[e]
            add_product(gradient[i * op.O : (i + 1) * op.O], streams.X[e], delta)


@jit
def csr_step(words, op, batch, memory, gradient, n):
    """Steps features: the n that the batch touched, or all, since what it did not touch has a
    gradient of zero.
    """
    for k in range(n if op.lazy else op.I):
        i = memory.touched[k] if op.lazy else k
        sink_weight(words, op, batch, memory, i, gradient[i * op.O : (i + 1) * op.O])


@jit
def csr_backward_weight(words, op, batch, streams, memory):
    """Gradient <- input' . d_output, of rows of a CSR stream X"""
    bias = memory.row[: op.O]
    sum_columns(op, memory, 0, batch.n, bias)
    sink_bias(words, op, batch, memory, bias)
    if op.gradient == words.update:
        gradient = memory.gradient[: op.I * op.O]
        n = find_touched(batch, streams, memory)
        csr_gradient(op, batch, streams, memory, gradient)
        csr_step(words, op, batch, memory, gradient, n)
        for i in memory.touched[:n]:
            gradient[i * op.O : (i + 1) * op.O] = 0
        return
    place = op.weight_gradient // memory.store.itemsize
    gradient = memory.store[place : place + op.I * op.O]
    if op.gradient == words.overwrite:
        gradient[:] = 0
    csr_gradient(op, batch, streams, memory, gradient)


@jit
def csr_update(words, op, batch, streams, memory):
    """Steps on kept gradients, for the features that the batch touches."""
    item, place = memory.store.itemsize, op.weight_gradient // memory.store.itemsize
    n = find_touched(batch, streams, memory)
    csr_step(words, op, batch, memory, memory.store[place : place + op.I * op.O], n)
    bias = op.bias_gradient // item
    sink_bias(words, op, batch, memory, memory.store[bias : bias + op.O])


@jit
def update(words, op, batch, memory):
    """Steps on kept gradients, which those of the shards are added to first."""
    item = memory.store.itemsize
    if op.shard_rows > 0:
        for shard in range(1, (batch.n - 1) // op.shard_rows + 1):
            apart = shard * op.shard_bytes
            n_bias = op.O if op.bias >= 0 else 0
            for first, size in ((op.weight_gradient, op.I * op.O), (op.bias_gradient, n_bias)):
                whole = memory.store[first // item : first // item + size]
                part = memory.store[(first + apart) // item : (first + apart) // item + size]
                add_product(whole, whole.dtype.type(1), part)
    for i in range(op.I):
        place = op.weight_gradient // item + i * op.O
        sink_weight(words, op, batch, memory, i, memory.store[place : place + op.O])
    place = op.bias_gradient // item
    sink_bias(words, op, batch, memory, memory.store[place : place + op.O])
    refresh(op, memory)


norm_op = numba_norm.compiled(jit, globals())


# ------------------------------------------------------------------------------- augment


@jit
def partners_of(batch):
    """The batch whose rows are the partners of those of this one."""
    of_all = batch.order, batch.first, batch.n, batch.scalars, batch.inverse_weight
    return Batch(*of_all, batch.seed, batch.step, batch.n // 2)


@jit
def partner_loss(words, op, batch, streams, memory):
    """Deltas and the sum of losses of the same outputs by targets and weights of the partners."""
    item = memory.arena.itemsize
    for r in range(batch.n):
        source, at = op.input // item + r * op.ld_input, op.output // item + r * op.ld_output
        memory.arena[at : at + op.O] = memory.arena[source : source + op.O]
    return loss(words, op, partners_of(batch), streams, memory)


@jit
def augment(words, op, batch, streams, memory):
    """An op that changes rows at random; whether it is one."""
    if op.kind == words.DROPOUT:
        dropout(op, batch, memory)
    elif op.kind == words.NOISE:
        noise(op, batch, memory)
    elif op.kind == words.PARTNER_GATHER:
        gather(op, partners_of(batch), streams, memory)
    elif op.kind == words.MIX:
        mix_rows(words, op, batch, memory)
    else:
        return False
    return True


# ---------------------------------------------------------------------------------- walk


@jit
def walk(words, ops, batch, streams, memory, out):
    """All ops on a batch; returns the sum of its losses. CSR_INDEX and CSR_CATCH_UP, which the
    compiled kernels put off steps by, have nothing to do where all are taken at once.
    """
    total, mix = 0.0, 1.0
    for k in range(ops.size):
        op = ops[k]
        if op.kind == words.GATHER:
            gather(op, batch, streams, memory)
        elif op.kind == words.DENSE_FORWARD:
            dense_forward(words, op, batch, streams, memory)
        elif op.kind == words.CSR_FORWARD:
            csr_forward(words, op, batch, streams, memory)
        elif op.kind == words.PARTNER_LOSS:
            mix = batch.scalars[words.mix]
            total += (1 - mix) * partner_loss(words, op, batch, streams, memory)
        elif op.kind == words.LOSS:
            total += mix * loss(words, op, batch, streams, memory)
        elif op.kind == words.OUTPUT:
            output_rows(words, op, batch, memory, out)
        elif op.kind == words.DENSE_BACKWARD_INPUT:
            dense_backward_input(words, op, batch, memory)
        elif op.kind == words.DENSE_BACKWARD_SHARD:
            for begin in range(0, batch.n, op.shard_rows):
                place = begin // op.shard_rows * op.shard_bytes
                keep_shard(op, memory, begin, min(begin + op.shard_rows, batch.n), place)
        elif op.kind == words.DENSE_BACKWARD_WEIGHT:
            dense_backward_weight(words, op, batch, memory)
        elif op.kind == words.CSR_BACKWARD_WEIGHT:
            csr_backward_weight(words, op, batch, streams, memory)
        elif op.kind == words.UPDATE:
            update(words, op, batch, memory)
        elif op.kind == words.CSR_UPDATE:
            csr_update(words, op, batch, streams, memory)
        elif op.kind == words.GRADIENT_SQUARES:
            gradient_squares(words, op, batch, memory)
        elif op.kind == words.GRADIENT_NORM:
            gradient_norm(op, memory)
        elif op.kind == words.MAX_NORM:
            max_norm(words, op, batch, memory)
            refresh(op, memory)
        elif op.kind == words.MUON_UPDATE:
            muon_update(words, op, batch, memory)
            bias = op.bias_gradient // memory.store.itemsize
            sink_bias(words, op, batch, memory, memory.store[bias : bias + op.O])
            refresh(op, memory)
        elif op.kind >= words.MUON_SQUARES and op.kind < words.MUON_UPDATE:
            muon_op(words, op, batch, memory)
        elif (
            op.kind != words.CSR_INDEX
            and op.kind != words.CSR_CATCH_UP
            and not norm_op(words, op, batch, memory)
            and not augment(words, op, batch, streams, memory)
        ):
            raise NotImplementedError("an op that numba has no function for")
    return total


@jit
def squares(words, parameters, store, scalars):
    """Sum over the weights of decay times what each adds to twice the penalty."""
    total, item = 0.0, store.itemsize
    for k in range(parameters.size):
        op = parameters[k]
        decay = scalars[op.weight_group * words.n_scalars + words.decay]
        ld = weight_stride(op)
        if decay != 0:
            for i in range(op.I):
                for o in range(op.O):
                    weight = np.float64(store[op.weight // item + i * ld + o])
                    square = (1 - op.l1_ratio) * weight * weight
                    total += decay * (square + 2 * op.l1_ratio * abs(weight))
    return total


@jit
def sum_weights(streams, batch):
    """Sum of the sample weights of a batch."""
    if not streams.weights.size:
        return np.float64(batch.n)
    total = 0.0
    for r in range(batch.n):
        total += streams.weights[row_of(batch, r)]
    return total


@jit
def train(words, tables, streams, memory, epochs, progress, most):
    """At most so many steps, from where the last call left off; whether there is more to do."""
    ops, parameters = tables
    done = progress.done
    while done[0] < epochs.losses.size:
        order = epochs.orders[done[0]] if epochs.orders.size else epochs.orders.reshape(-1)
        while done[1] < epochs.n:
            if most == 0:
                return True
            most -= 1
            rows = min(epochs.size, epochs.n - done[1])
            seed, step = epochs.drawn[0], epochs.drawn[1] + np.uint64(done[3])
            batch = Batch(order, done[1], rows, epochs.scalars[0], 0.0, seed, step, 0)
            weight = sum_weights(streams, batch)
            if weight != 0:
                scalars = epochs.scalars[done[2]]
                batch = Batch(order, done[1], rows, scalars, 1 / weight, seed, step, 0)
                penalty = 0.5 * squares(words, parameters, memory.store, batch.scalars)
                total = walk(words, ops, batch, streams, memory, memory.arena)
                progress.loss[0] += (total + penalty) * batch.inverse_weight * rows
                done[2] += 1
                done[3] += 1
            done[1] += rows
        loss = progress.loss[0] / epochs.n
        epochs.losses[done[0]] = loss
        progress.loss[0] = 0
        done[0] += 1
        done[1] = 0
        if epochs.stop.size:
            best, tol, failed, most_failed = epochs.stop
            epochs.stop[2] = failed + 1 if loss > best - tol else 0
            epochs.stop[0] = min(best, loss)
            if epochs.stop[2] > most_failed:
                return False
    return False


@jit
def predict(words, ops, streams, memory, rows, out, total):
    """Some rows of `out`, from the first to before the last, through the ops in chunks; returns the
    total with the sums of their losses, if an op makes them: one after the other, so that no bit
    depends on how many chunks a call has.
    """
    order, no_scalars = np.empty(0, np.intp), np.empty(0)
    first, last, chunk = rows
    for begin in range(first, last, chunk):
        rows_here, nothing = min(chunk, last - begin), np.uint64(0)
        batch = Batch(order, begin, rows_here, no_scalars, 1.0, nothing, nothing, 0)
        total += walk(words, ops, batch, streams, memory, out)
    return total


class Engine:
    """What the compiled ``engine.Engine`` is, for numba, on one thread; see there.

    Parameters
    ----------
    plan : hotloop.plan.Plan
        Compiled for the backend "numba".
    streams : dict of str to array
        "X", and for training "y" and optionally "sample_weight".
    n_threads, limit : int
        Not used: it always has one thread.
    """

    threads = 1

    def __init__(self, plan, streams, n_threads=1, limit=1):
        self.plan = plan
        self._tables = tuple(_readied(t, plan.dtype) for t in (plan.ops, plan.parameter_ops))
        self._inference = _readied(plan.inference_ops, plan.dtype)
        self._evaluation = _readied(plan.evaluation_ops, plan.dtype)
        self._accumulate = _readied(plan.accumulate_ops, plan.dtype)
        self._streams = _flat(streams, plan)
        self._n_rows = streams["X"].shape[0] if "X" in streams else 0
        self._progress = Progress(np.zeros(4, np.int64), np.zeros(1))
        self._busy = False
        self._drawn = np.zeros(2, np.uint64)
        self._functions = [compiled(f, plan.dtype.name) for f in plan.functions]  # keeps them alive
        widest = max((int(op["O"]) for op in plan.ops), default=0)
        csr = plan.ops[plan.ops["kind"] == KINDS["CSR_BACKWARD_WEIGHT"]]
        touched = int(csr["I"].max(initial=0))
        fused = csr[csr["gradient"] == GRADIENTS["update"]]
        whole = int((fused["I"] * fused["O"]).max(initial=0))
        self._memory = Memory(
            np.zeros(plan.arena_bytes // plan.dtype.itemsize, plan.dtype),
            np.zeros(plan.store_bytes // plan.dtype.itemsize, plan.dtype),
            _frozen(np.empty(0, plan.dtype)),
            np.zeros(widest, plan.dtype),
            np.zeros(whole, plan.dtype),
            np.zeros(touched, np.int32),
            np.zeros(touched, np.uint8),
            np.array([f.pointers for f in self._functions], np.int64).reshape(-1),
            np.array(plan.constants, np.float64),
        )

    @property
    def epochs(self):
        return int(self._progress.done[0])

    @property
    def steps(self):
        return int(self._progress.done[3])

    def pack(self, which, weights, biases):
        """Copies plain row-major arrays into the store; keeps a weight that it has no room for."""
        for op, weight, bias in zip(self._tables[1], weights, biases, strict=True):
            there, bias_there = places_of(op, which, self._memory.store)
            if there is None:
                self._memory = self._memory._replace(plain=_frozen(weight.reshape(-1)))
            else:
                there[...] = weight
            bias_there[...] = bias
            if which == "parameters":
                refresh(op, self._memory)

    def unpack(self, which, weights, biases):
        """The way back; ``which`` may also be "gradient"."""
        for op, weight, bias in zip(self._tables[1], weights, biases, strict=True):
            there, bias_there = places_of(op, which, self._memory.store)
            if there is None:
                raise ValueError(f"the store has no {which} of this plan to read")
            weight[...], bias[...] = there, bias_there

    def draw_from(self, seed, step):
        """Random words are those of a seed from now on, and the next step has that number."""
        self._drawn[:] = seed, (step - self.steps) % 2**32

    def catch_up(self):
        """Nothing: no feature misses a step."""

    def run(self, orders, scalars, losses, stop):
        """Trains for whole epochs; see the compiled one."""
        if self._busy:
            raise RuntimeError("this runner is running already; open one for each thread")
        self._busy = True
        try:
            self._progress.done[:3] = self._progress.loss[0] = 0
            n = self._n_rows if orders is None else orders.shape[1]
            orders = np.empty((0, 0), np.intp) if orders is None else orders
            rules = np.empty(0) if stop is None else stop
            size = self.plan.batch_size
            epochs = Epochs(_frozen(orders), n, size, _frozen(scalars), losses, rules, self._drawn)
            where = WORDS, self._tables, self._streams, self._memory, epochs, self._progress
            most, more = 1, True
            while more:
                start = time.perf_counter()
                more = train(*where, most)
                most = next_most(most, time.perf_counter() - start)
        finally:
            self._busy = False
        return self.epochs

    def gradient(self, scalars):
        """Sums the gradients of all rows into the store; see the compiled one."""
        loss = weight = 0.0
        order, memory, scalars = _frozen(np.empty(0, np.intp)), self._memory, _frozen(scalars)
        for first in range(0, self._n_rows, self.plan.batch_size):
            rows = min(self.plan.batch_size, self._n_rows - first)
            batch = Batch(order, first, rows, scalars[0], 0.0, np.uint64(0), np.uint64(0), 0)
            ops = self._accumulate if first else self._tables[0]
            loss += walk(WORDS, ops, batch, self._streams, memory, memory.arena)
            weight += sum_weights(self._streams, batch)
        return loss, weight, squares(WORDS, self._tables[1], self._memory.store, scalars[0])

    def predict(self, X, out):
        """Forward pass of the rows of X into out, (n, O); safe to call from several threads."""
        self._infer(self._inference, {"X": X}, out)
        return out

    def evaluate(self, X, y, weights, out):
        """The same, and the sum of the losses of these rows; see the compiled one."""
        streams = {"X": X, "y": y}
        if weights is not None:
            streams["sample_weight"] = weights
        return self._infer(self._evaluation, streams, out)

    def _infer(self, ops, streams, out):
        """All rows through a table of forward ops; returns the sum of their losses, if any."""
        arena = np.zeros(self.plan.inference_arena_bytes // out.itemsize, out.dtype)
        memory = self._memory._replace(arena=arena)
        streams, total = _flat(streams, self.plan), 0.0
        chunk, flat, first, most = self.plan.inference_rows, out.reshape(-1), 0, 1
        while first < len(out):
            rows = first, min(first + most * chunk, len(out)), chunk
            start = time.perf_counter()
            total = predict(WORDS, ops, streams, memory, rows, flat, total)
            first, most = rows[1], next_most(most, time.perf_counter() - start)
        return total


def places_of(op, which, store):
    """Views of a layer's weight (None if it is not in the store) and bias of one sort."""
    names = {"parameters": ("weight", "bias"), "gradient": ("weight_gradient", "bias_gradient")}
    for slot in ("slot_0", "slot_1", "slot_2", "average"):
        names[slot] = f"weight_{slot}", f"bias_{slot}"
    I, O = int(op["I"]), int(op["O"])
    weight, bias = (int(op[name]) for name in names[which])
    ld = O if which == "gradient" or op["ld_weight"] <= 0 else int(op["ld_weight"])
    there = None
    if weight >= 0:
        start = store[weight // store.itemsize :]
        strides = ld * store.itemsize, store.itemsize
        there = np.lib.stride_tricks.as_strided(start, (I, O), strides)
    return there, store[bias // store.itemsize :][:O]


def next_most(most, seconds, limit=CALL_SECONDS):
    """How many steps or chunks the next call may do to end in time, after so many took so long."""
    return max(1, min(2 * most, int(most * limit / max(seconds, 1e-6))))


def _frozen(array):
    """A view that cannot be written through: what may or may not be read-only would be two types,
    each compiled for half a minute.
    """
    view = array.view()
    view.flags.writeable = False
    return view


def _readied(ops, dtype):
    """A table whose epsilon is not 0 in its dtype: a moment of zero would make that 0 / 0."""
    if (ops["dtype"] != DTYPES[dtype.name]).any():
        raise ValueError("numba runs ops of float32 and float64; bfloat16 is for compiled kernels")
    ops = ops.copy()
    ops["epsilon"] = np.maximum(ops["epsilon"], np.finfo(dtype).tiny)
    return ops


def _flat(streams, plan):
    """Streams as flat arrays of the plan's dtype; what is already so is not copied."""
    X, y = streams.get("X"), streams.get("y")
    indices, indptr = np.empty(0, np.int32), np.empty(0, np.int64)
    codes, targets = np.empty(0, np.int32), np.empty(0, plan.dtype)
    if X is None:
        X = targets
    elif not isinstance(X, np.ndarray):
        X, indices, indptr = X.data, X.indices, X.indptr
    if y is not None and y.dtype == np.int32 and plan.network.loss.targets == "codes":
        codes = y.reshape(-1)
    elif y is not None:
        targets = y.reshape(-1)
    X = np.ascontiguousarray(X, plan.dtype).reshape(-1)
    weights = streams.get("sample_weight", np.empty(0))
    return Streams(*map(_frozen, (X, indices, indptr, codes, targets, weights)))
