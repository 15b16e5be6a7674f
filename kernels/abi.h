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
 *   rows     [I][arrays][Opad] lanes along O, for CSR input: a row of the weight and, in training,
 *                              the same row of the optimizer's slots side by side; ld_weight apart
 *   mirror   [I / NR][O][NR]   the transpose of a panels weight, for the gradient of the input
 * Where products read bfloat16 the optimizer's weight is panels of float32, and they have an
 * `operand` made from it, [O / NR][I / 2][NR] pairs of neighbours along I, and a mirror of pairs
 * along O; what is missing to the last pair is zero. Rows in the arena are bfloat16 then, too, but
 * for what a product writes: float32, and an op ROUND after it.
 */
#ifndef HOTLOOP_ABI_H
#define HOTLOOP_ABI_H

#include <stddef.h>
#include <stdint.h>

/* kind, stage, what it does. Stage `rows` is split over the rows of the batch, the others over
 * units: of a parameter, or the features that the batch touches. A barrier separates the stages of
 * a step. */
#define HL_KINDS(F)                                                                                \
    F(CSR_INDEX, index)           /* touched <- the batch of a CSR stream X, by features */        \
    F(CSR_CATCH_UP, catch_up)     /* weight, slots <- the steps that passed the features by */     \
    F(GATHER, rows)               /* output <- rows of stream X, converted to the op's dtype */    \
    F(ROUND, rows)                /* output <- float32 input as bfloat16, (B, O) */                \
    F(DENSE_FORWARD, rows)        /* output <- activation(input . weight + bias) */                \
    F(CSR_FORWARD, rows)          /* the same, input being rows of a CSR stream X */               \
    F(LOSS, rows)                 /* output <- delta of the loss; row_loss <- loss of a row */     \
    F(OUTPUT, rows)               /* stream out <- output activation of output */                  \
    F(DENSE_BACKWARD_INPUT, rows) /* d_input <- (d_output . weight') * activation'(input) */       \
    F(DENSE_BACKWARD_SHARD, rows) /* gradient of a shard of the rows <- input' . d_output */       \
    F(DENSE_BACKWARD_WEIGHT, parameters) /* gradient <- input' . d_output, see GRADIENTS */        \
    F(CSR_BACKWARD_WEIGHT, parameters)   /* the same, input being rows of a CSR stream X */        \
    F(UPDATE, updates)         /* weight, bias <- optimizer step on materialised gradients */      \
    F(CSR_UPDATE, updates)     /* the same, of the features that the batch touches */              \
    F(GRADIENT_SQUARES, norms) /* norms <- sum of squares of the mean gradient of each unit */     \
    F(GRADIENT_NORM, clip)     /* clip_scale <- what clips the gradient, by I sums of `norms` */   \
    F(MAX_NORM, limits)        /* weight <- columns shrunk to a norm of max_norm, if longer */     \
    F(BATCH_STATISTICS, parameters) /* statistics <- of the columns of input over the batch */     \
    F(NORMALIZE, rows)              /* output <- activation(normalised input * weight + bias) */   \
    F(NORM_GRADIENT, parameters)    /* gradients of scale and bias <- d_output, input */           \
    F(NORMALIZE_BACKWARD, rows)     /* d_input <- d_output through the normalisation of input */   \
    F(NORM_UPDATE, updates)         /* scale, bias <- step; mean, variance <- the batch's */       \
    F(DROPOUT, rows)        /* output, slope <- that times 0 or `scale`, by random words */        \
    F(NOISE, rows)          /* output <- that plus `scale` times normal numbers */                 \
    F(PARTNER_GATHER, rows) /* output <- what GATHER has for the partners of the rows */           \
    F(PARTNER_LOSS, rows)   /* output <- input, then LOSS by targets and weights of partners */    \
    F(MIX, rows)            /* output <- mix output + (1 - mix) input, (B, O) */                   \
    F(MUON_SQUARES, muon_squares)       /* norms <- squares of the direction of a step */          \
    F(MUON_SCALE, muon_scale)           /* result <- the direction, of norm 1; (n, m), n >= m */   \
    F(MUON_GRAM, muon_gram)             /* result <- left' . left */                               \
    F(MUON_POLYNOMIAL, muon_polynomial) /* result <- left . (scale right + shift 1), symmetric */  \
    F(MUON_APPLY, muon_apply)           /* the same, of n rows */                                  \
    F(MUON_UPDATE, updates)             /* weight <- step along left, bias by its optimizer */

/* Of an op's elements. bfloat16 is of the operands of products, all else being float32: by the
 * processor's own instruction where it has one, or from float32 arithmetic anywhere. */
#define HL_DTYPES(F) F(float32) F(float64) F(bfloat16) F(bfloat16_emulated)
#define HL_LAYOUTS(F) F(panels) F(narrow) F(rows)
/* `custom` and `custom_loss` are functions of the user, see hl_function. */
#define HL_ACTIVATIONS(F)                                                                          \
    F(identity)                                                                                    \
    F(relu)                                                                                        \
    F(logistic)                                                                                    \
    F(tanh)                                                                                        \
    F(softmax)                                                                                     \
    F(exp)                                                                                         \
    F(custom)                                                                                      \
    F(leaky_relu)                                                                                  \
    F(elu)                                                                                         \
    F(selu)                                                                                        \
    F(gelu)                                                                                        \
    F(gelu_tanh)                                                                                   \
    F(silu) F(mish) F(softplus) F(softsign) F(hard_sigmoid) F(hard_swish) F(ordered) F(softmaxes)
/* From absolute_error to binary_squared_hinge of each output by itself; then of a row: four of a
 * class code, ordered_quantiles, of outputs that are `ordered`, and joint_log_loss, of a class code
 * for each run of outputs, whose lengths follow its first constant (`softmaxes` reads them, too). */
#define HL_LOSSES(F)                                                                               \
    F(log_loss)                                                                                    \
    F(binary_log_loss)                                                                             \
    F(squared_error)                                                                               \
    F(poisson)                                                                                     \
    F(custom_loss)                                                                                 \
    F(absolute_error)                                                                              \
    F(huber)                                                                                       \
    F(log_cosh)                                                                                    \
    F(quantile)                                                                                    \
    F(gamma)                                                                                       \
    F(tweedie)                                                                                     \
    F(binary_focal)                                                                                \
    F(binary_hinge)                                                                                \
    F(binary_squared_hinge)                                                                        \
    F(smooth_log_loss)                                                                             \
    F(focal)                                                                                       \
    F(hinge)                                                                                       \
    F(squared_hinge)                                                                               \
    F(ordered_quantiles)                                                                           \
    F(joint_log_loss)
/* What a BACKWARD_WEIGHT does with the gradient: writes it over the gradient buffer, adds it
 * there, or hands it to the optimizer while it is in the cache; it is never written
 * to a buffer of its own. */
#define HL_GRADIENTS(F) F(overwrite) F(accumulate) F(update)
#define HL_OPTIMIZERS(F)                                                                           \
    F(sgd) F(nesterov) F(adam) F(amsgrad) F(nadam) F(rmsprop) F(adagrad) F(lion)
/* What mean and variance are taken over: a column of the batch, or a row's outputs. The scale of a
 * normalisation is its op's weight, (1, O), the bias of its layer what is added after it. */
#define HL_NORMALIZATIONS(F) F(batch_norm) F(layer_norm)
/* Scalars of a step, one row of these for each parameter group. Those from shrink to average are
 * read by `extended` ops alone: a weight is multiplied by shrink before its step, epsilon by
 * correction; gradient_rate is nadam's second rate, and average what is kept of an average. `mix` is
 * one for all groups: the share of a row in its pair, see hl_draw. Those of a matrix are for weights
 * that step along one (muon.h). */
#define HL_SCALARS(F)                                                                              \
    F(rate)                                                                                        \
    F(momentum)                                                                                    \
    F(decay)                                                                                       \
    F(shrink)                                                                                      \
    F(correction)                                                                                  \
    F(gradient_rate) F(average) F(mix) F(matrix_rate) F(matrix_momentum) F(matrix_shrink)

/* type, name. Offsets are bytes into the arena (activations, deltas) or the store
 * (parameters and all that goes with them); -1 where an op has no such buffer. */
#define HL_OP_FIELDS(F)                                                                            \
    F(int32_t, kind)                                                                               \
    F(int32_t, dtype)                                                                              \
    F(int32_t, layout)     /* of the weight */                                                     \
    F(int32_t, activation) /* forward: of the output; backward: that which made the input */       \
    F(int32_t, loss)                                                                               \
    F(int32_t, function) /* of a custom activation or loss, in batch.functions */                  \
    F(int32_t, gradient)                                                                           \
    F(int32_t, optimizer)                                                                          \
    F(int32_t, weight_group)                                                                       \
    F(int32_t, bias_group)                                                                         \
    F(int32_t, from_stream) /* 1: input is stream X itself, row stride I */                        \
    F(int32_t, pack_input)  /* 1: a BACKWARD_WEIGHT packs its input in scratch first */            \
    F(int32_t, lazy)        /* 1: features miss the steps of batches that do not touch them */     \
    F(int64_t, I)                                                                                  \
    F(int64_t, O)                                                                                  \
    F(int64_t, units)    /* of an op over parameters; -1: touched features */                      \
    F(int64_t, grain)    /* units that a thread takes at a time */                                 \
    F(int64_t, input)    /* arena, (B, ld_input) */                                                \
    F(int64_t, d_input)  /* arena, (B, ld_d_input) */                                              \
    F(int64_t, output)   /* arena, (B, ld_output) */                                               \
    F(int64_t, d_output) /* arena, (B, ld_output) */                                               \
    F(int64_t, ld_input) /* row strides in elements */                                             \
    F(int64_t, ld_d_input)                                                                         \
    F(int64_t, ld_output)                                                                          \
    F(int64_t, slope) /* arena, (B, ld_slope): of the activation, where training keeps it */       \
    F(int64_t, ld_slope)                                                                           \
    F(int64_t, row_loss)  /* arena, (B,) */                                                        \
    F(int64_t, squares)   /* store, (units,) float64: sum of squared weights of each unit */       \
    F(int64_t, features)  /* store, (I,) hl_feature */                                             \
    F(int64_t, counts)    /* store, (pieces of I, HL_MOST_COUNTED) float64: of squared weights */  \
    F(int64_t, ld_weight) /* of layout rows, in elements */                                        \
    F(int64_t, weight)    /* store, and so are all below; -1, -2 ..: plain_weights[0], [1] .. */   \
    F(int64_t, weight_slot_0)                                                                      \
    F(int64_t, weight_slot_1)                                                                      \
    F(int64_t, weight_gradient) /* of the first shard, if there are more */                        \
    F(int64_t, operand)         /* what products read, where it is not the weight itself */        \
    F(int64_t, mirror)                                                                             \
    F(int64_t, bias) /* (Opad,) */                                                                 \
    F(int64_t, bias_slot_0)                                                                        \
    F(int64_t, bias_slot_1)                                                                        \
    F(int64_t, bias_gradient)                                                                      \
    F(int64_t, shard_rows)  /* rows of the batch whose gradients are summed apart; -1: all */      \
    F(int64_t, shard_bytes) /* between the gradients of two shards */                              \
    F(double, beta_2)                                                                              \
    F(double, epsilon)        /* of the optimizer; of a NORMALIZE what is added to the variance */ \
    F(double, l1_ratio)       /* of the penalty; the rest is L2 */                                 \
    F(double, clip_value)     /* largest element of a gradient; infinite: any */                   \
    F(double, clip_norm)      /* largest norm of all gradients together */                         \
    F(double, max_norm)       /* of a column of the weight */                                      \
    F(int64_t, weight_slot_2) /* store, and so are all below */                                    \
    F(int64_t, weight_average) /* of the weights after each step */                                \
    F(int64_t, bias_slot_2)                                                                        \
    F(int64_t, bias_average)                                                                       \
    F(int64_t, norms)      /* (units,) float64; of GRADIENT_NORM: those of all layers */           \
    F(int64_t, clip_scale) /* (1,) of the op's dtype */                                            \
    F(int32_t, extended)   /* 1: steps do more than the first three rules by themselves */         \
    F(int32_t, normalization)                                                                      \
    F(int64_t, statistics) /* arena: of columns (HL_COLUMN_STATISTICS, Opad), of rows (B, 2) */    \
    F(int64_t, mean)       /* store, (Opad,): running, of columns, and so is the next */           \
    F(int64_t, variance)                                                                           \
    F(double, smoothing)  /* share of the batch in the running mean and variance */                \
    F(int64_t, draw)      /* of an op that draws: its number in hl_draw */                         \
    F(int64_t, threshold) /* of DROPOUT: smaller words drop */                                     \
    F(double, scale)      /* of what an op says; of DROPOUT: 1 / (1 - rate) */                     \
    F(int32_t, nesterov)  /* 1: of the momentum of a matrix */                                     \
    F(int64_t, left)      /* store, matrices (n or m, ld_matrix), see muon.h */                    \
    F(int64_t, right)                                                                              \
    F(int64_t, result)                                                                             \
    F(int64_t, ld_matrix)                                                                          \
    F(double, shift) /* of MUON_POLYNOMIAL and MUON_APPLY, see there */

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
enum hl_normalization { HL_NORMALIZATIONS(HL_ENUM) HL_N_NORMALIZATIONS };
enum hl_scalar { HL_SCALARS(HL_ENUM) HL_N_SCALARS };
#undef HL_ENUM

/* What is kept of the columns of a batch, in this order: mean; variance, biased; 1 / deviation, and
 * that times scale; means over the batch of d_output, and of d_output * normalised / deviation. Of
 * rows it is mean and 1 / deviation. */
enum { HL_MEAN, HL_VARIANCE, HL_INVERSE, HL_FACTOR, HL_D_MEAN, HL_D_SLOPE, HL_COLUMN_STATISTICS };

/* One input of a run. data is (n, n_cols) row-major; for CSR, data is (nnz,) and indices and
 * indptr are set. */
typedef struct hl_stream {
    const void *data;
    const int32_t *indices;
    const int64_t *indptr;
    int64_t n_cols;
    int32_t dtype;
} hl_stream;

/* What is known of a feature of a CSR stream. */
typedef struct hl_feature {
    int32_t place; /* among the touched ones, if it is there */
    int32_t step;  /* of the history, up to which its weights have come */
} hl_feature;

/* The entries of a batch by features, these in order of their first entry, the entries of each in
 * the order of the batch. */
typedef struct hl_touched {
    int64_t n;
    int32_t *features; /* (n,) */
    int64_t *ends;     /* (n,) of their entries */
    int32_t *rows;     /* (entries,) row of the batch */
    void *values;      /* (entries,) the op's dtype */
    int32_t *places;   /* (entries,) in the order of the batch */
} hl_touched;

/* Steps since all features of a CSR stream were last up to date: what a step that passed a feature
 * by would have done to it. Either all of them decay the weights or none. In the second case the
 * steps s, s + 1 .. n - 1 together move a weight by moves[.][s], see `remember`. */
enum { HL_MOST_MISSED = 4096, HL_MOST_COUNTED = 64, HL_MOVE_TERMS = 10 };
typedef struct hl_history {
    int64_t n;
    int64_t live; /* steps before it move nothing any more */
    int64_t gaps; /* how far faded and lag are known */
    int32_t decays;
    double constants[HL_MOST_MISSED][5];          /* see missed_step */
    double scalars[HL_MOST_MISSED][HL_N_SCALARS]; /* of an extended op */
    double inverse_weights[HL_MOST_MISSED];
    double share[HL_MOST_MISSED]; /* of a squared weight in the loss */
    double kept[HL_MOST_MISSED];  /* of a first moment or velocity */
    double moves[HL_MOVE_TERMS][HL_MOST_MISSED];
    double rest[HL_MOST_MISSED];      /* bound of the terms left out */
    double faded[HL_MOST_MISSED + 1]; /* what is left of a second moment, by missed steps */
    double lag[HL_MOST_MISSED + 1];   /* 1 - its root */
} hl_history;

/* A function of the user over n elements of the op's dtype. Loops over such: an element's bits do
 * not depend on its place. */
typedef struct hl_function {
    void (*activate)(void *z, intptr_t n);                            /* z <- f(z) */
    void (*activate_and_slope)(void *z, void *slope, intptr_t n);     /* slope <- f'(z), too */
    void (*loss)(const void *y, void *z, void *row_loss, intptr_t n); /* l(y, z); z <- dl/dz */
} hl_function;

/* What the ops of one step work on. Row r of the batch is row order[r] of the streams, or row
 * first + r where order is NULL. */
typedef struct hl_batch {
    char *arena;
    char *store;
    char *scratch; /* of one thread: gradients of `grain` units, then what they pack; or a panel */
    hl_stream X;
    hl_stream y;                /* int32 codes (n,) or (n, runs), or the op's dtype (n, O) */
    const double *weights;      /* (n,) or NULL */
    void *out;                  /* (n, O), the op's dtype */
    const void **plain_weights; /* (I, O), the op's dtype, as the user has them */
    const intptr_t *order;
    int64_t first;
    int64_t n;
    const double *scalars; /* (groups, HL_N_SCALARS) */
    double inverse_weight; /* 1 / sum of the batch's weights */
    hl_touched *touched;   /* of CSR streams; NULL: all features */
    hl_history *history;
    const hl_function *functions;
    uint64_t seed; /* of what is drawn, see hl_draw */
    uint32_t step;
    const double *constants; /* of losses */
} hl_batch;

/* Works on [begin, end) of the batch's rows or of the op's units. */
typedef void (*hl_kernel)(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end);

/* A dense layer for one row, from the plain layout of the user; same bits as in a batch. */
typedef void (*hl_row)(const hl_op *op, const void *input, const void *weight, const void *bias,
                       void *output);

/* Packing between the plain row-major layout of the user and an op's store, and back. */
typedef void (*hl_packer)(const hl_op *op, char *store, int64_t packed_weight, int64_t packed_bias,
                          void *weight, void *bias);

/* Where random words of dropout, noise and augmentation come from: no state, but a function of what
 * they are for, the same on every backend. Word (row, column) of an op in a step is
 *   word[column % 4] of Philox4x32-10(counter = (column / 4, row, op, step), key = seed)
 * (Salmon, Moraes, Dror and Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", SC11), the
 * lower half of the seed being the first word of the key. So neither the order in which words are
 * made shows, nor how rows and columns are divided. Of a row number, a column / 4 and an op there are
 * 2^32, more are refused; steps count modulo 2^32: after so many of them an op has the same words.
 * What becomes of a word w:
 *   uniform in [0, 1)   w / 2^32 as float64; (w >> 8) / 2^24 as float32, which is that number with
 *                       the bits cut off that float32 has no room for: both are exact, so no
 *                       backend rounds, and a draw is the same in either type up to 2^-24
 *   dropped at a rate   where w < threshold, threshold = min(round(rate * 2^32), 2^32 - 1), ties to
 *                       even; the plan computes it, kernels compare integers
 *   standard normal     the inverse of the normal distribution's function at (w + 1/2) / 2^32 as
 *                       float64; at ((w >> 9) + 1/2) / 2^23 as float32: both are exact, and never 0
 *                       or 1, so that no number is beyond 6.4 or 5.3. By Wichura's rational
 *                       functions (1988, algorithm AS 241), equal on all backends up to rounding
 * The row is that of the batch, the column that of what is dropped or has noise, the step the number
 * of optimizer steps that the fit took before, over all calls that went on from each other. The op is
 * the number of the layer whose outputs are dropped; HL_INPUT_DROPOUT and HL_INPUT_NOISE for the
 * input; and HL_MIXUP, of which word (0, 0) of each step, (w + 1/2) / 2^32, is the place on the
 * distribution Beta(alpha, alpha) where the step's `mix` is found. The pairs of mixup are not drawn:
 * the partner of row r of a batch of n is row (r + n / 2) mod n, n / 2 being rounded down, since the
 * rows of a batch are in random order already. */
enum { HL_INPUT_DROPOUT = 1 << 30, HL_INPUT_NOISE, HL_MIXUP };
typedef struct hl_draw {
    uint64_t seed;
    uint32_t op;
    uint32_t step;
} hl_draw;

/* Fills out (n,) with the words, or uniform numbers of the op's dtype, of columns column ..
 * column + n - 1 of a row. */
typedef void (*hl_random)(const hl_draw *draw, int64_t row, int64_t column, int64_t n, void *out);

/* Sizes a plan needs to lay out buffers for an instruction set and dtype. */
typedef struct hl_geometry {
    int64_t vector_lanes;   /* VL */
    int64_t panel_width;    /* NR, and one VL more for the last panel where that is odd */
    int64_t unit_rows;      /* rows of I in one unit of a panels weight */
    int64_t most_unit_rows; /* in the last one, which takes what would be less than half a unit */
    int64_t narrow_columns; /* columns of I in one unit of a narrow weight */
    int64_t unit_size;      /* elements of the largest unit, in a thread's scratch */
    int64_t packed_size;    /* elements that units pack there */
    int64_t reduction;      /* the longest that goes through a panel at a time */
    int64_t counted_steps;  /* HL_MOST_COUNTED */
} hl_geometry;

typedef void (*hl_note)(const hl_op *op, const hl_batch *batch);
typedef void (*hl_reader)(const hl_op *op, const hl_batch *batch, int64_t packed, void *scratch,
                          void *plain);
typedef double (*hl_total)(const hl_op *op, const hl_batch *batch);
typedef double (*hl_batch_total)(const hl_batch *batch);

/* sum_loss, sum_squares and settle add up what the kernels left behind, always in the same order.
 * Of CSR training: remember adds the step just taken to the history; settle, after all features
 * have caught up, forgets it, and returns the share of their squared weights in its losses. */
typedef struct hl_kernels {
    hl_geometry geometry;
    hl_kernel run[HL_N_KINDS];
    hl_kernel prepare; /* after new weights: squares and mirror of units begin .. end */
    hl_total sum_loss;
    hl_total sum_squares;
    hl_batch_total sum_weights;
    hl_note remember;
    hl_reader read; /* of CSR training, where features have steps to catch up with */
    hl_total settle;
    hl_packer pack;
    hl_packer unpack;
    hl_row row_forward;
    int (*all_finite)(const void *elements, int64_t n);
    hl_random random_bits; /* uint32 */
    hl_random random_uniform;
} hl_kernels;

/* One instruction set: all there is to say about it is in this value. */
typedef struct hl_isa {
    const char *name;
    const char *features; /* names of the CPU features it needs, separated by spaces */
    const char *extends;  /* name of the set that it adds kernels to, or NULL */
    const hl_kernels *kernels[HL_N_DTYPES]; /* NULL where it has none */
} hl_isa;

#endif
