# One step of a table: which pieces may run at the same time, on which thread.

cdef inline const hl_kernels *kernels_of(const hl_op *op) noexcept nogil:
    return PROVIDERS[op.dtype].kernels[op.dtype]


cdef struct Table:
    const hl_op *ops
    int n_ops
    int64_t chunk_rows
    int64_t small_rows  # batches of fewer rows are not worth a second thread
    int64_t large_rows  # those of more are, surely


cdef struct Stage:
    # A stretch of a table whose pieces may run at the same time.
    const hl_op *ops
    int n_ops
    const hl_batch *batch
    int64_t chunk_rows
    int64_t thread_bytes  # of scratch in training, of arena in inference
    int64_t scratch  # where in the arena it is, in inference
    char *losses  # (n,) of all rows, where those of a chunk are copied to; NULL in predictions
    int64_t row_loss  # where in the arena these are
    int64_t item_bytes


cdef int STAGE[64]
assert len(STAGES) <= 64
for _kind, _stage in enumerate(STAGES):
    STAGE[_kind] = ["rows", *STAGES].index(_stage)  # 0 is the only one over rows


cdef bint answers_signals():
    """Python answers them in its main thread only. Elsewhere nobody asks: a thread that asks for
    the GIL while the interpreter ends is ended, with its borrowed threads still at work."""
    return current_thread() is main_thread()


cdef int poll(void *poll_at) except -1 nogil:
    """Lets Python answer signals, about every 20 ms."""
    cdef double now = hl_seconds()
    if now < (<double *> poll_at)[0]:
        return 0
    (<double *> poll_at)[0] = now + 0.02
    with gil:
        PyErr_CheckSignals()
    return 0


cdef void run_rows(void *context, int64_t piece, int thread) noexcept nogil:
    """A chunk of rows goes through all ops, so that what one writes is still in the cache for the
    next."""
    cdef const Stage *stage = <const Stage *> context
    cdef int64_t row = piece * stage.chunk_rows
    cdef int64_t end = min(row + stage.chunk_rows, stage.batch.n)
    cdef int i
    for i in range(stage.n_ops):
        kernels_of(&stage.ops[i]).run[stage.ops[i].kind](&stage.ops[i], stage.batch, row, end)


cdef void run_units(void *context, int64_t piece, int thread) noexcept nogil:
    """Some units of one op; pieces are numbered through the ops."""
    cdef const Stage *stage = <const Stage *> context
    cdef const hl_op *op = stage.ops
    cdef hl_batch batch = stage.batch[0]
    batch.scratch += thread * stage.thread_bytes
    while piece >= n_pieces_of(op, &batch):
        piece -= n_pieces_of(op, &batch)
        op += 1
    kernels_of(op).run[op.kind](
        op, &batch, piece * op.grain, min((piece + 1) * op.grain, units_of(op, &batch))
    )


cdef void run_prediction(void *context, int64_t piece, int thread) noexcept nogil:
    """A chunk of rows as a batch of its own, in the thread's own buffers."""
    cdef const Stage *stage = <const Stage *> context
    cdef hl_batch batch = stage.batch[0]
    cdef int i
    batch.arena += thread * stage.thread_bytes
    batch.scratch = batch.arena + stage.scratch
    batch.first = piece * stage.chunk_rows
    batch.n = min(stage.chunk_rows, stage.batch.n - batch.first)
    for i in range(stage.n_ops):
        kernels_of(&stage.ops[i]).run[stage.ops[i].kind](&stage.ops[i], &batch, 0, batch.n)
    if stage.losses != NULL:
        memcpy(
            stage.losses + batch.first * stage.item_bytes, batch.arena + stage.row_loss,
            batch.n * stage.item_bytes,
        )


cdef inline int64_t units_of(const hl_op *op, const hl_batch *batch) noexcept nogil:
    if op.units >= 0:
        return op.units
    return batch.touched.n if batch.touched != NULL else op.I


cdef inline int64_t n_pieces_of(const hl_op *op, const hl_batch *batch) noexcept nogil:
    """One at least: the first has what belongs to no unit."""
    return max(1, (units_of(op, batch) + op.grain - 1) // op.grain)


cdef int64_t even_chunk(int64_t n, int64_t most, int64_t n_threads) noexcept nogil:
    """Rows of a chunk: `most`, or fewer where that gives some threads unlike shares."""
    cdef int64_t rounds = (n + n_threads * most - 1) // (n_threads * most)
    if n_threads == 1 or rounds == 0 or rounds > 4:
        return most
    return (n + n_threads * rounds - 1) // (n_threads * rounds)


cdef int raise_forked() except -1 nogil:
    with gil:
        raise RuntimeError(
            "a signal handler forked this process while threads were at work; what they had begun "
            "is lost here. Fit or predict again in this process, or fork elsewhere."
        )


cdef int walk(
    const Table *table, const hl_batch *batch, int64_t scratch_bytes, hl_team *team, double *poll_at
) except -1 nogil:
    """One step. An interrupt is answered between pieces for as long as no parameter was written,
    and the step is dropped whole."""
    cdef Stage stage
    cdef int first = 0, last
    cdef int64_t n_pieces, shard_rows
    cdef hl_piece run
    cdef hl_question interrupted
    cdef int64_t most_rows = table.chunk_rows * 5 // 4  # rather than another round
    stage.batch = batch
    stage.thread_bytes = scratch_bytes
    while first < table.n_ops:
        stage.ops = table.ops + first
        interrupted = NULL
        if poll_at != NULL:
            interrupted = poll
        n_pieces = 0
        shard_rows = -1
        last = first
        while last < table.n_ops and STAGE[table.ops[last].kind] == STAGE[stage.ops.kind]:
            n_pieces += n_pieces_of(&table.ops[last], batch)
            if table.ops[last].gradient == HL_update:
                interrupted = NULL
            shard_rows = max(shard_rows, table.ops[last].shard_rows)
            last += 1
        stage.n_ops = last - first
        first = last
        run = run_units
        if STAGE[stage.ops.kind] == 0:
            run = run_rows
            stage.chunk_rows = table.chunk_rows
            if shard_rows > 0:
                stage.chunk_rows = shard_rows
            elif team.n_workers:
                stage.chunk_rows = even_chunk(batch.n, most_rows, 1 + team.n_workers)
            n_pieces = (batch.n + stage.chunk_rows - 1) // stage.chunk_rows
        if hl_share(team, n_pieces, run, &stage, interrupted, poll_at) == HL_FORKED:
            raise_forked()
    return 0
