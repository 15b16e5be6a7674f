# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True
"""Walks op tables without the GIL: what runs next is decided here, arithmetic is in the C files.

An :class:`Engine` owns the memory a table works on. It knows offsets and kinds, nothing of
layers or optimizers, and of losses that they are summed; :mod:`hotloop.backends` speaks to it
on a plan's behalf.
"""

import os
from threading import Lock, current_thread, main_thread

import numpy as np

from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.math cimport INFINITY
from libc.string cimport memcpy

include "declarations.pxi"


cnp.import_array()


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
STREAM_DTYPES = {
    np.dtype(name): value for name, value in vocabulary("dtypes").items() if hasattr(np, name)
}
STAGES = tuple([hl_stages[kind].decode() for kind in range(HL_N_KINDS)])


# ----------------------------------------------------------------- instruction set

cdef const hl_isa *ISA = NULL
cdef const hl_isa *PROVIDERS[HL_N_DTYPES]  # that set or an extension of it; NULL if none can


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
    cdef const hl_isa *row
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
    i = 0
    _provide(ISA)
    while hl_extensions[i].name != NULL:
        row = &hl_extensions[i]
        if row.extends.decode() == ISA.name.decode() and hl_isa_usable(row):
            _provide(row)
        i += 1


cdef _provide(const hl_isa *row):
    """From now on takes the kernels of a row where it has some."""
    for dtype in range(HL_N_DTYPES):
        if row.kernels[dtype] != NULL:
            PROVIDERS[dtype] = row


_choose(os.environ.get("HOTLOOP_ISA", ""))


def isa():
    """Name of the instruction set in use."""
    return ISA.name.decode()


def provider(int dtype):
    """Name of the set or extension whose kernels are used for a value of the vocabulary
    ``dtypes``; None where there are none."""
    return None if PROVIDERS[dtype] == NULL else PROVIDERS[dtype].name.decode()


def pool_size():
    """Threads that were made for sharing work, in this process."""
    return hl_pool_size()


def geometry(int dtype):
    """Sizes that a plan lays buffers out by, for a value of the vocabulary ``dtypes``."""
    if not 0 <= dtype < HL_N_DTYPES or PROVIDERS[dtype] == NULL:
        raise ValueError(f"no kernels here for dtype {dtype}")
    return PROVIDERS[dtype].kernels[dtype].geometry


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


# ------------------------------------------------------------------- random numbers

def draw(uint64_t seed, uint64_t step, uint32_t op, int64_t row, int64_t column, out):
    """Fills an array with the generator's words; abi.h says at ``hl_draw`` which these are.

    Parameters
    ----------
    seed, step, op : int
        What they are for. Steps count modulo 2**32.
    row, column : int
        Of the first element.
    out : ndarray, shape (B, n), C-contiguous
        Of uint32 for words, of float32 or float64 for uniform numbers in [0, 1).
    """
    cdef hl_random fill
    cdef hl_draw drawn = hl_draw(seed, op, <uint32_t> step)
    cdef int64_t r, n_rows, n, row_bytes
    cdef char *place
    n_rows, n = out.shape
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("random numbers are written to a C-contiguous array")
    if row < 0 or row + n_rows > 2**32 or column < 0 or column + n > 2**34:
        raise ValueError(f"there are no random numbers of row {row + n_rows}, column {column + n}")
    if out.dtype == np.uint32:
        fill = ISA.kernels[0].random_bits
    elif out.dtype in (np.float32, np.float64):
        fill = ISA.kernels[STREAM_DTYPES[out.dtype]].random_uniform
    else:
        raise TypeError(f"random numbers are uint32, float32 or float64, not {out.dtype}")
    place = <char *> address_of(out)
    row_bytes = n * out.itemsize
    with nogil:
        for r in range(n_rows):
            fill(&drawn, row + r, column, n, place + r * row_bytes)


# --------------------------------------------------------------------------- walk

include "walk.pxi"


cdef Table table_of(ops, int64_t chunk_rows, int64_t small_rows=0, int64_t large_rows=0):
    """The table in a structured array, which must outlive it."""
    cdef Table table
    cdef int i
    if ops.dtype != OP_DTYPE or not ops.flags.c_contiguous:
        raise TypeError(f"an op table is a C-contiguous array of OP_DTYPE, got {ops.dtype}")
    table.ops = <const hl_op *> address_of(ops)
    table.n_ops = <int> len(ops)
    table.chunk_rows = chunk_rows
    table.small_rows = small_rows
    table.large_rows = large_rows
    for i in range(table.n_ops):
        if not (0 <= table.ops[i].kind < HL_N_KINDS and 0 <= table.ops[i].dtype < HL_N_DTYPES
                and table.ops[i].grain > 0
                and PROVIDERS[table.ops[i].dtype] != NULL
                and kernels_of(&table.ops[i]).run[table.ops[i].kind] != NULL):
            raise ValueError(f"no kernel for op {i}: {ops[i]}")
    return table


def aligned(n_bytes):
    """A zeroed byte buffer that starts at a cache line; MemoryError where there is no room."""
    raw = np.zeros(n_bytes + 64, dtype=np.uint8)
    start = -<size_t> address_of(raw) % 64
    return raw[start:start + n_bytes]


cdef inline void *address_of(array) noexcept:
    """Where an array starts; the caller keeps it alive."""
    return cnp.PyArray_DATA(<cnp.ndarray> array)


def compiled_functions(plan):
    """The user's functions in a plan, compiled; numba is imported only where there are some."""
    if not plan.functions:
        return []
    from .custom import compiled
    return [compiled(function, plan.dtype.name) for function in plan.functions]


def most_entries(indptr, int64_t n_rows):
    """The most entries that any so many rows of a CSR matrix have."""
    lengths = np.diff(indptr)
    if n_rows < len(lengths):
        lengths = np.partition(lengths, -n_rows)[-n_rows:]
    return int(lengths.sum())


cdef hl_stream stream_of(array):
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
    stream.dtype = STREAM_DTYPES.get(array.dtype, -1)
    return stream


# Short steps are timed, half of these on one thread, then half on all, before a runner knows
# which is sooner: what one core has written takes time to reach another, how much depends on the
# machine. It finds out anew after some steps, since other programs come and go, and shares only
# where the gain is more than noise.
cdef enum:
    TRIALS = 12
    JUDGEMENT_STEPS = 4096
cdef double WORTH = 0.95


cdef class Engine:
    """Memory for a plan's tables and the calls that walk them.

    Parameters
    ----------
    plan : hotloop.plan.Plan
        Read for its tables and sizes.
    streams : dict of str to array
        "X", and for training "y" and optionally "sample_weight"; see backends.py. Kept alive,
        never written.
    n_threads : int
        Threads that a step may be shared by.
    limit : int
        Threads that may work in the whole process at the time; others of it are not waited for.
    """

    cdef Table training, inference, evaluation, parameters, catching_up
    cdef hl_batch batch
    cdef hl_touched touched
    cdef hl_history *history  # NULL unless it trains on CSR
    cdef object functions, pointers  # of the user
    cdef object constants
    cdef object keep, kept_weights, store, arena, scratch, plan, plain_places, index, past, lock
    cdef int64_t n_rows, batch_size, scratch_bytes
    cdef double poll_at
    cdef double *asks_at  # NULL where no signal can be answered
    cdef readonly int64_t steps
    cdef int64_t first_step
    cdef readonly int64_t epochs
    cdef readonly int threads  # most that took part in a step of the last call
    cdef int n_threads, limit, trials
    cdef int64_t doubts  # steps that might gain by a second thread, or lose
    cdef double seconds[2]  # that a step took at best on one thread, and on all
    cdef bint busy

    def __init__(self, plan, streams, int n_threads=1, int limit=1):
        self.plan = plan
        self.n_threads = min(n_threads, HL_MOST_THREADS)
        self.limit = limit
        self.seconds = [INFINITY, INFINITY]
        self.training = table_of(plan.ops, plan.chunk_rows, plan.small_rows, plan.large_rows)
        self.inference = table_of(
            plan.inference_ops, plan.inference_rows, plan.inference_small_rows
        )
        self.evaluation = table_of(
            plan.evaluation_ops, plan.inference_rows, plan.inference_small_rows
        )
        self.parameters = table_of(plan.parameter_ops, 0)
        self.catching_up = table_of(plan.catch_up_ops, 0)
        self.lock = Lock()
        self.store = aligned(plan.store_bytes)
        self.arena = aligned(plan.arena_bytes)
        self.scratch = aligned(plan.scratch_bytes * self.n_threads)
        self.scratch_bytes = plan.scratch_bytes
        self.keep = dict(streams)
        self.batch_size = plan.batch_size
        self.batch.store = <char *> address_of(self.store)
        self.batch.arena = <char *> address_of(self.arena)
        self.batch.scratch = <char *> address_of(self.scratch)
        self.plain_places = np.zeros(max(1, self.parameters.n_ops), np.intp)
        self.batch.plain_weights = <const void **> address_of(self.plain_places)
        self.batch.weights = NULL
        self.functions = compiled_functions(plan)  # keeps them alive
        self.pointers = np.array([f.pointers for f in self.functions], np.intp)
        self.batch.functions = <const hl_function *> address_of(self.pointers)
        self.constants = np.array(plan.constants, np.float64)
        self.batch.constants = <const double *> address_of(self.constants)
        if "X" in streams:
            self.batch.X = stream_of(streams["X"])
            self.n_rows = streams["X"].shape[0]
            if self.batch.X.indptr != NULL:
                self._make_index(streams["X"])
        if "y" in streams:
            self.batch.y = stream_of(streams["y"])
        if "sample_weight" in streams:
            self.batch.weights = <const double *> address_of(streams["sample_weight"])

    def _make_index(self, X):
        """Room for what a batch of a CSR stream touches, and for the steps that it misses."""
        n_entries = most_entries(X.indptr, self.batch_size)
        n_features = max(1, min(n_entries, X.shape[1]))
        features, ends = np.zeros(n_features, np.int32), np.empty(n_features, np.int64)
        rows, places = np.empty((2, n_entries), np.int32)
        values = np.empty(n_entries, X.data.dtype)
        self.index = features, ends, rows, values, places  # keeps them alive
        self.touched.features = <int32_t *> address_of(features)
        self.touched.ends = <int64_t *> address_of(ends)
        self.touched.rows = <int32_t *> address_of(rows)
        self.touched.values = address_of(values)
        self.touched.places = <int32_t *> address_of(places)
        self.batch.touched = &self.touched
        if self.catching_up.n_ops:
            self.past = np.zeros(sizeof(hl_history), np.uint8)
            self.history = self.batch.history = <hl_history *> address_of(self.past)

    def pack(self, which, weights, biases):
        """Copies plain row-major arrays into the store; keeps a weight that it has no room for.

        Parameters
        ----------
        which : {"parameters", "slot_0", "slot_1", "slot_2", "average"}
        weights, biases : list of ndarray
            (I, O) and (O,) of the plan's dtype, C-contiguous, one for each layer.
        """
        cdef int i
        cdef const hl_op *op
        self.catch_up()
        for i in range(self.parameters.n_ops):
            op = &self.parameters.ops[i]
            weight, bias = offsets(op, which)
            if weight < 0:
                self.kept_weights = weights
                self.batch.plain_weights[i] = address_of(weights[i])
            kernels_of(op).pack(
                op, self.batch.store, weight, bias, address_of(weights[i]), address_of(biases[i])
            )
            if which == "parameters":
                kernels_of(op).prepare(op, &self.batch, 0, op.units)

    def unpack(self, which, weights, biases):
        """The way back; ``which`` may also be "gradient". Nothing in the store changes."""
        cdef int i
        cdef unsigned mode
        cdef int64_t packed
        cdef void *plain
        cdef void *scratch
        cdef const hl_op *op
        for i in range(self.parameters.n_ops):
            op = &self.parameters.ops[i]
            weight, bias = offsets(op, which)
            if weight < 0:
                raise ValueError(f"the store has no {which} of this plan to read")
            kernels_of(op).unpack(
                op, self.batch.store, weight, bias, address_of(weights[i]), address_of(biases[i])
            )
        if self.history != NULL and self.history.n:  # features have missed steps
            op = self.catching_up.ops
            packed, plain = offsets(op, which)[0], address_of(weights[0])
            row = aligned(8 * op.ld_weight)
            scratch = address_of(row)
            with nogil:
                mode = hl_flush_denormals()
                kernels_of(op).read(op, &self.batch, packed, scratch, plain)
                hl_restore_denormals(mode)

    def draw_from(self, uint64_t seed, int64_t step):
        """Random words are those of a seed from now on, and the next step has that number."""
        self.batch.seed = seed
        self.first_step = step - self.steps

    def catch_up(self):
        """Has all features of a CSR stream take the steps that they missed."""
        with self.lock:
            if self.history == NULL or self.history.n == 0:
                return
            if self.busy:
                raise RuntimeError("this runner is running; its weights can be read when it is not")
            self.asks_at = NULL
            hl_begin_work()
            try:
                with nogil:
                    self.settle()
            finally:
                hl_end_work()

    cdef double settle(self) except? -1 nogil:
        """The same, and what squared weights add to the losses of those steps."""
        cdef hl_team team
        cdef hl_batch batch = self.batch
        cdef unsigned mode
        cdef const hl_op *op = self.catching_up.ops
        cdef int n_threads = self.n_threads if op.I >= 16 * op.grain else 1
        if self.history.n == 0:
            return 0
        batch.touched = NULL
        hl_borrow(&team, n_threads, self.limit)
        mode = hl_flush_denormals()
        try:
            walk(&self.catching_up, &batch, self.scratch_bytes, &team, self.asks_at)
        finally:
            hl_restore_denormals(mode)
            hl_give_back(&team)
        return kernels_of(op).settle(op, &batch)

    cdef bint must_settle(self, const double *scalars) noexcept nogil:
        """Whether the history has no room for a step with these scalars."""
        cdef int32_t group = self.catching_up.ops.weight_group
        cdef bint decays = scalars[group * HL_N_SCALARS + HL_decay] != 0
        if decays != self.history.decays:
            return True
        return self.history.n == (HL_MOST_COUNTED if decays else HL_MOST_MISSED)

    cdef double squares(self, const double *scalars) noexcept nogil:
        """Sum over the weights of decay times their square, but for those that settle counts."""
        cdef double total = 0, decay
        cdef int i
        cdef const hl_op *op
        for i in range(self.parameters.n_ops):
            op = &self.parameters.ops[i]
            decay = scalars[op.weight_group * HL_N_SCALARS + HL_decay]
            if decay != 0 and op.squares >= 0:
                total += decay * kernels_of(op).sum_squares(op, &self.batch)
        return total

    cdef double loss(self, const Table *table) noexcept nogil:
        """Sum of the batch's row losses."""
        cdef int i
        for i in range(table.n_ops):
            if table.ops[i].kind == HL_LOSS:
                return kernels_of(&table.ops[i]).sum_loss(&table.ops[i], &self.batch)
        return 0

    cdef int worth_sharing(self, const Table *table, int *timed) noexcept nogil:
        """Whether a second thread is to take part in the batch, and whether that is on trial."""
        timed[0] = 0
        if self.n_threads == 1 or self.batch.n < table.small_rows:
            return 0
        if self.batch.n >= table.large_rows:
            return 1
        if self.doubts % JUDGEMENT_STEPS == 0:
            self.trials = 0
            self.seconds = [INFINITY, INFINITY]
        self.doubts += 1
        if self.trials == TRIALS:
            return self.seconds[1] < WORTH * self.seconds[0]
        timed[0] = self.batch.n == self.batch_size
        return 2 * self.trials >= TRIALS

    cdef int step(self, const Table *table) except -1 nogil:
        """The batch goes through a table, on this thread and on those that are idle."""
        cdef hl_team team
        cdef int timed, helpers
        cdef int shared = self.worth_sharing(table, &timed)
        cdef double began = hl_seconds()
        hl_borrow(&team, self.n_threads if shared else 1, self.limit)
        helpers = team.n_workers
        self.threads = max(self.threads, 1 + helpers)
        try:
            walk(table, &self.batch, self.scratch_bytes, &team, self.asks_at)
        finally:
            hl_give_back(&team)
        if timed and (helpers > 0) == shared:  # not if others had the threads
            self.seconds[shared] = min(self.seconds[shared], hl_seconds() - began)
            self.trials += 1
        return 0

    cdef int train_step(self) except -1 nogil:
        """A step of training; leaves the processor's mode as it was."""
        cdef unsigned mode = hl_flush_denormals()
        try:
            return self.step(&self.training)
        finally:
            hl_restore_denormals(mode)

    cdef double epoch(
        self, const intptr_t *order, int64_t n, const double[:, ::1] scalars, int64_t *used
    ) except? -1 nogil:
        """One epoch of n rows; returns its mean loss. A row of scalars is used up by each step
        taken, and a batch without weight takes none."""
        cdef int64_t row = 0
        cdef double weight, loss = 0
        if self.history != NULL and self.history.decays:
            self.settle()  # what an interrupt has left of another epoch
        while row < n:
            self.batch.order = order + row if order != NULL else NULL
            self.batch.first = row
            self.batch.n = min(self.batch_size, n - row)
            row += self.batch.n
            weight = ISA.kernels[0].sum_weights(&self.batch)
            if weight == 0:
                continue
            self.batch.inverse_weight = 1 / weight
            self.batch.scalars = &scalars[used[0], 0]
            self.batch.step = <uint32_t> (self.first_step + self.steps)
            if self.history != NULL and self.must_settle(self.batch.scalars):
                loss += self.settle()
            weight = 0.5 * self.squares(self.batch.scalars)
            self.train_step()
            if self.history != NULL:
                kernels_of(self.catching_up.ops).remember(self.catching_up.ops, &self.batch)
            loss += (self.loss(&self.training) + weight) * self.batch.inverse_weight * self.batch.n
            used[0] += 1
            self.steps += 1
        if self.history != NULL and self.history.decays:
            loss += self.settle()
        return loss / n

    def run(self, orders, const double[:, ::1] scalars, double[::1] losses, double[::1] stop):
        """Trains for whole epochs.

        Parameters
        ----------
        orders : ndarray of intp, shape (E, n), or None
            Rows of each epoch, in order; None for all in the natural one.
        scalars : ndarray of float64, shape (at least the steps taken, groups * scalars)
        losses : ndarray of float64, shape (E,)
            Overwritten with the epochs' mean losses.
        stop : ndarray of float64, shape (4,), or None
            best loss, tol, epochs without improvement, epochs to allow; kept up to date.

        Returns
        -------
        int
            Epochs run. After an interrupt, which drops the step under way whole, ``epochs``
            and ``steps`` tell how far it came.
        """
        if self.busy:
            raise RuntimeError("this runner is running already; open one for each thread")
        self.busy = True
        hl_begin_work()
        try:
            return self._run(orders, scalars, losses, stop)
        finally:
            hl_end_work()
            self.busy = False

    def _run(self, orders, const double[:, ::1] scalars, double[::1] losses, double[::1] stop):
        cdef const intptr_t[:, ::1] order
        cdef const intptr_t *row_order = NULL
        cdef int64_t used = 0, e, n = self.n_rows
        cdef int stopping = stop is not None
        cdef double loss
        if orders is not None:
            order = orders
            n = order.shape[1]
        self.epochs = self.threads = 0
        self.asks_at = &self.poll_at if answers_signals() else NULL
        with nogil:
            for e in range(losses.shape[0]):
                if orders is not None:
                    row_order = &order[e, 0]
                loss = self.epoch(row_order, n, scalars, &used)
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
        rest = table_of(
            self.plan.accumulate_ops, self.plan.chunk_rows, self.plan.small_rows,
            self.plan.large_rows,
        )
        self.batch.order = NULL
        self.threads = 0
        self.asks_at = &self.poll_at if answers_signals() else NULL
        hl_begin_work()
        try:
            with nogil:
                while row < self.n_rows:
                    self.batch.first = row
                    self.batch.n = min(self.batch_size, self.n_rows - row)
                    self.step(&first if row == 0 else &rest)
                    row += self.batch.n
                    loss += self.loss(&first)
                    weight += ISA.kernels[0].sum_weights(&self.batch)
        finally:
            hl_end_work()
        return loss, weight, self.squares(&scalars[0, 0])

    def predict(self, X, out):
        """Forward pass of the rows of X into out, (n, O); safe to call from several threads."""
        cdef hl_batch batch = self.batch
        self.infer(&self.inference, &batch, X, out, None)
        return out

    def evaluate(self, X, y, weights, out):
        """The same, and the sum of the losses of these rows, whose targets and weights (or None)
        are as those of the streams."""
        cdef hl_batch batch = self.batch
        batch.y = stream_of(y)
        batch.weights = NULL
        if weights is not None:
            batch.weights = <const double *> address_of(weights)
        losses = np.empty(len(out), out.dtype)  # summed in the order of rows, whoever had them
        self.infer(&self.evaluation, &batch, X, out, losses)
        return float(losses.sum(dtype=np.float64))

    cdef infer(self, const Table *table, hl_batch *rows, X, out, losses):
        """All rows of X through a table of forward ops."""
        cdef hl_batch batch = rows[0]
        cdef hl_team team
        cdef Stage stage
        cdef double poll_at = 0
        cdef int n_threads = 1
        cdef hl_question interrupted = NULL
        if answers_signals():
            interrupted = poll
        self.catch_up()
        batch.X = stream_of(X)
        batch.out = address_of(out)
        batch.order = NULL
        batch.n = X.shape[0]
        if batch.n >= table.small_rows:
            n_threads = self.n_threads
        stage.ops = table.ops
        stage.n_ops = table.n_ops
        stage.batch = &batch
        stage.losses = NULL
        if losses is not None:
            stage.losses = <char *> address_of(losses)
            stage.row_loss = table.ops[table.n_ops - 1].row_loss
            stage.item_bytes = losses.itemsize
        stage.chunk_rows = even_chunk(batch.n, table.chunk_rows, n_threads)
        stage.thread_bytes = self.plan.inference_arena_bytes
        stage.scratch = self.plan.inference_scratch
        arena = aligned(stage.thread_bytes * n_threads)
        batch.arena = <char *> address_of(arena)
        hl_begin_work()
        try:
            with nogil:
                hl_borrow(&team, n_threads, self.limit)
                try:
                    if hl_share(
                        &team, (batch.n + stage.chunk_rows - 1) // stage.chunk_rows,
                        run_prediction, &stage, interrupted, &poll_at,
                    ) == HL_FORKED:
                        raise_forked()
                finally:
                    hl_give_back(&team)
        finally:
            hl_end_work()


cdef class FewRows:
    """Forward pass of a few rows straight from row-major weights: for these, copying weights into
    panels would take most of the time. Holds no weights; safe to call from several threads.

    Parameters
    ----------
    plan : hotloop.plan.Plan
        Of dense layers; read for its inference table.
    """

    cdef object plan
    cdef Table table
    cdef hl_op output  # the last op, which reads the buffer of a row from its start
    cdef int64_t most_rows, short_rows, row_bytes
    cdef int dtype, layers, item_bytes

    def __init__(self, plan):
        cdef int i
        self.plan = plan
        self.table = table_of(plan.inference_ops, plan.inference_rows)
        self.layers = self.table.n_ops - 1
        self.output = self.table.ops[self.layers]
        self.output.output = 0
        self.most_rows = plan.few_rows
        self.short_rows = plan.inference_small_rows
        self.item_bytes = plan.dtype.itemsize
        self.dtype = cnp.NPY_FLOAT64 if plan.dtype == np.float64 else cnp.NPY_FLOAT32
        for i in range(self.layers):
            self.row_bytes = max(self.row_bytes, self.table.ops[i].O * self.item_bytes)

    def predict(self, X, list weights, list biases):
        """Outputs for X, (n, O), in a new array.

        Returns
        -------
        ndarray or None
            None, and nothing was computed, unless X is of few rows and finite, and all arrays are
            plain: of the very class ndarray, C-contiguous, and of the plan's shapes and dtype.
        """
        cdef int i
        cdef int64_t n
        cdef const hl_op *op = self.table.ops
        cdef cnp.npy_intp shape[2]
        cdef cnp.ndarray out
        cdef char room[4096]
        cdef char *memory = room
        cdef const void **places
        cdef void *rows
        cdef void *outputs
        cdef int64_t n_bytes = 2 * self.layers * sizeof(void *) + 2 * self.row_bytes
        if len(weights) != self.layers or len(biases) != self.layers:
            return None
        for i in range(self.layers):
            op = &self.table.ops[i]
            if not (self.plain(weights[i], 2, op.I, op.O) and self.plain(biases[i], 1, op.O, 0)):
                return None
        op = self.table.ops
        if not self.plain(X, 2, -1, op.I):
            return None
        n = cnp.PyArray_DIM(<cnp.ndarray> X, 0)
        if not (0 < n <= self.most_rows and kernels_of(op).all_finite(address_of(X), n * op.I)):
            return None
        shape = [n, self.output.O]
        out = cnp.PyArray_EMPTY(2, shape, self.dtype, 0)
        if n_bytes > <int64_t> sizeof(room):
            memory = <char *> PyMem_RawMalloc(n_bytes)
            if memory == NULL:
                raise MemoryError
        places = <const void **> memory
        for i in range(self.layers):
            places[2 * i] = address_of(weights[i])
            places[2 * i + 1] = address_of(biases[i])
        if n < self.short_rows:  # sooner than another thread could take over
            self.walk(address_of(X), n, places, address_of(out))
        else:
            alive = X, weights[:], biases[:]
            rows, outputs = address_of(X), address_of(out)
            with nogil:
                self.walk(rows, n, places, outputs)
            del alive
        if memory != room:
            PyMem_RawFree(memory)
        return out

    cdef void walk(
        self, const void *X, int64_t n, const void **places, void *out
    ) noexcept nogil:
        """Each row by itself through all layers, between two buffers behind the places."""
        cdef char *buffers = <char *> (places + 2 * self.layers)
        cdef const hl_kernels *kernels = kernels_of(self.table.ops)
        cdef const void *source
        cdef char *target = NULL
        cdef hl_batch batch
        cdef int64_t r
        cdef int i
        batch.first = 0
        for r in range(n):
            source = <const char *> X + r * self.table.ops.I * self.item_bytes
            for i in range(self.layers):
                target = buffers + (i % 2) * self.row_bytes
                kernels.row_forward(
                    &self.table.ops[i], source, places[2 * i], places[2 * i + 1], target
                )
                source = target
            batch.arena = target
            batch.out = <char *> out + r * self.output.O * self.item_bytes
            kernels.run[self.output.kind](&self.output, &batch, 0, 1)

    cdef inline bint plain(self, array, int ndim, int64_t rows, int64_t columns):
        """Whether an array is plain, of that shape (any number of rows if -1) and dtype."""
        cdef cnp.ndarray a
        if not cnp.PyArray_CheckExact(array):
            return False
        a = <cnp.ndarray> array
        return (
            cnp.PyArray_NDIM(a) == ndim
            and cnp.PyArray_TYPE(a) == self.dtype
            and cnp.PyArray_ISCARRAY_RO(a)
            and (rows < 0 or cnp.PyArray_DIM(a, 0) == rows)
            and (ndim == 1 or cnp.PyArray_DIM(a, 1) == columns)
        )


cdef offsets(const hl_op *op, which):
    """Where a layer's weight and bias of one sort lie in the store."""
    if which == "parameters":
        return op.weight, op.bias
    if which == "slot_0":
        return op.weight_slot_0, op.bias_slot_0
    if which == "slot_1":
        return op.weight_slot_1, op.bias_slot_1
    if which == "slot_2":
        return op.weight_slot_2, op.bias_slot_2
    if which == "average":
        return op.weight_average, op.bias_average
    return op.weight_gradient, op.bias_gradient
