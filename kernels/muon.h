/* Muon (Jordan et al. 2024): a weight steps along a matrix that is nearly orthogonal, with the
 * singular vectors of its momentum and singular values about 1. Needs dense.h.
 *
 * The momentum, or its transpose where I < O, is Z (n, m), n >= m. All matrices here are plain rows,
 * `ld_matrix` apart. Newton and Schulz's iteration makes Z orthogonal by products alone:
 *
 *   A = Z' Z,   P = A (c A + b 1),   Z <- Z (P + a 1)
 *
 * A and P are symmetric: what blocks of rows have left of the diagonal is copied, not computed. Before the last
 * op nothing but the gradient is written over, so that a step can be given up until then. */

INLINE int64_t longer(const hl_op *op) { return op->I < op->O ? op->O : op->I; }
INLINE int64_t shorter(const hl_op *op) { return op->I < op->O ? op->I : op->O; }

/* Of a step: a momentum is m = momentum m + rest g, and a weight follows m, or with Nesterov's
 * momentum m + rest g again. */
typedef struct moments {
    V momentum, rest;
    int nesterov;
} moments;

INLINE moments moments_of(const hl_op *op, const hl_batch *batch) {
    const double momentum = scalars_of(batch, op->weight_group)[HL_matrix_momentum];
    return (moments){v_set1((REAL)momentum), v_set1((REAL)(1.0 - momentum)), op->nesterov};
}
INLINE V new_moment(const moments *c, V m, V g) { return v_fma(c->momentum, m, c->rest * g); }
INLINE V direction(const moments *c, V m, V g) {
    const V new = new_moment(c, m, g);
    return c->nesterov ? v_fma(c->momentum, new, c->rest * g) : new;
}

#if !PAIRED
/* The sum of gradients becomes the mean one as a step takes it: with its penalty, and clipped.
 * norms <- sum of squares of the direction in each unit. */
static void muon_squares(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const moments c = moments_of(op, batch);
    const extended_constants x = extended_constants_of(
        op, scalars_of(batch, op->weight_group), batch->inverse_weight, clip_scale_of(op, batch));
    for (int64_t k = begin; k < end; k++) {
        const unit u = unit_of(op, k);
        REAL *g = in_store(batch, op->weight_gradient) + u.offset;
        const REAL *w = in_store(batch, op->weight) + u.offset;
        const REAL *m = in_store(batch, op->weight_slot_0) + u.offset;
        V sum = v_zero();
        for (int64_t i = 0; i < u.length; i += VL) {
            V gi = penalised(op, &x, v_load(w + i), v_load(g + i)) * x.clip_scale;
            if (op->clip_value < INFINITY) gi = v_min(x.clip_value, v_max(-x.clip_value, gi));
            v_store(g + i, gi);
            const V d = direction(&c, v_load(m + i), gi);
            sum = v_fma(d, d, sum);
        }
        ((double *)(batch->store + op->norms))[k] = v_sum(sum);
    }
}

/* result <- Z: the direction, of norm 1. */
static void muon_scale(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const moments c = moments_of(op, batch);
    const double *norms = (const double *)(batch->store + op->norms);
    const int64_t ld = op->ld_matrix;
    double squares = 0;
    for (int64_t k = 0; k < op->units; k++) squares += norms[k];
    const double norm = sqrt(squares);
    const V scale = v_set1((REAL)(1.0 / (norm < op->epsilon ? op->epsilon : norm)));
    for (int64_t k = begin; k < end; k++) {
        const unit u = unit_of(op, k);
        const REAL *g = in_store(batch, op->weight_gradient) + u.offset;
        const REAL *m = in_store(batch, op->weight_slot_0) + u.offset;
        REAL *Z = in_store(batch, op->result);
        for (int64_t i = 0; i < u.rows; i += VL)
            for (int64_t j = 0; j < u.width; j += VL) {
                V t[HL_VECTOR_BYTES / sizeof(REAL)];
                for (int64_t r = 0; r < VL; r++) {
                    const int64_t at = (i + r) * u.width + j;
                    t[r] = v_zero();
                    if (i + r < u.rows)
                        t[r] = direction(&c, v_load(m + at), v_load(g + at)) * scale;
                }
                if (op->I < op->O) {
                    transpose(t);
                    for (int64_t r = 0; r < VL && u.j + j + r < op->O; r++)
                        v_store(Z + (u.j + j + r) * ld + u.i + i, t[r]);
                } else
                    for (int64_t r = 0; r < VL && i + r < u.rows; r++)
                        v_store(Z + (u.i + i + r) * ld + u.j + j, t[r]);
            }
    }
}

/* What rows begin .. end of a symmetric matrix have from column `end` on goes below the diagonal. */
static void mirror_rows(REAL *A, int64_t ld, int64_t m, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r += VL)
        for (int64_t j = end; j < m; j += VL) {
            V t[HL_VECTOR_BYTES / sizeof(REAL)];
            for (int64_t k = 0; k < VL; k++) t[k] = v_load(A + (r + k) * ld + j);
            transpose(t);
            for (int64_t k = 0; k < VL && j + k < m; k++) v_store(A + (j + k) * ld + r, t[k]);
        }
}

/* result <- left' left, rows begin .. end and their mirror image. `begin` is a multiple of VL. */
static void muon_gram(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const REAL *Z = in_store(batch, op->left);
    REAL *A = in_store(batch, op->result);
    const int64_t n = longer(op), m = shorter(op), ld = op->ld_matrix;
    const int64_t block = even_part(n, COLUMNS_BLOCK);
    for (int64_t k = 0; k < n; k += block, Z += block * ld) {
        const int64_t K = n - k < block ? n - k : block;
        for (int64_t j = begin, width; j < m; j += width) {
            width = panel_width(m - begin, j - begin);
            for (int64_t r = begin, mr; r < end; r += mr) {
                mr = even_part(end - r, most_rows(width));
                columns_tile_any(mr, width, K, Z + r, ld, Z + j, ld, A + r * ld + j, ld, k > 0, Z);
            }
        }
    }
    mirror_rows(A, ld, m, begin, end);
}

/* A panel of scale B + shift 1, whose first row is row k of B and whose first column is j. */
static void pack_polynomial(const hl_op *op, const REAL *B, int64_t k, int64_t K, int64_t j,
                            int64_t width, REAL *packed) {
    const V scale = v_set1((REAL)op->scale);
    B += k * op->ld_matrix + j;
    for (int64_t r = 0; r < K; r++, B += op->ld_matrix, packed += width) {
        for (int64_t c = 0; c < width; c += VL) {
            __builtin_prefetch(B + PREFETCH_ROWS * op->ld_matrix + c);
            v_store(packed + c, scale * v_load(B + c));
        }
        if (k + r >= j && k + r < j + width) packed[k + r - j] += (REAL)op->shift;
    }
}

/* result <- left (scale right + shift 1), rows begin .. end, and of a symmetric result their mirror
 * image; right is (m, m). */
INLINE void product_rows(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end,
                         const int symmetric) {
    const int64_t m = shorter(op), ld = op->ld_matrix, from = symmetric ? begin : 0;
    const int64_t block = even_part(m, ROWS_BLOCK);
    const REAL *left = in_store(batch, op->left), *right = in_store(batch, op->right);
    REAL *packed = (REAL *)batch->scratch, *C = in_store(batch, op->result);
    for (int64_t k = 0; k < m; k += block) {
        rows_product t = {.K = m - k < block ? m - k : block,
                          .lda = ld,
                          .ldc = ld,
                          .A = left + k,
                          .B = packed,
                          .start = k > 0 ? C : NULL,
                          .ld_start = ld,
                          .C = C,
                          .epilogue = STORE};
        for (int64_t j = from; j < m; j += t.ldb) {
            t.ldb = panel_width(m - from, j - from);
            pack_polynomial(op, right, k, t.K, j, t.ldb, packed);
            for (int64_t r = begin, mr; r < end; r += mr) {
                mr = even_part(end - r, most_rows(t.ldb));
                rows_tile_any(mr, t.ldb, &t, r, j);
            }
        }
    }
    if (symmetric) mirror_rows(C, ld, m, begin, end);
}

static void muon_polynomial(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    product_rows(op, batch, begin, end, 1);
}

static void muon_apply(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    product_rows(op, batch, begin, end, 0);
}
#endif

/* The step of n elements of a weight along `along`, and of what goes with it. */
INLINE V step_along(const hl_op *op, const hl_batch *batch, const moments *c, int64_t at, V along) {
    const double *s = scalars_of(batch, op->weight_group);
    REAL *W = in_store(batch, op->weight) + at, *M = in_store(batch, op->weight_slot_0) + at;
    const REAL *G = in_store(batch, op->weight_gradient) + at;
    const V rate = v_set1((REAL)(s[HL_matrix_rate] * op->scale));
    const V w = v_fma(-rate, along, v_set1((REAL)s[HL_matrix_shrink]) * v_load(W));
    v_store(M, new_moment(c, v_load(M), v_load(G)));
    v_store(W, w);
    if (op->weight_average >= 0) {
        REAL *average = in_store(batch, op->weight_average) + at;
        v_store(average, v_fma(v_set1((REAL)s[HL_average]), v_load(average) - w, w));
    }
    return w;
}

/* Weights step along `left`, which is Z made orthogonal; biases by their own rule. */
static void muon_update(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const moments c = moments_of(op, batch);
    const REAL *Z = in_store(batch, op->left);
    const int64_t ld = op->ld_matrix, wide = op->I < op->O;
    sink s = sink_of(op, batch);
    for (int64_t k = begin; k < end; k++) {
        const unit u = unit_of(op, k);
        V squares = v_zero();
        for (int64_t i = 0; i < u.rows; i += VL)
            for (int64_t j = 0; j < u.width; j += VL) {
                V t[HL_VECTOR_BYTES / sizeof(REAL)];
                for (int64_t r = 0; r < VL; r++) {
                    const int there = wide ? u.j + j + r < op->O : i + r < u.rows;
                    const REAL *row =
                        wide ? Z + (u.j + j + r) * ld + u.i + i : Z + (u.i + i + r) * ld + u.j + j;
                    t[r] = there ? v_load(row) : v_zero();
                }
                if (wide) transpose(t);
                for (int64_t r = 0; r < VL && i + r < u.rows; r++) {
                    const int64_t at = u.offset + (i + r) * u.width + j;
                    squares = add_penalty(op, step_along(op, batch, &c, at, t[r]), squares);
                }
            }
        if (u.bias && has_bias(op))
            step_bias(&s, in_store(batch, op->bias_gradient) + u.j, u.j, padded(u.width));
        refresh_unit(op, batch, u);
        ((double *)(batch->store + op->squares))[k] = v_sum(squares);
    }
}
