/* Batch and layer normalisation, between a layer's product z (the input here, which has no bias)
 * and its activation:
 *
 *   n = (z - mean) / sqrt(variance + epsilon)      h = activation(scale n + bias)
 *
 * n is not kept: it is made anew of z and the statistics wherever it is needed, which takes less time
 * than to write it. Sums over the batch go down columns in two chains, those over a row along its
 * vectors, so that bits depend on neither threads nor chunks. Means and variances take two passes, the
 * second about the first's mean; what that mean was off by is taken into account, so that a column
 * that is constant becomes zeros. Needs dense.h, loss.h (first_n). */

INLINE REAL *column_statistic(const hl_op *op, const hl_batch *batch, int which) {
    return in_arena(batch, op->statistics) + which * padded(op->O);
}

/* 1 / sqrt(variance + epsilon) */
INLINE V inverse_deviation(const hl_op *op, V variance) {
    const V epsilon = v_max(v_set1(SMALLEST_NORMAL), v_set1((REAL)op->epsilon));
    return v_set1(1) / v_sqrt(variance + epsilon);
}

/* Does something with every row, those of even and of odd number in chains of their own. */
#define TWO_CHAINS(n, work)                                                                        \
    do {                                                                                           \
        int64_t row = 0;                                                                           \
        for (; row + 2 <= (n); row += 2) {                                                         \
            work(row, 0);                                                                          \
            work(row + 1, 1);                                                                      \
        }                                                                                          \
        if (row < (n)) { work(row, 0); }                                                           \
    } while (0)
#define EACH_VECTOR _Pragma("GCC unroll 2") for (int k = 0; k < nv; k++)

/* ------------------------------------------------------------------ statistics of columns */

INLINE void column_block(const int nv, const hl_op *op, const hl_batch *batch, int64_t j) {
    const REAL *Z = in_arena(batch, op->input) + j;
    const int64_t ld = op->ld_input;
    const V count = v_set1((REAL)batch->n);
    V sum[2][2], square[2][2], mean[2];
    EACH_VECTOR sum[0][k] = sum[1][k] = square[0][k] = square[1][k] = v_zero();
#define ADD(r, chain) EACH_VECTOR sum[chain][k] += v_load(Z + (r) * ld + k * VL)
    TWO_CHAINS(batch->n, ADD);
#undef ADD
    EACH_VECTOR {
        mean[k] = (sum[0][k] + sum[1][k]) / count;
        sum[0][k] = sum[1][k] = v_zero();
    }
#define ADD(r, chain)                                                                              \
    EACH_VECTOR {                                                                                  \
        const V d = v_load(Z + (r) * ld + k * VL) - mean[k];                                       \
        sum[chain][k] += d;                                                                        \
        square[chain][k] = v_fma(d, d, square[chain][k]);                                          \
    }
    TWO_CHAINS(batch->n, ADD);
#undef ADD
    EACH_VECTOR {
        const int64_t at = j + k * VL;
        const V off = (sum[0][k] + sum[1][k]) / count;
        const V variance = v_max(v_zero(), (square[0][k] + square[1][k]) / count - off * off);
        const V inverse = inverse_deviation(op, variance);
        v_store(column_statistic(op, batch, HL_MEAN) + at, mean[k] + off);
        v_store(column_statistic(op, batch, HL_VARIANCE) + at, variance);
        v_store(column_statistic(op, batch, HL_INVERSE) + at, inverse);
        v_store(column_statistic(op, batch, HL_FACTOR) + at,
                inverse * v_load(in_store(batch, op->weight) + at));
    }
}

/* For units of NR columns: what they have of a batch stays in the first-level cache. */
#define EACH_BLOCK_OF_COLUMNS(block)                                                               \
    for (int64_t unit = begin; unit < end; unit++) {                                               \
        if (padded(op->O) - unit * NR >= NR) block(2, op, batch, unit * NR);                       \
        else block(1, op, batch, unit * NR);                                                       \
    }

static void batch_statistics(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    EACH_BLOCK_OF_COLUMNS(column_block)
}

/* Factors from the running variance, for predictions. */
static void running_factors(const hl_op *op, const hl_batch *batch) {
    for (int64_t j = 0; j < op->O; j += VL)
        v_store(column_statistic(op, batch, HL_FACTOR) + j,
                inverse_deviation(op, v_load(in_store(batch, op->variance) + j)) *
                    v_load(in_store(batch, op->weight) + j));
}

/* ------------------------------------------------------------------ statistics of a row */

INLINE void row_statistics(const hl_op *op, const REAL *z, REAL *mean, REAL *inverse) {
    const int64_t O = op->O;
    V sum = v_zero(), off = v_zero(), square = v_zero();
    for (int64_t o = 0; o < O; o += VL) sum += v_load_n(z + o, O - o < VL ? O - o : VL);
    const V count = v_set1((REAL)O), center = v_set1(v_sum(sum)) / count;
    for (int64_t o = 0; o < O; o += VL) {
        const int64_t n = O - o < VL ? O - o : VL;
        const V d = first_n(n, v_load_n(z + o, n) - center, v_zero());
        off += d;
        square = v_fma(d, d, square);
    }
    const V rest = v_set1(v_sum(off)) / count;
    const V variance = v_max(v_zero(), v_set1(v_sum(square)) / count - rest * rest);
    *mean = (center + rest)[0];
    *inverse = inverse_deviation(op, variance)[0];
}

/* ------------------------------------------------------------------ forward */

static void normalize(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const int by_columns = op->normalization == HL_batch_norm, running = op->mean >= 0;
    const int relu = op->activation == HL_relu; /* the others follow */
    const int64_t O = op->O;
    const REAL *scale = in_store(batch, op->weight), *bias = in_store(batch, op->bias);
    const REAL *means = NULL, *factors = NULL;
    if (by_columns) {
        if (running) running_factors(op, batch);
        means = running ? in_store(batch, op->mean) : column_statistic(op, batch, HL_MEAN);
        factors = column_statistic(op, batch, HL_FACTOR);
    }
    for (int64_t r = begin; r < end; r++) {
        const REAL *z = in_arena(batch, op->input) + r * op->ld_input;
        REAL *h = in_arena(batch, op->output) + r * op->ld_output;
        if (by_columns) {
            for (int64_t o = 0; o < O; o += VL) {
                const V d = v_load(z + o) - v_load(means + o);
                const V u = v_fma(d, v_load(factors + o), v_load(bias + o));
                v_store(h + o, relu ? v_max(v_zero(), u) : u);
            }
            continue;
        }
        REAL *of_row = in_arena(batch, op->statistics) + 2 * r;
        row_statistics(op, z, of_row, of_row + 1);
        const V mean = v_set1(of_row[0]), inverse = v_set1(of_row[1]);
        for (int64_t o = 0; o < O; o += VL) {
            const V n = (v_load(z + o) - mean) * inverse;
            const V u = v_fma(n, v_load(scale + o), v_load(bias + o));
            v_store(h + o, relu ? v_max(v_zero(), u) : u);
        }
    }
    activate_rows(op, batch, begin, end);
}

/* ------------------------------------------------------------------ backward */

INLINE void keep_norm_gradient(const hl_op *op, const hl_batch *batch, int64_t place, int64_t at,
                               V g) {
    REAL *kept = in_store(batch, place) + at;
    v_store(kept, op->gradient == HL_accumulate ? v_load(kept) + g : g);
}

/* With d = d_output, sums over the batch: of d for the bias, of d n for the scale. */
INLINE void gradient_block(const int nv, const hl_op *op, const hl_batch *batch, int64_t j) {
    const int by_columns = op->normalization == HL_batch_norm;
    const REAL *Z = in_arena(batch, op->input) + j, *D = in_arena(batch, op->d_output) + j;
    const REAL *rows = in_arena(batch, op->statistics);
    V sum[2][2], slope[2][2], mean[2];
    EACH_VECTOR {
        sum[0][k] = sum[1][k] = slope[0][k] = slope[1][k] = mean[k] = v_zero();
        if (by_columns) mean[k] = v_load(column_statistic(op, batch, HL_MEAN) + j + k * VL);
    }
#define ADD(r, chain)                                                                              \
    EACH_VECTOR {                                                                                  \
        const V d = v_load(D + (r) * op->ld_output + k * VL);                                      \
        const V z = v_load(Z + (r) * op->ld_input + k * VL) - mean[k];                             \
        sum[chain][k] += d;                                                                        \
        slope[chain][k] = v_fma(d, z, slope[chain][k]);                                            \
    }
#define ADD_OF_ROW(r, chain)                                                                       \
    EACH_VECTOR {                                                                                  \
        const V d = v_load(D + (r) * op->ld_output + k * VL);                                      \
        const V z = v_load(Z + (r) * op->ld_input + k * VL) - v_set1(rows[2 * (r)]);               \
        sum[chain][k] += d;                                                                        \
        slope[chain][k] = v_fma(d, z * v_set1(rows[2 * (r) + 1]), slope[chain][k]);                \
    }
    if (by_columns) TWO_CHAINS(batch->n, ADD);
    else TWO_CHAINS(batch->n, ADD_OF_ROW);
#undef ADD
#undef ADD_OF_ROW
    EACH_VECTOR {
        const int64_t at = j + k * VL;
        V of_bias = sum[0][k] + sum[1][k], of_scale = slope[0][k] + slope[1][k];
        if (by_columns) {
            const V inverse = v_load(column_statistic(op, batch, HL_INVERSE) + at);
            const V count = v_set1((REAL)batch->n);
            of_scale *= inverse;
            v_store(column_statistic(op, batch, HL_D_MEAN) + at, of_bias / count);
            v_store(column_statistic(op, batch, HL_D_SLOPE) + at, of_scale * inverse / count);
        }
        keep_norm_gradient(op, batch, op->bias_gradient, at, of_bias);
        keep_norm_gradient(op, batch, op->weight_gradient, at, of_scale);
    }
}

static void norm_gradient(const hl_op *op, const hl_batch *batch, int64_t begin,
                          int64_t end){EACH_BLOCK_OF_COLUMNS(gradient_block)}

/* With g = scale d and means over a row: d_input = (g - mean(g) - n mean(g n)) / deviation. The
 * padding of scale is zero, and so is that of what comes out. */
INLINE void row_backward(const hl_op *op, const hl_batch *batch, int64_t r, const REAL *z,
                         const REAL *d, REAL *out) {
    const REAL *scale = in_store(batch, op->weight);
    const REAL *of_row = in_arena(batch, op->statistics) + 2 * r;
    const V mean = v_set1(of_row[0]), inverse = v_set1(of_row[1]), count = v_set1((REAL)op->O);
    V sum = v_zero(), slope = v_zero();
    const int64_t O = op->O;
    for (int64_t o = 0; o < O; o += VL) {
        const V g = v_load(d + o) * v_load(scale + o);
        sum += g;
        slope = v_fma(g, (v_load(z + o) - mean) * inverse, slope);
    }
    const V a = v_set1(v_sum(sum)) / count, b = v_set1(v_sum(slope)) / count;
    for (int64_t o = 0; o < O; o += VL) {
        const V n = (v_load(z + o) - mean) * inverse, g = v_load(d + o) * v_load(scale + o);
        v_store_n(out + o, O - o < VL ? O - o : VL, inverse * (g - v_fma(n, b, a)));
    }
}

/* By columns it is the same with means over the batch, which NORM_GRADIENT has left; d_input may be
 * d_output then. */
static void normalize_backward(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const int by_columns = op->normalization == HL_batch_norm;
    const REAL *means = column_statistic(op, batch, HL_MEAN);
    const REAL *factors = column_statistic(op, batch, HL_FACTOR);
    const REAL *d_means = column_statistic(op, batch, HL_D_MEAN);
    const REAL *d_slopes = column_statistic(op, batch, HL_D_SLOPE);
    const int64_t O = op->O;
    for (int64_t r = begin; r < end; r++) {
        const REAL *z = in_arena(batch, op->input) + r * op->ld_input;
        const REAL *d = in_arena(batch, op->d_output) + r * op->ld_output;
        REAL *out = in_arena(batch, op->d_input) + r * op->ld_d_input;
        if (!by_columns) {
            row_backward(op, batch, r, z, d, out);
            continue;
        }
        for (int64_t o = 0; o < O; o += VL) {
            const V n = v_load(z + o) - v_load(means + o);
            const V rest = v_fma(n, v_load(d_slopes + o), v_load(d_means + o));
            v_store(out + o, v_load(factors + o) * (v_load(d + o) - rest));
        }
    }
}

/* ------------------------------------------------------------------ update */

/* The running variance is that of the batch without bias; one row says nothing of it. */
static void smooth_statistics(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    REAL *means = in_store(batch, op->mean), *variances = in_store(batch, op->variance);
    const double n = (double)batch->n, share = batch->n > 1 ? op->smoothing : 0;
    const V by_mean = v_set1((REAL)op->smoothing), kept_mean = v_set1((REAL)(1 - op->smoothing));
    const V by_variance = v_set1((REAL)(share * n / (batch->n > 1 ? n - 1 : 1)));
    const V kept_variance = v_set1((REAL)(1 - share));
    for (int64_t j = begin; j < end; j += VL) {
        const V mean = v_load(column_statistic(op, batch, HL_MEAN) + j);
        const V variance = v_load(column_statistic(op, batch, HL_VARIANCE) + j);
        v_store(means + j, v_fma(by_mean, mean, kept_mean * v_load(means + j)));
        v_store(variances + j, v_fma(by_variance, variance, kept_variance * v_load(variances + j)));
    }
}

static void norm_update(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const int64_t j = begin * NR, width = padded(op->O);
    const int64_t last = end * NR < width ? end * NR : width;
    if (op->gradient == HL_update) { /* else the layer is frozen, its statistics are not */
        sink s = sink_of(op, batch);
        step_weights(&s, in_store(batch, op->weight_gradient) + j, j, last - j);
        step_bias(&s, in_store(batch, op->bias_gradient) + j, j, last - j);
    }
    if (op->normalization == HL_batch_norm) smooth_statistics(op, batch, j, last);
}
#undef EACH_VECTOR
#undef TWO_CHAINS
#undef EACH_BLOCK_OF_COLUMNS
