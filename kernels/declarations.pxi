# What the C files declare, in words that engine.pyx understands.

cimport numpy as cnp

from libc.stdint cimport int32_t, int64_t, intptr_t, uint32_t, uint64_t


cdef extern from *:
    """
    #undef I  /* NumPy's headers include complex.h, in which it is a macro */
    """

cdef extern from "abi.h" nogil:
    ctypedef struct hl_op:
        int32_t kind
        int32_t dtype
        int32_t gradient
        int64_t I
        int64_t O
        int64_t units
        int64_t grain
        int64_t output
        int64_t weight
        int64_t weight_slot_0
        int64_t weight_slot_1
        int64_t weight_slot_2
        int64_t weight_average
        int64_t weight_gradient
        int64_t bias
        int64_t bias_slot_0
        int64_t bias_slot_1
        int64_t bias_slot_2
        int64_t bias_average
        int64_t bias_gradient
        int64_t shard_rows
        int64_t row_loss
        int64_t squares
        int64_t ld_weight
        int32_t weight_group

    ctypedef struct hl_stream:
        const void *data
        const int32_t *indices
        const int64_t *indptr
        int64_t n_cols
        int32_t dtype

    ctypedef struct hl_touched:
        int64_t n
        int32_t *features
        int64_t *ends
        int32_t *rows
        void *values
        int32_t *places

    ctypedef struct hl_history:
        int64_t n
        int32_t decays

    ctypedef struct hl_function:
        pass

    ctypedef struct hl_batch:
        char *arena
        char *store
        char *scratch
        hl_stream X
        hl_stream y
        const double *weights
        void *out
        const void **plain_weights
        const intptr_t *order
        int64_t first
        int64_t n
        const double *scalars
        double inverse_weight
        hl_touched *touched
        hl_history *history
        const hl_function *functions
        uint64_t seed
        uint32_t step
        const double *constants

    ctypedef void (*hl_kernel)(const hl_op *, const hl_batch *, int64_t, int64_t) noexcept
    ctypedef void (*hl_packer)(const hl_op *, char *, int64_t, int64_t, void *, void *) noexcept

    ctypedef void (*hl_note)(const hl_op *, const hl_batch *) noexcept
    ctypedef void (*hl_reader)(const hl_op *, const hl_batch *, int64_t, void *, void *) noexcept
    ctypedef void (*hl_row)(
        const hl_op *, const void *, const void *, const void *, void *
    ) noexcept
    ctypedef int (*hl_finite)(const void *, int64_t) noexcept

    ctypedef double (*hl_total)(const hl_op *, const hl_batch *) noexcept
    ctypedef double (*hl_batch_total)(const hl_batch *) noexcept

    ctypedef struct hl_draw:
        uint64_t seed
        uint32_t op
        uint32_t step
    ctypedef void (*hl_random)(const hl_draw *, int64_t, int64_t, int64_t, void *) noexcept

    ctypedef struct hl_geometry:
        int64_t vector_lanes
        int64_t panel_width
        int64_t unit_rows
        int64_t most_unit_rows
        int64_t narrow_columns
        int64_t unit_size
        int64_t packed_size
        int64_t reduction
        int64_t counted_steps

    ctypedef struct hl_kernels:
        hl_geometry geometry
        hl_kernel *run
        hl_kernel prepare
        hl_total sum_loss
        hl_total sum_squares
        hl_batch_total sum_weights
        hl_note remember
        hl_reader read
        hl_total settle
        hl_packer pack
        hl_packer unpack
        hl_row row_forward
        hl_finite all_finite
        hl_random random_bits
        hl_random random_uniform

    ctypedef struct hl_isa:
        const char *name
        const char *features
        const char *extends
        const hl_kernels **kernels

    enum:
        HL_LOSS
        HL_N_KINDS
        HL_update
        HL_N_DTYPES
        HL_decay
        HL_N_SCALARS
        HL_MOST_MISSED
        HL_MOST_COUNTED

cdef extern from "dispatch.h" nogil:
    const hl_isa hl_isas[]
    const hl_isa hl_extensions[]
    int hl_isa_usable(const hl_isa *isa)

    ctypedef struct hl_field:
        const char *name
        const char *type
        int64_t offset
    const hl_field hl_op_fields[]
    const char *hl_vocabulary(const char *name)
    const char *hl_stages[]

cdef extern from "threads.h" nogil:
    enum:
        HL_MOST_THREADS
        HL_FORKED
    ctypedef struct hl_team:
        int n_workers
    ctypedef void (*hl_piece)(void *, int64_t, int) noexcept
    ctypedef int (*hl_question)(void *) except -1
    void hl_begin_work()
    void hl_end_work()
    void hl_borrow(hl_team *team, int most, int limit)
    void hl_give_back(hl_team *team)
    int hl_share(
        hl_team *team, int64_t n_pieces, hl_piece run, void *context, hl_question, void *asked
    ) except -1
    int hl_pool_size()

cdef extern from "clock.h" nogil:
    double hl_seconds()

cdef extern from "denormals.h" nogil:
    unsigned hl_flush_denormals()
    void hl_restore_denormals(unsigned mode)

cdef extern from "shuffle.h" nogil:
    void hl_shuffle(uint32_t *key, int *position, int64_t n, intptr_t *order)
