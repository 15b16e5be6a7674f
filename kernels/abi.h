/* The one definition of what plans and kernels share: the op record, its vocabularies and
 * what a kernel is handed. The lists below are X-macros: C gets structs and enums from them,
 * Python gets OP_DTYPE and the vocabularies (see engine.pyx), so neither can drift.
 *
 * Legend of dimensions, the same letters everywhere:
 *   B rows of a batch          I inputs of a layer        O outputs of a layer
 *   K length of a reduction    VL lanes of a vector       NR columns of a panel (2 VL)
 * Layout of a weight (I x O) in the store:
 *   panels   [O / NR][I][NR]   lanes along O; the panel that starts at column j lies at j * I,
 *                              the last one is VL, NR or NR + VL wide, columns past O are zero
 *   narrow   [O][Ipad]         lanes along I, for O <= VL / 2; columns past I are zero
 *   mirror   [I / NR][O][NR]   the transpose of a panels weight, for the gradient of the input
 */
#ifndef HOTLOOP_ABI_H
#define HOTLOOP_ABI_H

#include <stddef.h>
#include <stdint.h>

/* kind, stage, what it does. Stage `rows` is split over the rows of the batch, the others over the
 * units of a parameter; a barrier separates the stages of a step. */
#define HL_KINDS(F)                                                                                \
    F(GATHER, rows)               /* output <- rows of stream X, converted to the op's dtype */    \
    F(DENSE_FORWARD, rows)        /* output <- activation(input . weight + bias) */                \
    F(CSR_FORWARD, rows)          /* the same, input being rows of a CSR stream X */               \
    F(LOSS, rows)                 /* output <- delta of the loss; row_loss <- loss of a row */     \
    F(OUTPUT, rows)               /* stream out <- output activation of output */                  \
    F(DENSE_BACKWARD_INPUT, rows) /* d_input <- (d_output . weight') * activation'(input) */       \
    F(DENSE_BACKWARD_WEIGHT, parameters) /* gradient <- input' . d_output, see GRADIENTS */        \
    F(CSR_BACKWARD_WEIGHT, parameters)   /* the same, input being rows of a CSR stream X */        \
    F(UPDATE, updates) /* weight, bias <- optimizer step on materialised gradients */

#define HL_DTYPES(F) F(float32) F(float64)
#define HL_LAYOUTS(F) F(panels) F(narrow)
#define HL_ACTIVATIONS(F) F(identity) F(relu) F(logistic) F(tanh) F(softmax) F(exp)
#define HL_LOSSES(F) F(log_loss) F(binary_log_loss) F(squared_error) F(poisson)
/* What a BACKWARD_WEIGHT does with the gradient: writes it over the gradient buffer, adds it
 * there, or hands it to the optimizer while it is in the first-level cache: it reaches no
 * other memory. */
#define HL_GRADIENTS(F) F(overwrite) F(accumulate) F(update)
#define HL_OPTIMIZERS(F) F(sgd) F(nesterov) F(adam)
/* Scalars of a step, one row of these for each parameter group. */
#define HL_SCALARS(F) F(rate) F(momentum) F(decay)

/* type, name. Offsets are bytes into the arena (activations, deltas) or the store
 * (parameters and all that goes with them); -1 where an op has no such buffer. */
#define HL_OP_FIELDS(F)                                                                            \
    F(int32_t, kind)                                                                               \
    F(int32_t, dtype)                                                                              \
    F(int32_t, layout)     /* of the weight */                                                     \
    F(int32_t, activation) /* forward: of the output; backward: that which made the input */       \
    F(int32_t, loss)                                                                               \
    F(int32_t, gradient)                                                                           \
    F(int32_t, optimizer)                                                                          \
    F(int32_t, weight_group)                                                                       \
    F(int32_t, bias_group)                                                                         \
    F(int32_t, from_stream) /* 1: input is stream X itself, row stride I */                        \
    F(int32_t, pack_input)  /* 1: a BACKWARD_WEIGHT packs its input in scratch first */            \
    F(int64_t, I)                                                                                  \
    F(int64_t, O)                                                                                  \
    F(int64_t, units)    /* of an op over parameters */                                            \
    F(int64_t, grain)    /* units that a thread takes at a time */                                 \
    F(int64_t, input)    /* arena, (B, ld_input) */                                                \
    F(int64_t, d_input)  /* arena, (B, ld_input) */                                                \
    F(int64_t, output)   /* arena, (B, ld_output) */                                               \
    F(int64_t, d_output) /* arena, (B, ld_output) */                                               \
    F(int64_t, ld_input) /* row strides in elements */                                             \
    F(int64_t, ld_output)                                                                          \
    F(int64_t, row_loss) /* arena, (B,) */                                                         \
    F(int64_t, squares)  /* store, (units,) float64: sum of squared weights of each unit */        \
    F(int64_t, weight)   /* store, and so are all below */                                         \
    F(int64_t, weight_slot_0)                                                                      \
    F(int64_t, weight_slot_1)                                                                      \
    F(int64_t, weight_gradient)                                                                    \
    F(int64_t, mirror)                                                                             \
    F(int64_t, bias) /* (Opad,) */                                                                 \
    F(int64_t, bias_slot_0)                                                                        \
    F(int64_t, bias_slot_1)                                                                        \
    F(int64_t, bias_gradient)                                                                      \
    F(double, beta_2)                                                                              \
    F(double, epsilon)

#define HL_FIELD(type, name) type name;
typedef struct hl_op {
    HL_OP_FIELDS(HL_FIELD)
} hl_op;
#undef HL_FIELD

#define HL_ENUM(name, ...) HL_##name,
enum hl_kind { HL_KINDS(HL_ENUM) HL_N_KINDS };
enum hl_dtype { HL_DTYPES(HL_ENUM) HL_N_DTYPES };
enum hl_layout { HL_LAYOUTS(HL_ENUM) HL_N_LAYOUTS };
enum hl_activation { HL_ACTIVATIONS(HL_ENUM) HL_N_ACTIVATIONS };
enum hl_loss { HL_LOSSES(HL_ENUM) HL_N_LOSSES };
enum hl_gradient { HL_GRADIENTS(HL_ENUM) HL_N_GRADIENTS };
enum hl_optimizer { HL_OPTIMIZERS(HL_ENUM) HL_N_OPTIMIZERS };
enum hl_scalar { HL_SCALARS(HL_ENUM) HL_N_SCALARS };
#undef HL_ENUM

/* One input of a run. data is (n, n_cols) row-major; for CSR, data is (nnz,) and indices and
 * indptr are set. */
typedef struct hl_stream {
    const void *data;
    const int32_t *indices;
    const int64_t *indptr;
    int64_t n_cols;
    int32_t dtype;
} hl_stream;

/* What the ops of one step work on. Row r of the batch is row order[r] of the streams, or row
 * first + r where order is NULL. */
typedef struct hl_batch {
    char *arena;
    char *store;
    char *scratch; /* of one thread */
    hl_stream X;
    hl_stream y;           /* int32 codes (n,) or the op's dtype (n, O) */
    const double *weights; /* (n,) or NULL */
    void *out;             /* (n, O), the op's dtype */
    const intptr_t *order;
    int64_t first;
    int64_t n;
    const double *scalars; /* (groups, HL_N_SCALARS) */
    double inverse_weight; /* 1 / sum of the batch's weights */
} hl_batch;

/* Works on [begin, end) of the batch's rows or of the op's units. */
typedef void (*hl_kernel)(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end);

/* A dense layer for one row, from the plain layout of the user; same bits as in a batch. */
typedef void (*hl_row)(const hl_op *op, const void *input, const void *weight, const void *bias,
                       void *output);

/* Packing between the plain row-major layout of the user and an op's store, and back. */
typedef void (*hl_packer)(const hl_op *op, char *store, int64_t packed_weight, int64_t packed_bias,
                          void *weight, void *bias);

/* Sizes a plan needs to lay out buffers for an instruction set and dtype. */
typedef struct hl_geometry {
    int64_t vector_lanes;   /* VL */
    int64_t panel_width;    /* NR, and one VL more for the last panel where that is odd */
    int64_t unit_rows;      /* rows of I in one unit of a panels weight */
    int64_t most_unit_rows; /* in the last one, which takes what would be less than half a unit */
    int64_t narrow_columns; /* columns of I in one unit of a narrow weight */
} hl_geometry;

typedef double (*hl_total)(const hl_op *op, const hl_batch *batch);
typedef double (*hl_batch_total)(const hl_batch *batch);

/* sum_loss and sum_squares add up what the kernels left behind, always in the same order. */
typedef struct hl_kernels {
    hl_geometry geometry;
    hl_kernel run[HL_N_KINDS];
    hl_kernel prepare; /* after new weights: squares and mirror of units begin .. end */
    hl_total sum_loss;
    hl_total sum_squares;
    hl_batch_total sum_weights;
    hl_packer pack;
    hl_packer unpack;
    hl_row row_forward;
    int (*all_finite)(const void *elements, int64_t n);
} hl_kernels;

/* One instruction set: all there is to say about it is in this value. */
typedef struct hl_isa {
    const char *name;
    const char *features; /* names of the CPU features it needs, separated by spaces */
    const hl_kernels *kernels[HL_N_DTYPES];
} hl_isa;

#endif
