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

INLINE double softplus(double x) { return log1p(exp(-fabs(x))) + (x > 0 ? x : 0); }

/* Outputs that never fall: the first is z_0, each other one lies softplus(z_k) above the last. */
static void ordered(int64_t O, const REAL *z, REAL *out) {
    double sum = z[0];
    out[0] = z[0];
    for (int64_t o = 1; o < O; o++) out[o] = (REAL)(sum += softplus(z[o]));
}

/* Where the runs of columns of `softmaxes` have their lengths. */
INLINE const double *runs_of(const hl_batch *batch) { return batch->constants + 1; }

/* Rows of `output` through the output activation into stream out, (n, O) without padding. */
static void output_rows(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const REAL *z = in_arena(batch, op->output) + begin * op->ld_output;
    REAL *out = (REAL *)batch->out + (batch->first + begin) * op->O;
    if (op->activation == HL_softmax) {
        softmax(end - begin, op->O, z, op->ld_output, out, op->O);
        return;
    }
    if (op->activation == HL_softmaxes) {
        const double *run = runs_of(batch);
        for (int64_t o = 0; o < op->O; o += (int64_t)*run++)
            softmax(end - begin, (int64_t)*run, z + o, op->ld_output, out + o, op->O);
        return;
    }
    if (op->activation == HL_ordered) {
        for (int64_t r = 0; r < end - begin; r++)
            ordered(op->O, z + r * op->ld_output, out + r * op->O);
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

/* `above` where d is above 0, `below` where it is below; else d, which is 0 or no number. */
INLINE V by_sign(V d, V above, V below) {
    return v_select(v_less(v_zero(), d), above, v_select(v_less(d, v_zero()), below, d));
}
INLINE point absolute_error(V z, V y) {
    V d = z - y;
    return (point){by_sign(d, v_set1(1), v_set1(-1)), v_abs(d)};
}
/* d^2 / 2 up to |d| = delta, a straight line from there. */
INLINE point huber(V z, V y, const double *c) {
    V d = z - y, delta = v_set1((REAL)c[0]), slope = v_max(-delta, v_min(delta, d));
    return (point){slope, slope * (d - v_set1((REAL)0.5) * slope)};
}
/* log cosh d = -log(1 - tanh^2 d) / 2 near 0, |d| - log 2 + log(1 + e^-2|d|) elsewhere: neither
 * cancels there. */
INLINE point log_cosh(V z, V y) {
    V d = z - y, a = v_abs(d), slope = v_tanh(d), half = v_set1((REAL)0.5);
    MASK small = v_less(a, v_set1(1));
    V rest = v_log1p(v_select(small, -slope * slope, v_exp(-a - a)));
    V large = a - v_set1((REAL)0x1.62e42fefa39efp-1) + rest;
    return (point){slope, v_select(small, -half * rest, large)};
}
/* The pinball loss: (1 - q) d above the target, -q d below. */
INLINE point quantile(V z, V y, const double *c) {
    V d = z - y, slope = by_sign(d, v_set1((REAL)(1 - c[0])), v_set1((REAL)-c[0]));
    return (point){slope, slope * d};
}
/* Half the gamma deviance, y / p - log(y / p) - 1 with p = e^z, in double precision as poisson. */
INLINE point gamma_deviance(V z, V y) {
    V deviance;
    for (int i = 0; i < VL; i++) {
        double ratio = log((double)y[i]) - z[i];
        deviance[i] = (REAL)(expm1(ratio) - ratio);
    }
    return (point){v_set1(1) - y * v_exp(-z), deviance};
}
/* Half the Tweedie deviance of a power other than 1 and 2, with p = e^z and a = 2 - power:
 * y^a / (a (a - 1)) - y p^(a - 1) / (a - 1) + p^a / a, in double precision as poisson. A y that is
 * negative has y^a for power 0 only, where it is a square. Written so that what overflows has a
 * sign: powers of p are factors of a difference, and a y of 0 does not meet the second one. */
INLINE point tweedie(V z, V y, const double *c) {
    double a = 2 - c[0];
    V deviance = v_zero(), slope = v_zero();
    for (int i = 0; i < VL; i++) {
        double target = y[i], link = z[i], p = exp(link), most = exp(a * link);
        double own = a == 2 ? target * target : target > 0 ? pow(target, a) : 0;
        double power = target == 0 ? most : exp((a - 1) * link);
        double rest = target == 0 ? 1 : p - target;
        double of_loss = target == 0 ? 1 / a : p / a - target / (a - 1);
        slope[i] = (REAL)(power * rest);
        deviance[i] = (REAL)(own / (a * (a - 1)) + power * of_loss);
    }
    return (point){slope, deviance};
}

/* Losses of a label y, 0 or 1: linear in y, so that of a y in between it is a mean of both. */
INLINE point by_label(V y, point one, point zero) {
    V other = v_set1(1) - y;
    return (point){y * one.delta - other * zero.delta, y * one.loss + other * zero.loss};
}
/* (1 - p)^gamma (-log p) with p = logistic(u), and its slope by u; all from e^-|u|. */
INLINE point focal_of(V u, V gamma, V scale) {
    V one = v_set1(1), e = v_exp(-v_abs(u)), rest = v_log1p(e);
    MASK negative = v_less(u, v_zero());
    V p = v_select(negative, e, one) / (one + e), q = v_select(negative, one, e) / (one + e);
    V entropy = v_max(v_zero(), -u) + rest;
    V factor = scale * v_exp(-gamma * (v_max(v_zero(), u) + rest));
    return (point){-factor * v_fma(gamma * p, entropy, q), factor * entropy};
}
INLINE point binary_focal(V z, V y, const double *c) {
    V gamma = v_set1((REAL)c[0]);
    return by_label(y, focal_of(z, gamma, v_set1((REAL)c[1])),
                    focal_of(-z, gamma, v_set1((REAL)c[2])));
}
/* max(0, 1 - u) or its square. */
INLINE point hinge_of(int squared, V u) {
    V margin = v_max(v_zero(), v_set1(1) - u), one = v_set1(1);
    if (squared) return (point){-margin - margin, margin * margin};
    return (point){v_select(v_less(v_zero(), margin), -one, v_zero()), margin};
}
INLINE point binary_hinge(int squared, V z, V y) {
    return by_label(y, hinge_of(squared, z), hinge_of(squared, -z));
}

INLINE point loss_point(enum hl_loss loss, V z, V y, V outputs, const double *c) {
    switch (loss) {
    case HL_absolute_error: return absolute_error(z, y);
    case HL_huber: return huber(z, y, c);
    case HL_log_cosh: return log_cosh(z, y);
    case HL_quantile: return quantile(z, y, c);
    case HL_gamma: return gamma_deviance(z, y);
    case HL_tweedie: return tweedie(z, y, c);
    case HL_binary_focal: return binary_focal(z, y, c);
    case HL_binary_hinge: return binary_hinge(0, z, y);
    case HL_binary_squared_hinge: return binary_hinge(1, z, y);
    case HL_binary_log_loss: return binary_log_loss(z, y, outputs);
    case HL_squared_error: return squared_error(z, y, outputs);
    case HL_poisson: return poisson(z, y, outputs);
    case HL_custom_loss: /* on short runs */
    case HL_log_loss:    /* these work on whole rows, below */
    case HL_smooth_log_loss:
    case HL_focal:
    case HL_hinge:
    case HL_squared_hinge:
    case HL_ordered_quantiles:
    case HL_joint_log_loss:
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
    const double *constants = batch->constants;
    for (int64_t r = begin; r < end; r += VL) {
        int64_t n = end - r < VL ? end - r : VL;
        V y = v_zero(), w = v_zero();
        for (int64_t i = 0; i < n; i++) {
            int64_t row = row_of(batch, r + i);
            y[i] = ((const REAL *)batch->y.data)[row];
            w[i] = weight_of(batch, row);
        }
        point p = loss_point(loss, v_load_n(z + r, n), y, v_set1(1), constants);
        v_store_n(delta + r, n, p.delta * w);
        v_store_n(row_loss + r, n, p.loss * w);
    }
}

/* Several outputs: lanes along them. */
INLINE void elementwise_rows(enum hl_loss loss, const hl_op *op, const hl_batch *batch,
                             int64_t begin, int64_t end) {
    REAL *row_loss = in_arena(batch, op->row_loss);
    const double *constants = batch->constants;
    for (int64_t r = begin; r < end; r++) {
        int64_t row = row_of(batch, r);
        const REAL *z = in_arena(batch, op->output) + r * op->ld_output;
        const REAL *y = (const REAL *)batch->y.data + row * op->O;
        REAL *delta = in_arena(batch, op->d_output) + r * op->ld_output;
        V w = v_set1(weight_of(batch, row)), sum = v_zero();
        for (int64_t o = 0; o < op->O; o += VL) {
            int64_t n = op->O - o < VL ? op->O - o : VL;
            point p = loss_point(loss, v_load_n(z + o, n), v_load_n(y + o, n), v_set1((REAL)op->O),
                                 constants);
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

INLINE REAL largest_of(const REAL *row, int64_t n) {
    REAL largest = row[0];
    for (int64_t i = 1; i < n; i++) largest = row[i] > largest ? row[i] : largest;
    return largest;
}

/* p <- delta of the cross entropy of p = softmax(z) with s / O for each class and 1 - s more for the
 * right one. */
static double smooth_log_loss(REAL *p, int64_t O, int32_t code, double entropy, const double *c) {
    const REAL share = (REAL)(c[0] / (double)O);
    for (int64_t o = 0; o < O; o++) p[o] -= share;
    p[code] -= (REAL)(1 - c[0]);
    return entropy;
}

/* p <- delta of (1 - p_code)^gamma (-log p_code), which is
 *   (q^gamma + gamma p_code q^gamma (-log p_code) / q) (p - 1 of the right class),
 * from q = 1 - p_code as the sum of the others: neither q nor what is divided by it cancels. */
static double focal(REAL *p, int64_t O, int32_t code, double entropy, const double *c) {
    double q = 0, gamma = c[0];
    for (int64_t o = 0; o < O; o++) q += o == code ? 0 : p[o];
    if (q < 0.5) entropy = -log1p(-q);
    double power = pow(q, gamma), ratio = q > 0 ? entropy / q : 1;
    double factor = power * (1 + gamma * p[code] * ratio);
    for (int64_t o = 0; o < O; o++) p[o] = (REAL)(factor * (o == code ? -q : p[o]));
    return power * entropy;
}

/* Losses of a class code through softmax. -log p is taken from the largest output, whose p is at
 * least 1 / O, so that it stays exact where p is below all numbers; what it takes of z waits in
 * row_loss. */
static void softmax_loss(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const double *c = batch->constants;
    const double smoothing = op->loss == HL_smooth_log_loss ? c[0] : 0;
    REAL *row_loss = in_arena(batch, op->row_loss), *delta = in_arena(batch, op->d_output);
    const REAL *output = in_arena(batch, op->output);
    int64_t ld = op->ld_output, O = op->O;
    for (int64_t r = begin; r < end; r++) {
        const REAL *z = output + r * ld, top = largest_of(z, O);
        double below = top - z[((const int32_t *)batch->y.data)[row_of(batch, r)]], sum = 0;
        if (smoothing > 0)
            for (int64_t o = 0; o < O; o++) sum += top - z[o];
        row_loss[r] = (REAL)((1 - smoothing) * below + smoothing * (sum / (double)O));
    }
    softmax(end - begin, O, output + begin * ld, ld, delta + begin * ld, ld);
    for (int64_t r = begin; r < end; r++) {
        int64_t row = row_of(batch, r);
        REAL *p = delta + r * ld, w = weight_of(batch, row);
        int32_t code = ((const int32_t *)batch->y.data)[row];
        double entropy = row_loss[r] - log(largest_of(p, O));
        double loss = op->loss == HL_focal ? focal(p, O, code, entropy, c)
                                           : smooth_log_loss(p, O, code, entropy, c);
        row_loss[r] = (REAL)(loss * w);
        for (int64_t o = 0; o < O; o++) p[o] *= w;
    }
}

/* max(0, 1 + the largest output of another class - that of the right one), or its square (Crammer
 * and Singer (2001), "On the algorithmic implementation of multiclass kernel-based vector
 * machines", JMLR 2). */
static void class_hinge(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    REAL *row_loss = in_arena(batch, op->row_loss);
    for (int64_t r = begin; r < end; r++) {
        int64_t row = row_of(batch, r);
        const REAL *z = in_arena(batch, op->output) + r * op->ld_output;
        REAL *delta = in_arena(batch, op->d_output) + r * op->ld_output, w = weight_of(batch, row);
        int64_t code = ((const int32_t *)batch->y.data)[row], rival = code ? 0 : op->O - 1;
        for (int64_t o = 0; o < op->O; o++)
            if (o != code && (z[o] > z[rival] || (z[o] == z[rival] && o < rival))) rival = o;
        REAL margin = 1 + z[rival] - z[code];
        if (margin <= 0) margin = 0; /* what is no number stays so */
        REAL slope = margin > 0 ? 1 : 0;
        row_loss[r] = margin * w;
        if (op->loss == HL_squared_hinge) slope = 2 * margin, row_loss[r] *= margin;
        for (int64_t o = 0; o < op->O; o++) delta[o] = 0;
        delta[rival] += slope * w, delta[code] -= slope * w;
    }
}

/* The smoothed log-losses of several runs of outputs, each with a class code of its own, summed. */
static void joint_log_loss(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const double *c = batch->constants, *run = runs_of(batch);
    const int32_t *codes = (const int32_t *)batch->y.data;
    const int64_t ld = op->ld_output, heads = batch->y.n_cols;
    REAL *row_loss = in_arena(batch, op->row_loss);
    for (int64_t r = begin; r < end; r++) row_loss[r] = 0;
    for (int64_t h = 0, o = 0; h < heads; o += (int64_t)run[h++]) {
        const REAL *output = in_arena(batch, op->output) + o;
        REAL *delta = in_arena(batch, op->d_output) + o;
        const int64_t K = (int64_t)run[h];
        for (int64_t r = begin; r < end; r++) {
            const REAL *z = output + r * ld, top = largest_of(z, K);
            double below = top - z[codes[row_of(batch, r) * heads + h]], mean = 0;
            for (int64_t k = 0; k < K; k++) mean += (top - z[k]) / (double)K;
            row_loss[r] += (REAL)((1 - c[0]) * below + (c[0] > 0 ? c[0] * mean : 0));
        }
        softmax(end - begin, K, output + begin * ld, ld, delta + begin * ld, ld);
        for (int64_t r = begin; r < end; r++) {
            REAL *p = delta + r * ld, w = weight_of(batch, row_of(batch, r));
            row_loss[r] -= (REAL)log(largest_of(p, K));
            smooth_log_loss(p, K, codes[row_of(batch, r) * heads + h], 0, c);
            for (int64_t k = 0; k < K; k++) p[k] *= w;
        }
    }
    for (int64_t r = begin; r < end; r++) row_loss[r] *= weight_of(batch, row_of(batch, r));
}

INLINE double pinball_slope(double d, double q) { return d > 0 ? 1 - q : d < 0 ? -q : d; }

/* The pinball losses of `ordered` outputs, one level each. An output moves all above it, so that
 * its delta is the sum of their slopes, times that of its own softplus; outputs are made twice,
 * for the sum of all slopes first. */
static void ordered_quantiles(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const double *q = batch->constants;
    REAL *row_loss = in_arena(batch, op->row_loss);
    for (int64_t r = begin; r < end; r++) {
        int64_t row = row_of(batch, r), O = op->O;
        const REAL *z = in_arena(batch, op->output) + r * op->ld_output;
        const REAL *y = (const REAL *)batch->y.data + row * O;
        REAL *delta = in_arena(batch, op->d_output) + r * op->ld_output, w = weight_of(batch, row);
        double loss = 0, above = 0, out = 0;
        for (int64_t o = 0; o < O; o++) {
            out += o ? softplus(z[o]) : z[0];
            double slope = pinball_slope(out - y[o], q[o]);
            above += slope, loss += slope * (out - y[o]);
        }
        out = 0;
        for (int64_t o = 0; o < O; o++) {
            double by_z = o ? 1 / (1 + exp(-(double)z[o])) : 1;
            out += o ? softplus(z[o]) : z[0];
            delta[o] = (REAL)(above * by_z) * w;
            above -= pinball_slope(out - y[o], q[o]);
        }
        row_loss[r] = (REAL)loss * w;
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
        ELEMENTWISE(absolute_error)
        ELEMENTWISE(huber)
        ELEMENTWISE(log_cosh)
        ELEMENTWISE(quantile)
        ELEMENTWISE(gamma)
        ELEMENTWISE(tweedie)
        ELEMENTWISE(binary_focal)
        ELEMENTWISE(binary_hinge)
        ELEMENTWISE(binary_squared_hinge)
    case HL_custom_loss: custom_loss(op, batch, begin, end); break;
    case HL_smooth_log_loss:
    case HL_focal: softmax_loss(op, batch, begin, end); break;
    case HL_hinge:
    case HL_squared_hinge: class_hinge(op, batch, begin, end); break;
    case HL_ordered_quantiles: ordered_quantiles(op, batch, begin, end); break;
    case HL_joint_log_loss: joint_log_loss(op, batch, begin, end); break;
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
