# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Walks op tables without the GIL: what runs next is decided here, arithmetic is in the C files.

An :class:`Engine` owns the memory a table works on. It knows offsets and kinds, nothing of
layers or optimizers, and of losses that they are summed; :mod:`hotloop.backends` speaks to it
on a plan's behalf.
"""

import os

import numpy as np

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, intptr_t, uint32_t


cdef extern from "abi.h" nogil:
    ctypedef struct hl_op:
        int32_t kind
        int32_t dtype
        int32_t gradient
        int64_t units
        int64_t weight
        int64_t weight_slot_0
        int64_t weight_slot_1
        int64_t weight_gradient
        int64_t bias
        int64_t bias_slot_0
        int64_t bias_slot_1
        int64_t bias_gradient
        int32_t weight_group

    ctypedef struct hl_stream:
        const void *data
        const int32_t *indices
        const int64_t *indptr
        int64_t n_cols
        int32_t dtype

    ctypedef struct hl_batch:
        char *arena
        char *store
        char *scratch
        hl_stream X
        hl_stream y
        const double *weights
        void *out
        const intptr_t *order
        int64_t first
        int64_t n
        const double *scalars
        double inverse_weight

    ctypedef void (*hl_kernel)(const hl_op *, const hl_batch *, int64_t, int64_t) noexcept
    ctypedef void (*hl_packer)(const hl_op *, char *, int64_t, int64_t, void *, void *) noexcept

    ctypedef double (*hl_total)(const hl_op *, const hl_batch *) noexcept
    ctypedef double (*hl_batch_total)(const hl_batch *) noexcept

    ctypedef struct hl_geometry:
        int64_t vector_lanes
        int64_t panel_width
        int64_t unit_rows
        int64_t most_unit_rows
        int64_t narrow_columns

    ctypedef struct hl_kernels:
        hl_geometry geometry
        hl_kernel *run
        hl_kernel prepare
        hl_total sum_loss
        hl_total sum_squares
        hl_batch_total sum_weights
        hl_packer pack
        hl_packer unpack

    ctypedef struct hl_isa:
        const char *name
        const char *features
        const hl_kernels **kernels

    enum:
        HL_LOSS
        HL_N_KINDS
        HL_N_DTYPES
        HL_decay
        HL_N_SCALARS

cdef extern from "dispatch.h" nogil:
    const hl_isa hl_isas[]
    int hl_isa_usable(const hl_isa *isa)

    ctypedef struct hl_field:
        const char *name
        const char *type
        int64_t offset
    const hl_field hl_op_fields[]
    const char *hl_vocabulary(const char *name)
    const char *hl_stages[]

cdef extern from "clock.h" nogil:
    double hl_seconds()

cdef extern from "denormals.h" nogil:
    unsigned hl_flush_denormals()
    void hl_restore_denormals(unsigned mode)

cdef extern from "shuffle.h" nogil:
    void hl_shuffle(uint32_t *key, int *position, int64_t n, intptr_t *order)


# ---------------------------------------------------------------------- vocabulary

FORMATS = {"int32_t": "i4", "int64_t": "i8", "double": "f8"}


def _op_dtype():
    """The dtype of an op record, read from the C struct."""
    fields, i = {"names": [], "formats": [], "offsets": []}, 0
    while hl_op_fields[i].name != NULL:
        fields["names"].append(hl_op_fields[i].name.decode())
        fields["formats"].append(FORMATS[hl_op_fields[i].type.decode()])
        fields["offsets"].append(hl_op_fields[i].offset)
        i += 1
    return np.dtype({**fields, "itemsize": sizeof(hl_op)})


def vocabulary(name):
    """Names of one of abi.h's vocabularies, a dict from name to value in order of the values."""
    cdef const char *names = hl_vocabulary(name.encode())
    if names == NULL:
        raise KeyError(name)
    return {word: value for value, word in enumerate(names.decode().split())}


OP_DTYPE = _op_dtype()
STAGES = tuple([hl_stages[kind].decode() for kind in range(HL_N_KINDS)])


# ----------------------------------------------------------------- instruction set

cdef const hl_isa *ISA = NULL


def usable():
    """Names of the instruction sets that this processor can run, best first."""
    names, i = [], 0
    while hl_isas[i].name != NULL:
        if hl_isa_usable(&hl_isas[i]):
            names.append(hl_isas[i].name.decode())
        i += 1
    return names


def _choose(forced):
    """Takes the best usable instruction set, or the one that HOTLOOP_ISA names."""
    global ISA
    cdef int i = 0
    names = usable()
    if forced and forced not in names:
        raise ImportError(
            f"HOTLOOP_ISA={forced!r} is no instruction set that this build has and this processor"
            f" can run. Usable here: {', '.join(names)}. Set HOTLOOP_ISA to one, or unset it."
        )
    while hl_isas[i].name.decode() != (forced or names[0]):
        i += 1
    ISA = &hl_isas[i]


_choose(os.environ.get("HOTLOOP_ISA", ""))


def isa():
    """Name of the instruction set in use."""
    return ISA.name.decode()


def geometry(int dtype):
    """Sizes that a plan lays buffers out by, for a value of the vocabulary ``dtypes``."""
    return ISA.kernels[dtype].geometry


# --------------------------------------------------------------------- row orders

def shuffle(uint32_t[::1] key, int position, intptr_t[:, ::1] orders):
    """Makes each row a shuffle of the one before; the first is shuffled where it stands.

    Parameters
    ----------
    key : ndarray of uint32, shape (624,)
        State of NumPy's MT19937, advanced by what ``RandomState.shuffle`` would draw.
    position : int
        Its place in that.
    orders : ndarray of intp, shape (E, n)

    Returns
    -------
    int
        The new position.
    """
    cdef int64_t e, n = orders.shape[1]
    if key.shape[0] != 624 or n == 0:
        raise ValueError(f"got a state of {key.shape[0]} words and {n} rows")
    with nogil:
        for e in range(orders.shape[0]):
            if e > 0:
                orders[e] = orders[e - 1]
            hl_shuffle(&key[0], &position, n, &orders[e, 0])
    return position


# --------------------------------------------------------------------------- walk

cdef inline const hl_kernels *kernels_of(const hl_op *op) noexcept nogil:
    return ISA.kernels[op.dtype]


cdef struct Table:
    const hl_op *ops
    int n_ops
    int64_t chunk_rows


cdef int ROWS_STAGE[64]
assert len(STAGES) <= 64
for _kind, _stage in enumerate(STAGES):
    ROWS_STAGE[_kind] = _stage == "rows"


cdef int poll(double *poll_at) except -1 nogil:
    """Lets Python answer signals, about every 20 ms."""
    cdef double now = hl_seconds()
    if now < poll_at[0]:
        return 0
    poll_at[0] = now + 0.02
    with gil:
        PyErr_CheckSignals()
    return 0


cdef int step(const Table *table, const hl_batch *batch, double *poll_at) except -1 nogil:
    """A walk that trains; leaves the processor's mode as it was."""
    cdef unsigned mode = hl_flush_denormals()
    try:
        return walk(table, batch, poll_at)
    finally:
        hl_restore_denormals(mode)


cdef int walk(const Table *table, const hl_batch *batch, double *poll_at) except -1 nogil:
    """One step. Ops of the stage `rows` run together on one chunk of rows after another, so that
    what one writes is still in the cache for the next. An interrupt is answered between chunks:
    parameters are not written before all rows are done, so the step is dropped whole."""
    cdef int first = 0, last, i, rows_stage
    cdef int64_t row, end
    cdef const hl_op *op
    while first < table.n_ops:
        rows_stage = ROWS_STAGE[table.ops[first].kind]
        last = first + 1
        while last < table.n_ops and ROWS_STAGE[table.ops[last].kind] == rows_stage:
            last += 1
        if rows_stage:
            row = 0
            while row < batch.n:
                end = min(row + table.chunk_rows, batch.n)
                for i in range(first, last):
                    op = &table.ops[i]
                    kernels_of(op).run[op.kind](op, batch, row, end)
                row = end
                poll(poll_at)
        else:
            for i in range(first, last):
                op = &table.ops[i]
                kernels_of(op).run[op.kind](op, batch, 0, op.units)
        first = last
    return 0


cdef Table table_of(ops, int64_t chunk_rows):
    """The table in a structured array, which must outlive it."""
    cdef Table table
    cdef size_t address
    cdef int i
    if ops.dtype != OP_DTYPE or not ops.flags.c_contiguous:
        raise TypeError(f"an op table is a C-contiguous array of OP_DTYPE, got {ops.dtype}")
    address = ops.ctypes.data
    table.ops = <const hl_op *> address
    table.n_ops = <int> len(ops)
    table.chunk_rows = chunk_rows
    for i in range(table.n_ops):
        if not (0 <= table.ops[i].kind < HL_N_KINDS and 0 <= table.ops[i].dtype < HL_N_DTYPES
                and kernels_of(&table.ops[i]).run[table.ops[i].kind] != NULL):
            raise ValueError(f"no kernel for op {i}: {ops[i]}")
    return table


def aligned(n_bytes):
    """A zeroed byte buffer that starts at a cache line; MemoryError where there is no room."""
    raw = np.zeros(n_bytes + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start:start + n_bytes]


cdef void *address_of(array) except? NULL:
    cdef size_t address = array.ctypes.data
    return <void *> address


cdef hl_stream stream_of(array, dtypes):
    """A stream's place in memory; the caller keeps the array alive."""
    cdef hl_stream stream
    stream.indices = NULL
    stream.indptr = NULL
    if not isinstance(array, np.ndarray):
        stream.indices = <const int32_t *> address_of(array.indices)
        stream.indptr = <const int64_t *> address_of(array.indptr)
        stream.n_cols = array.shape[1]
        array = array.data
    else:
        stream.n_cols = array.shape[1] if array.ndim > 1 else 1
    stream.data = address_of(array)
    stream.dtype = dtypes.get(array.dtype.name, -1)
    return stream


cdef class Engine:
    """Memory for a plan's tables and the calls that walk them.

    Parameters
    ----------
    plan : hotloop.plan.Plan
        Read for its tables and sizes.
    streams : dict of str to array
        "X", and for training "y" and optionally "sample_weight"; see backends.py. Kept alive,
        never written.
    """

    cdef Table training, inference, parameters
    cdef hl_batch batch
    cdef object keep, store, arena, scratch, plan, dtypes
    cdef int64_t n_rows, batch_size
    cdef double poll_at
    cdef readonly int64_t steps
    cdef readonly int64_t epochs
    cdef bint busy

    def __init__(self, plan, streams):
        self.plan = plan
        self.dtypes = vocabulary("dtypes")
        self.training = table_of(plan.ops, plan.chunk_rows)
        self.inference = table_of(plan.inference_ops, plan.inference_rows)
        self.parameters = table_of(plan.parameter_ops, 0)
        self.store = aligned(plan.store_bytes)
        self.arena = aligned(plan.arena_bytes)
        self.scratch = aligned(plan.scratch_bytes)
        self.keep = dict(streams)
        self.batch_size = plan.batch_size
        self.batch.store = <char *> address_of(self.store)
        self.batch.arena = <char *> address_of(self.arena)
        self.batch.scratch = <char *> address_of(self.scratch)
        self.batch.weights = NULL
        if "X" in streams:
            self.batch.X = stream_of(streams["X"], self.dtypes)
            self.n_rows = streams["X"].shape[0]
        if "y" in streams:
            self.batch.y = stream_of(streams["y"], self.dtypes)
        if "sample_weight" in streams:
            self.batch.weights = <const double *> address_of(streams["sample_weight"])

    def pack(self, which, weights, biases):
        """Copies plain row-major arrays into the store.

        Parameters
        ----------
        which : {"parameters", "slot_0", "slot_1"}
        weights, biases : list of ndarray
            (I, O) and (O,) of the plan's dtype, C-contiguous, one for each layer.
        """
        cdef int i
        cdef const hl_op *op
        for i in range(self.parameters.n_ops):
            op = &self.parameters.ops[i]
            weight, bias = offsets(op, which)
            kernels_of(op).pack(
                op, self.batch.store, weight, bias, address_of(weights[i]), address_of(biases[i])
            )
            if which == "parameters":
                kernels_of(op).prepare(op, &self.batch, 0, op.units)

    def unpack(self, which, weights, biases):
        """The way back; ``which`` may also be "gradient"."""
        cdef int i
        cdef const hl_op *op
        for i in range(self.parameters.n_ops):
            op = &self.parameters.ops[i]
            weight, bias = offsets(op, which)
            kernels_of(op).unpack(
                op, self.batch.store, weight, bias, address_of(weights[i]), address_of(biases[i])
            )

    cdef double squares(self, const double *scalars) noexcept nogil:
        """Sum over the weights of decay times their square."""
        cdef double total = 0, decay
        cdef int i
        cdef const hl_op *op
        for i in range(self.parameters.n_ops):
            op = &self.parameters.ops[i]
            decay = scalars[op.weight_group * HL_N_SCALARS + HL_decay]
            if decay != 0:
                total += decay * kernels_of(op).sum_squares(op, &self.batch)
        return total

    cdef double loss(self, const Table *table) noexcept nogil:
        """Sum of the batch's row losses."""
        cdef int i
        for i in range(table.n_ops):
            if table.ops[i].kind == HL_LOSS:
                return kernels_of(&table.ops[i]).sum_loss(&table.ops[i], &self.batch)
        return 0

    cdef double epoch(
        self, const intptr_t *order, const double[:, ::1] scalars, int64_t *used
    ) except? -1 nogil:
        """One epoch; returns its mean loss. A row of scalars is used up by each step taken, and a
        batch without weight takes none."""
        cdef int64_t row = 0
        cdef double weight, loss = 0
        while row < self.n_rows:
            self.batch.order = order + row if order != NULL else NULL
            self.batch.first = row
            self.batch.n = min(self.batch_size, self.n_rows - row)
            row += self.batch.n
            weight = ISA.kernels[0].sum_weights(&self.batch)
            if weight == 0:
                continue
            self.batch.inverse_weight = 1 / weight
            self.batch.scalars = &scalars[used[0], 0]
            weight = 0.5 * self.squares(self.batch.scalars)
            step(&self.training, &self.batch, &self.poll_at)
            loss += (self.loss(&self.training) + weight) * self.batch.inverse_weight * self.batch.n
            used[0] += 1
            self.steps += 1
        return loss / self.n_rows

    def run(self, orders, const double[:, ::1] scalars, double[::1] losses, double[::1] stop):
        """Trains for whole epochs.

        Parameters
        ----------
        orders : ndarray of intp, shape (E, n), or None
            Row order of each epoch; None for the natural one.
        scalars : ndarray of float64, shape (at least the steps taken, groups * scalars)
        losses : ndarray of float64, shape (E,)
            Overwritten with the epochs' mean losses.
        stop : ndarray of float64, shape (4,), or None
            best loss, tol, epochs without improvement, epochs to allow; kept up to date.

        Returns
        -------
        int
            Epochs run. After an interrupt, which raises between two steps, ``epochs`` and
            ``steps`` tell how far it came.
        """
        if self.busy:
            raise RuntimeError("this runner is running already; open one for each thread")
        self.busy = True
        try:
            return self._run(orders, scalars, losses, stop)
        finally:
            self.busy = False

    def _run(self, orders, const double[:, ::1] scalars, double[::1] losses, double[::1] stop):
        cdef const intptr_t[:, ::1] order
        cdef const intptr_t *row_order = NULL
        cdef int64_t used = 0, e
        cdef int stopping = stop is not None
        cdef double loss
        if orders is not None:
            order = orders
        self.epochs = 0
        with nogil:
            for e in range(losses.shape[0]):
                if orders is not None:
                    row_order = &order[e, 0]
                loss = self.epoch(row_order, scalars, &used)
                losses[e] = loss
                self.epochs += 1
                if stopping:
                    stop[2] = stop[2] + 1 if loss > stop[0] - stop[1] else 0
                    if loss < stop[0]:
                        stop[0] = loss
                    if stop[2] > stop[3]:
                        break
        return self.epochs

    def gradient(self, const double[:, ::1] scalars):
        """Sums the gradients of all rows into the store; returns the sums of losses, of weights,
        and of decay times squared weights. Rows go through in batches of the plan's size."""
        cdef Table first = self.training, rest
        cdef double loss = 0, weight = 0
        cdef int64_t row = 0
        rest = table_of(self.plan.accumulate_ops, self.plan.chunk_rows)
        self.batch.order = NULL
        with nogil:
            while row < self.n_rows:
                self.batch.first = row
                self.batch.n = min(self.batch_size, self.n_rows - row)
                walk(&first if row == 0 else &rest, &self.batch, &self.poll_at)
                row += self.batch.n
                loss += self.loss(&first)
                weight += ISA.kernels[0].sum_weights(&self.batch)
        return loss, weight, self.squares(&scalars[0, 0])

    def predict(self, X, out):
        """Forward pass of the rows of X into out, (n, O); safe to call from several threads."""
        cdef hl_batch batch = self.batch
        cdef Table table = self.inference
        cdef int64_t n = X.shape[0], row = 0
        cdef double poll_at = 0
        arena = aligned(self.plan.inference_arena_bytes)
        batch.X = stream_of(X, self.dtypes)
        batch.arena = <char *> address_of(arena)
        batch.out = address_of(out)
        batch.order = NULL
        with nogil:
            while row < n:
                batch.first = row
                batch.n = min(table.chunk_rows, n - row)
                walk(&table, &batch, &poll_at)
                row += batch.n
        return out


cdef offsets(const hl_op *op, which):
    """Where a layer's weight and bias of one sort lie in the store."""
    if which == "parameters":
        return op.weight, op.bias
    if which == "slot_0":
        return op.weight_slot_0, op.bias_slot_0
    if which == "slot_1":
        return op.weight_slot_1, op.bias_slot_1
    return op.weight_gradient, op.bias_gradient
