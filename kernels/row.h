/* One row forward through a dense layer whose weight is (I, O) row-major, as the user has it:
 * copying it into panels would take longer than using it once. The same chains as those of
 * dense_forward, so the same bits. Needs dense.h. */

#define ROW_VECTORS 8 /* chains that are in flight at a time */

/* nv vectors of columns. */
INLINE void row_tile(const int nv, const hl_op *op, const REAL *x, const REAL *W, const REAL *bias,
                     REAL *output, int64_t last) {
    V c[ROW_VECTORS];
#pragma GCC unroll 8
    for (int j = 0; j < nv; j++) c[j] = v_load(bias + vector_at(j, nv, last));
    for (int64_t k = 0; k < op->I; k++) {
        V xk = v_set1(x[k]);
#pragma GCC unroll 8
        for (int j = 0; j < nv; j++)
            c[j] = v_fma(xk, v_load(W + k * op->O + vector_at(j, nv, last)), c[j]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < nv; j++) v_store(output + vector_at(j, nv, last), relu_of(op, c[j]));
}

/* All columns, where they are fewer than a vector has lanes. */
static void short_row(const hl_op *op, const REAL *x, const REAL *W, const REAL *bias,
                      REAL *output) {
    V c = v_load_n(bias, op->O);
    for (int64_t k = 0; k < op->I; k++) c = v_fma(v_set1(x[k]), v_load_n(W + k * op->O, op->O), c);
    v_store_n(output, op->O, relu_of(op, c));
}

/* Lanes along I, as in `dots`. */
static void narrow_row(const hl_op *op, const REAL *x, const REAL *W, const REAL *bias,
                       REAL *output) {
    REAL columns[HL_VECTOR_BYTES / sizeof(REAL) / 2][HL_VECTOR_BYTES / sizeof(REAL)];
    V c[HL_VECTOR_BYTES / sizeof(REAL) / 2];
    for (int64_t o = 0; o < op->O; o++) c[o] = v_zero();
    for (int64_t i = 0; i < op->I; i += VL) {
        const int64_t n = op->I - i < VL ? op->I - i : VL;
        V xi = n < VL ? v_load_n(x + i, n) : v_load(x + i);
        if (n < VL) memset(columns, 0, sizeof(columns));
        for (int64_t l = 0; l < n; l++)
            for (int64_t o = 0; o < op->O; o++) columns[o][l] = W[(i + l) * op->O + o];
        for (int64_t o = 0; o < op->O; o++) c[o] = v_fma(xi, v_load(columns[o]), c[o]);
    }
    for (int64_t o = 0; o < op->O; o++) output[o] = relu_of_one(op, bias[o] + v_sum(c[o]));
}

static void row_forward(const hl_op *op, const void *input, const void *weight, const void *bias,
                        void *output) {
    const REAL *x = input, *W = weight, *b = bias;
    REAL *out = output;
    if (op->layout == HL_narrow) narrow_row(op, x, W, b, out);
    else if (op->O < VL) short_row(op, x, W, b, out);
    else
        for (int64_t j = 0, left = padded(op->O) / VL, nv; left > 0; left -= nv, j += nv * VL) {
            nv = even_part(left, ROW_VECTORS);
            int64_t last = nv == left ? op->O - VL - j : (nv - 1) * VL;
            switch (nv) {
#define CASE(n)                                                                                    \
    case n: row_tile(n, op, x, W + j, b + j, out + j, last); break;
                CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
            }
        }
    activate(op, out, NULL, 0, 1);
}

/* Whether all n elements are finite. */
static int all_finite(const void *elements, int64_t n) {
    const REAL *x = elements;
    V sum = v_zero(), zero = v_zero();
    for (int64_t i = 0; i < n; i += VL)
        sum = v_fma(n - i < VL ? v_load_n(x + i, n - i) : v_load(x + i), zero, sum);
    return v_sum(sum) == 0;
}
