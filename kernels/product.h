/* Register tiles of matrix products: the only place where a product is computed. Two shapes,
 * told apart by which way the left operand is read:
 *
 *   rows_tile      C[r, c] = start[c] + sum_k A[r, k] B[k, c]   k along a row of A
 *   columns_tile   C[r, c] = start    + sum_k A[k, r] B[k, c]   k down a column of A
 *
 * Lanes run along c, and each element is one fma chain over k = 0 .. K-1: its bits depend on K
 * and on its operands, not on the tile it falls in. Needs simd.h. */

#if HL_VECTOR_BYTES == 64
#define MR 12 /* 12 x 2 accumulators, 2 vectors of B, 1 broadcast of A: 27 of 32 registers */
#else
#define MR 6 /* 6 x 2 accumulators, 2 vectors of B, 1 broadcast of A: 15 of 16 registers */
#endif
#define NV 2 /* vectors across a tile */
#define NR (NV * VL)

/* What a rows_tile does to its result before it is stored. */
enum epilogue { STORE, RELU, TIMES_RELU_SLOPE, TIMES_LOGISTIC_SLOPE, TIMES_TANH_SLOPE };

typedef struct rows_product {
    int64_t K, lda, ldb, ldc;
    const REAL *A, *B;
    const REAL *start;  /* start of the chains, one for each column; NULL for zero */
    const REAL *output; /* for the slopes: the activation's output, laid out as C */
    REAL *C;
    enum epilogue epilogue;
} rows_product;

/* The derivative of an activation is known from its output. */
INLINE V finish(enum epilogue epilogue, V c, const REAL *output) {
    switch (epilogue) {
    case STORE: return c;
    case RELU: return v_max(v_zero(), c);
    case TIMES_RELU_SLOPE: return v_select(v_equal(v_load(output), v_zero()), v_zero(), c);
    case TIMES_LOGISTIC_SLOPE: {
        V h = v_load(output);
        return c * h * (v_set1(1) - h);
    }
    case TIMES_TANH_SLOPE: {
        V h = v_load(output);
        return c * (v_set1(1) - h * h);
    }
    }
    return c;
}

INLINE void rows_tile(const int mr, const int nv, const rows_product *t, int64_t row, int64_t column) {
    const int64_t K = t->K, lda = t->lda, ldb = t->ldb;
    const REAL *b = t->B, *a[4];
    V c[12][NV];
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) a[g] = t->A + (row + (3 * g < mr ? 3 * g : 0)) * lda;
#pragma GCC unroll 12
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 2
        for (int j = 0; j < nv; j++) c[r][j] = t->start ? v_load(t->start + column + j * VL) : v_zero();
    for (int64_t k = 0; k < K; k++) {
        V bk[NV];
#pragma GCC unroll 2
        for (int j = 0; j < nv; j++) bk[j] = v_load(b + j * VL);
        b += ldb;
#pragma GCC unroll 12
        for (int r = 0; r < mr; r++) {
            V ak = v_set1(a[r / 3][(r % 3) * lda]);
#pragma GCC unroll 2
            for (int j = 0; j < nv; j++) c[r][j] = v_fma(ak, bk[j], c[r][j]);
        }
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) a[g] += 1;
    }
    REAL *out = t->C + row * t->ldc + column;
    const REAL *output = t->output ? t->output + row * t->ldc + column : out;
#define FINISH(e)                                                                                 \
    case e:                                                                                       \
        _Pragma("GCC unroll 12") for (int r = 0; r < mr; r++)                                     \
            _Pragma("GCC unroll 2") for (int j = 0; j < nv; j++)                                  \
                v_store(out + r * t->ldc + j * VL, finish(e, c[r][j], output + r * t->ldc + j * VL)); \
        break;
    switch (t->epilogue) {
        FINISH(STORE)
        FINISH(RELU)
        FINISH(TIMES_RELU_SLOPE)
        FINISH(TIMES_LOGISTIC_SLOPE)
        FINISH(TIMES_TANH_SLOPE)
    }
#undef FINISH
}

/* C (ldc) is overwritten, or continued where accumulate is set. */
INLINE void columns_tile(const int mr, const int nv, int64_t K, const REAL *A, int64_t lda, const REAL *B,
                         int64_t ldb, REAL *C, int64_t ldc, int accumulate) {
    V c[12][8];
#pragma GCC unroll 12
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 8
        for (int j = 0; j < nv; j++) c[r][j] = accumulate ? v_load(C + r * ldc + j * VL) : v_zero();
    for (int64_t k = 0; k < K; k++) {
        V bk[8];
#pragma GCC unroll 8
        for (int j = 0; j < nv; j++) bk[j] = v_load(B + k * ldb + j * VL);
#pragma GCC unroll 12
        for (int r = 0; r < mr; r++) {
            V ak = v_set1(A[k * lda + r]);
#pragma GCC unroll 8
            for (int j = 0; j < nv; j++) c[r][j] = v_fma(ak, bk[j], c[r][j]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 8
        for (int j = 0; j < nv; j++) v_store(C + r * ldc + j * VL, c[r][j]);
}

/* One case for each number of rows a tile may have. */
#if MR == 12
#define EACH_MR(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12)
#else
#define EACH_MR(F) F(1) F(2) F(3) F(4) F(5) F(6)
#endif

static void rows_tile_any(int mr, int nv, const rows_product *t, int64_t row, int64_t column) {
#define CASE(m)                                                                                   \
    case m:                                                                                       \
        if (nv == 2) rows_tile(m, 2, t, row, column);                                             \
        else rows_tile(m, 1, t, row, column);                                                     \
        break;
    switch (mr) { EACH_MR(CASE) }
#undef CASE
}

static void columns_tile_any(int mr, int nv, int64_t K, const REAL *A, int64_t lda, const REAL *B,
                             int64_t ldb, REAL *C, int64_t ldc, int accumulate) {
#define TILE(m, n) columns_tile(m, n, K, A, lda, B, ldb, C, ldc, accumulate)
#define CASE(m)                                                                                   \
    case m:                                                                                       \
        if (nv == 2) TILE(m, 2);                                                                  \
        else TILE(m, 1);                                                                          \
        break;
    switch (nv > 2 ? 16 * mr + nv : mr) {
        EACH_MR(CASE)
        /* few rows and many columns, to keep enough chains in flight */
        case 16 + 8: TILE(1, 8); break;
        case 16 + 7: TILE(1, 7); break;
        case 16 + 6: TILE(1, 6); break;
        case 16 + 5: TILE(1, 5); break;
        case 16 + 4: TILE(1, 4); break;
        case 16 + 3: TILE(1, 3); break;
        case 32 + 4: TILE(2, 4); break;
        case 32 + 3: TILE(2, 3); break;
    }
#undef CASE
#undef TILE
}

/* Rows of the next tile when `left` rows are left: tiles as even as can be, none over MR. */
INLINE int64_t tile_rows(int64_t left) {
    int64_t tiles = (left + MR - 1) / MR;
    return (left + tiles - 1) / tiles;
}

/* Padded width of n columns, and the width of the panel that starts at column j of them. */
INLINE int64_t padded(int64_t n) { return (n + VL - 1) / VL * VL; }
INLINE int64_t panel_width(int64_t n, int64_t j) { return padded(n) - j < NR ? padded(n) - j : NR; }

/* C[begin:end, 0:N] for B in panels of NR columns (panel_step = K * NR, ldb unused), or
 * row-major with stride t.ldb where panels is 0. C is written in whole vectors up to padded(N). */
static void rows_product_run(rows_product t, int panels, int64_t N, int64_t begin, int64_t end) {
    const REAL *B = t.B;
    for (int64_t j = 0; j < N; j += NR) {
        int64_t width = panel_width(N, j);
        t.B = panels ? B + j * t.K : B + j;
        if (panels) t.ldb = width;
        for (int64_t r = begin; r < end;) {
            int64_t mr = tile_rows(end - r);
            rows_tile_any((int)mr, (int)(width / VL), &t, r, j);
            r += mr;
        }
    }
}
