/* The ends of the walk: rows in, losses and deltas or predictions out. Needs dense.h, vmath.h. */

/* Rows of stream X into the arena, converted to REAL. Random rows are asked for ahead of time. */
static void gather(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const hl_stream *X = &batch->X;
    REAL *output = in_arena(batch, op->output);
    int64_t bytes = X->n_cols * (X->dtype == HL_float64 ? 8 : 4);
    for (int64_t r = begin; r < end; r++) {
        const char *source = (const char *)X->data + row_of(batch, r) * bytes;
        REAL *row = output + r * op->ld_output;
        if (r + 2 < end) {
            const char *ahead = (const char *)X->data + row_of(batch, r + 2) * bytes;
            for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(ahead + b);
        }
        if (X->dtype == op->dtype) memcpy(row, source, (size_t)bytes);
        else if (X->dtype == HL_float64)
            for (int64_t i = 0; i < X->n_cols; i++) row[i] = (REAL)((const double *)source)[i];
        else
            for (int64_t i = 0; i < X->n_cols; i++) row[i] = (REAL)((const float *)source)[i];
    }
}

/* ------------------------------------------------------------- output activations */

INLINE V first_n(int64_t n, V a, V rest) {
    V lane;
    for (int i = 0; i < VL; i++) lane[i] = i;
    return v_select(v_less(lane, v_set1((REAL)n)), a, rest);
}

/* Softmax of rows with more columns than a vector has lanes: lanes along the columns. */
INLINE void softmax_long(const REAL *z, int64_t n, REAL *p) {
    V lowest = v_set1(-(REAL)INFINITY), largest = lowest, sum = v_zero();
    for (int64_t o = 0; o < n; o += VL) {
        int64_t m = n - o < VL ? n - o : VL;
        largest = v_max(largest, first_n(m, v_load_n(z + o, m), lowest));
    }
    V top = v_set1(v_largest(largest));
    for (int64_t o = 0; o < n; o += VL) {
        int64_t m = n - o < VL ? n - o : VL;
        V e = first_n(m, v_exp(v_load_n(z + o, m) - top), v_zero());
        v_store_n(p + o, m, e);
        sum += e;
    }
    V scale = v_set1(1 / v_sum(sum));
    for (int64_t o = 0; o < n; o += VL) {
        int64_t m = n - o < VL ? n - o : VL;
        v_store_n(p + o, m, v_load_n(p + o, m) * scale);
    }
}

/* p <- softmax of each of `rows` rows of O columns; exp of the difference to the largest, so
 * never above 1. Short rows go VL at a time with the lanes along the rows. p may be z. */
static void softmax(int64_t rows, int64_t O, const REAL *z, int64_t ldz, REAL *p, int64_t ldp) {
    if (O > VL) {
        for (int64_t r = 0; r < rows; r++) softmax_long(z + r * ldz, O, p + r * ldp);
        return;
    }
    for (int64_t r = 0; r < rows; r += VL) {
        V t[HL_VECTOR_BYTES / sizeof(REAL)];
        for (int64_t i = 0; i < VL; i++)
            t[i] = r + i < rows ? v_load_n(z + (r + i) * ldz, O) : v_zero();
        transpose(t);
        V largest = t[0], sum = v_zero();
        for (int64_t o = 1; o < O; o++) largest = v_max(largest, t[o]);
        for (int64_t o = 0; o < O; o++) sum += t[o] = v_exp(t[o] - largest);
        V scale = v_set1(1) / sum;
        for (int64_t o = 0; o < O; o++) t[o] *= scale;
        transpose(t);
        for (int64_t i = 0; i < VL && r + i < rows; i++) v_store_n(p + (r + i) * ldp, O, t[i]);
    }
}

/* Rows of `output` through the output activation into stream out, (n, O) without padding. */
static void output_rows(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const REAL *z = in_arena(batch, op->output) + begin * op->ld_output;
    REAL *out = (REAL *)batch->out + (batch->first + begin) * op->O;
    if (op->activation == HL_softmax) {
        softmax(end - begin, op->O, z, op->ld_output, out, op->O);
        return;
    }
    int flat = op->ld_output == 1; /* one unpadded column: a single long row */
    int64_t columns = flat ? end - begin : op->O, rows = flat ? 1 : end - begin;
    for (int64_t r = 0; r < rows; r++, z += op->ld_output, out += op->O)
        for (int64_t o = 0; o < columns; o += VL) {
            int64_t n = columns - o < VL ? columns - o : VL;
            V h = v_load_n(z + o, n);
            v_store_n(out + o, n, v_activation(op->activation, h));
        }
}

/* ------------------------------------------------------------------------ losses */

/* Element-wise losses: from the pre-activation z and the target y, the delta dL/dz and the
 * loss. */
typedef struct point {
    V delta, loss;
} point;

INLINE V clipped(V p) {
    const REAL eps = REAL_IS_DOUBLE ? (REAL)0x1p-52 : (REAL)0x1p-23; /* scikit-learn's bound */
    return v_max(v_set1(eps), v_min(v_set1(1 - eps), p));
}
INLINE point binary_log_loss(V z, V y, V outputs) {
    (void)outputs;
    V p = v_logistic(z), c = clipped(p), one = v_set1(1);
    return (point){p - y, -(y * v_log(c) + (one - y) * v_log(one - c))};
}
INLINE point squared_error(V z, V y, V outputs) {
    V d = z - y;
    return (point){d, v_set1((REAL)0.5) * d * d / outputs};
}
/* Half the Poisson deviance, y log(y / p) - y + p with p = e^z. Its terms cancel where p is near
 * y, so the loss (not the delta) is computed in double precision. */
INLINE point poisson(V z, V y, V outputs) {
    (void)outputs;
    V deviance;
    for (int i = 0; i < VL; i++) {
        double target = y[i], link = z[i], entropy = target > 0 ? target * (log(target) - link) : 0;
        deviance[i] = (REAL)(entropy - target + exp(link));
    }
    return (point){v_exp(z) - y, deviance};
}

INLINE point loss_point(enum hl_loss loss, V z, V y, V outputs) {
    switch (loss) {
    case HL_binary_log_loss: return binary_log_loss(z, y, outputs);
    case HL_squared_error: return squared_error(z, y, outputs);
    case HL_poisson: return poisson(z, y, outputs);
    case HL_log_loss:    /* works on whole rows, below */
    case HL_custom_loss: /* on short runs */
    case HL_N_LOSSES: break;
    }
    return (point){v_zero(), v_zero()};
}

INLINE REAL weight_of(const hl_batch *batch, int64_t row) {
    return batch->weights ? (REAL)batch->weights[row] : 1;
}

/* One unpadded output: lanes along the rows. */
INLINE void elementwise_flat(enum hl_loss loss, const hl_op *op, const hl_batch *batch,
                             int64_t begin, int64_t end) {
    const REAL *z = in_arena(batch, op->output);
    REAL *delta = in_arena(batch, op->d_output), *row_loss = in_arena(batch, op->row_loss);
    for (int64_t r = begin; r < end; r += VL) {
        int64_t n = end - r < VL ? end - r : VL;
        V y = v_zero(), w = v_zero();
        for (int64_t i = 0; i < n; i++) {
            int64_t row = row_of(batch, r + i);
            y[i] = ((const REAL *)batch->y.data)[row];
            w[i] = weight_of(batch, row);
        }
        point p = loss_point(loss, v_load_n(z + r, n), y, v_set1(1));
        v_store_n(delta + r, n, p.delta * w);
        v_store_n(row_loss + r, n, p.loss * w);
    }
}

/* Several outputs: lanes along them. */
INLINE void elementwise_rows(enum hl_loss loss, const hl_op *op, const hl_batch *batch,
                             int64_t begin, int64_t end) {
    REAL *row_loss = in_arena(batch, op->row_loss);
    for (int64_t r = begin; r < end; r++) {
        int64_t row = row_of(batch, r);
        const REAL *z = in_arena(batch, op->output) + r * op->ld_output;
        const REAL *y = (const REAL *)batch->y.data + row * op->O;
        REAL *delta = in_arena(batch, op->d_output) + r * op->ld_output;
        V w = v_set1(weight_of(batch, row)), sum = v_zero();
        for (int64_t o = 0; o < op->O; o += VL) {
            int64_t n = op->O - o < VL ? op->O - o : VL;
            point p = loss_point(loss, v_load_n(z + o, n), v_load_n(y + o, n), v_set1((REAL)op->O));
            v_store_n(delta + o, n, p.delta * w);
            sum += first_n(n, p.loss, v_zero());
        }
        row_loss[r] = v_sum(sum) * w[0];
    }
}

/* Softmax and cross entropy; y is a class code. The probability of the right class waits in
 * row_loss until there are VL of them to take the logarithm of. */
static void log_loss(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    REAL *row_loss = in_arena(batch, op->row_loss), *d_output = in_arena(batch, op->d_output);
    int64_t ld = op->ld_output;
    softmax(end - begin, op->O, in_arena(batch, op->output) + begin * ld, ld, d_output + begin * ld,
            ld);
    for (int64_t r = begin; r < end; r++) {
        int64_t row = row_of(batch, r);
        REAL *delta = d_output + r * ld;
        int32_t code = ((const int32_t *)batch->y.data)[row];
        row_loss[r] = delta[code];
        delta[code] -= 1;
        if (!batch->weights) continue;
        V w = v_set1(weight_of(batch, row));
        for (int64_t o = 0; o < op->O; o += VL) {
            int64_t n = op->O - o < VL ? op->O - o : VL;
            v_store_n(delta + o, n, v_load_n(delta + o, n) * w);
        }
    }
    for (int64_t r = begin; r < end; r += VL) {
        int64_t n = end - r < VL ? end - r : VL;
        V w = v_set1(1);
        if (batch->weights)
            for (int64_t i = 0; i < n; i++) w[i] = weight_of(batch, row_of(batch, r + i));
        v_store_n(row_loss + r, n, -v_log(clipped(v_load_n(row_loss + r, n))) * w);
    }
}

/* The user's loss, in runs of one row's outputs, or of rows where each has one output. */
#define CUSTOM_RUN 64
static void custom_loss(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const hl_function *f = &batch->functions[op->function];
    REAL y[CUSTOM_RUN], loss[CUSTOM_RUN], *row_loss = in_arena(batch, op->row_loss);
    if (op->ld_output == 1) {
        for (int64_t r = begin, n; r < end; r += n) {
            REAL *delta = in_arena(batch, op->d_output) + r;
            n = end - r < CUSTOM_RUN ? end - r : CUSTOM_RUN;
            for (int64_t i = 0; i < n; i++)
                y[i] = ((const REAL *)batch->y.data)[row_of(batch, r + i)];
            memmove(delta, in_arena(batch, op->output) + r, (size_t)n * sizeof(REAL));
            f->loss(y, delta, row_loss + r, (intptr_t)n);
            for (int64_t i = 0; i < n; i++) {
                REAL w = weight_of(batch, row_of(batch, r + i));
                delta[i] *= w, row_loss[r + i] *= w;
            }
        }
        return;
    }
    for (int64_t r = begin; r < end; r++) {
        int64_t row = row_of(batch, r);
        const REAL *target = (const REAL *)batch->y.data + row * op->O;
        REAL *delta = in_arena(batch, op->d_output) + r * op->ld_output, sum = 0;
        REAL w = weight_of(batch, row);
        memmove(delta, in_arena(batch, op->output) + r * op->ld_output,
                (size_t)op->O * sizeof(REAL));
        for (int64_t o = 0, n; o < op->O; o += n) {
            n = op->O - o < CUSTOM_RUN ? op->O - o : CUSTOM_RUN;
            f->loss(target + o, delta + o, loss, (intptr_t)n);
            for (int64_t i = 0; i < n; i++) delta[o + i] *= w, sum += loss[i];
        }
        row_loss[r] = sum * w;
    }
}

static void loss(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
#define ELEMENTWISE(name)                                                                          \
    case HL_##name:                                                                                \
        if (op->ld_output == 1) elementwise_flat(HL_##name, op, batch, begin, end);                \
        else elementwise_rows(HL_##name, op, batch, begin, end);                                   \
        break;
    switch ((enum hl_loss)op->loss) {
    case HL_N_LOSSES: break;
    case HL_log_loss:
        log_loss(op, batch, begin, end);
        break;
        ELEMENTWISE(binary_log_loss)
        ELEMENTWISE(squared_error)
        ELEMENTWISE(poisson)
    case HL_custom_loss: custom_loss(op, batch, begin, end); break;
    }
#undef ELEMENTWISE
}

static double sum_loss(const hl_op *op, const hl_batch *batch) {
    const REAL *row_loss = in_arena(batch, op->row_loss);
    double sum[4] = {0, 0, 0, 0};
    for (int64_t r = 0; r < batch->n; r++) sum[r % 4] += row_loss[r];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static double sum_weights(const hl_batch *batch) {
    double sum = 0;
    if (!batch->weights) return (double)batch->n;
    for (int64_t r = 0; r < batch->n; r++) sum += batch->weights[row_of(batch, r)];
    return sum;
}
