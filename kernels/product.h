/* Register tiles of matrix products, which all products of two dense matrices are made of, but
 * for the dot products of narrow outputs (dense.h). Two shapes,
 * told apart by which way the left operand is read:
 *
 *   rows_tile      C[r, c] = start[c] + sum_k A[r, k] B[k, c]   k along a row of A
 *   columns_tile   C[r, c] = start    + sum_k A[k, r] B[k, c]   k down a column of A
 *
 * Lanes run along c, and each element is one fma chain over k = 0 .. K-1: its bits depend on K
 * and on its operands, not on the tile it falls in. All that is said here of A and B, K included,
 * counts OPERANDs. Needs simd.h. */

/* Rows of a tile that is 1 or 2 vectors wide, and of one that is 3 wide. */
#if HL_VECTOR_REGISTERS == 32
#define MR 12 /* 24 accumulators, 2 vectors of B, 1 broadcast of A: 27 of 32 registers */
#define MR3 8
#define EACH_MR(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12)
#define EACH_MR3(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8)
#else
#define MR 6 /* 12 accumulators, 2 vectors of B, 1 broadcast of A: 15 of 16 registers */
#define MR3 4
#define EACH_MR(F) F(1) F(2) F(3) F(4) F(5) F(6)
#define EACH_MR3(F) F(1) F(2) F(3) F(4)
#endif

/* Columns are cut into panels of NR; where an odd vector is left, the last panel is 3 wide. */
#define NR (2 * VL)
INLINE int64_t padded(int64_t n) { return (n + VL - 1) / VL * VL; }
INLINE int64_t panels(int64_t n) { return padded(n) < NR ? 1 : padded(n) / NR; }
INLINE int64_t panel_width(int64_t n, int64_t j) {
    return padded(n) - j <= 3 * VL ? padded(n) - j : NR;
}
/* Where the panel that column j of n belongs to starts. */
INLINE int64_t panel_of(int64_t n, int64_t j) {
    int64_t last = (panels(n) - 1) * NR;
    return j / NR * NR < last ? j / NR * NR : last;
}

/* The first of as few and as even parts of n as may be, none over `most`. */
INLINE int64_t even_part(int64_t n, int64_t most) {
    int64_t parts = (n - 1) / most + 1; /* of nothing, too, there is one */
    return (n + parts - 1) / parts;
}

/* Operands that n elements along a reduction make. */
INLINE int64_t operands(int64_t n) { return (n + PER_OPERAND - 1) / PER_OPERAND; }

/* What a rows_tile does to its result before it is stored. */
enum epilogue {
    STORE,
    RELU,
    TIMES_RELU_SLOPE,
    TIMES_LOGISTIC_SLOPE,
    TIMES_TANH_SLOPE,
    TIMES_SLOPE
};

typedef struct rows_product {
    int64_t K, lda, ldb, ldc;
    const OPERAND *A, *B;
    OPERAND *packed;      /* room for a panel of a row-major B, or NULL: see rows_product_run */
    const REAL *start;    /* start of the chains, rows ld_start apart; NULL for zero */
    int64_t ld_start;     /* 0 for a bias, which is the same for every row */
    const STORED *output; /* for the slopes: the activation's output, rows ld_output apart */
    int64_t ld_output;
    const REAL *slope; /* for TIMES_SLOPE: the slopes themselves, rows ld_slope apart */
    int64_t ld_slope;
    REAL *C;
    enum epilogue epilogue;
} rows_product;

/* The derivative of an activation is known from its output, or from `slope`. */
INLINE V finish(enum epilogue epilogue, V c, const STORED *output, const REAL *slope) {
    switch (epilogue) {
    case STORE: return c;
    case RELU: return v_max(v_zero(), c);
    case TIMES_RELU_SLOPE: return v_select(v_equal(v_load_stored(output), v_zero()), v_zero(), c);
    case TIMES_LOGISTIC_SLOPE: {
        V h = v_load_stored(output);
        return c * h * (v_set1(1) - h);
    }
    case TIMES_TANH_SLOPE: {
        V h = v_load_stored(output);
        return c * (v_set1(1) - h * h);
    }
    case TIMES_SLOPE: return c * v_load(slope);
    }
    return c;
}

#define PREFETCH_K 24 /* rows of B that are asked for ahead of time */

INLINE void rows_tile(const int mr, const int nv, const rows_product *t, int64_t row,
                      int64_t column) {
    const int64_t K = t->K, lda = t->lda, ldb = t->ldb;
    const OPERAND *b = t->B, *a[4];
    V c[12][3];
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) a[g] = t->A + (row + (3 * g < mr ? 3 * g : 0)) * lda;
#pragma GCC unroll 12
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 3
        for (int j = 0; j < nv; j++)
            c[r][j] =
                t->start ? v_load(t->start + (row + r) * t->ld_start + column + j * VL) : v_zero();
    for (int64_t k = 0; k < K; k++) {
        V bk[3];
#pragma GCC unroll 3
        for (int j = 0; j < nv; j++) bk[j] = v_load_operand(b + j * VL);
#pragma GCC unroll 3
        for (int j = 0; j < nv; j++) __builtin_prefetch(b + PREFETCH_K * ldb + j * VL);
        b += ldb;
#pragma GCC unroll 12
        for (int r = 0; r < mr; r++) {
            V ak = v_spread(a[r / 3][(r % 3) * lda]);
#pragma GCC unroll 3
            for (int j = 0; j < nv; j++) c[r][j] = v_mac(ak, bk[j], c[r][j]);
        }
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) a[g] += 1;
    }
    REAL *out = t->C + row * t->ldc + column;
    const STORED *output =
        t->output ? t->output + row * t->ld_output + column : (const STORED *)out;
    const REAL *slope = t->slope ? t->slope + row * t->ld_slope + column : out;
    /* clang-format off */
#define FINISH(e)                                                                                  \
    case e:                                                                                        \
        _Pragma("GCC unroll 12") for (int r = 0; r < mr; r++)                                      \
        _Pragma("GCC unroll 3") for (int j = 0; j < nv; j++)                                       \
            v_store(out + r * t->ldc + j * VL,                                                     \
                    finish(e, c[r][j], output + r * t->ld_output + j * VL,                         \
                           slope + r * t->ld_slope + j * VL));                                     \
        break;
    /* clang-format on */
    switch (t->epilogue) {
        FINISH(STORE)
        FINISH(RELU)
        FINISH(TIMES_RELU_SLOPE)
        FINISH(TIMES_LOGISTIC_SLOPE)
        FINISH(TIMES_TANH_SLOPE)
        FINISH(TIMES_SLOPE)
    }
#undef FINISH
}

/* C (ldc) is overwritten, or continued where accumulate is set. Rows are asked for
 * PREFETCH_ROWS ahead, since the processor foresees no strides over 2 KiB, and K / 4 vectors from
 * `soon` on, which are needed next, into the second-level cache. */
#define PREFETCH_ROWS 8
INLINE void columns_tile(const int mr, const int nv, int64_t K, const OPERAND *A, int64_t lda,
                         const OPERAND *B, int64_t ldb, REAL *C, int64_t ldc, int accumulate,
                         const REAL *soon) {
    V c[12][8];
#pragma GCC unroll 12
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 8
        for (int j = 0; j < nv; j++) c[r][j] = accumulate ? v_load(C + r * ldc + j * VL) : v_zero();
    for (int64_t k = 0; k < K; k++) {
        V bk[8];
#pragma GCC unroll 8
        for (int j = 0; j < nv; j++) bk[j] = v_load_operand(B + k * ldb + j * VL);
        const OPERAND *later = A + (k + PREFETCH_ROWS) * lda;
        __builtin_prefetch(later);
        __builtin_prefetch(later + mr - 1);
        __builtin_prefetch(soon + (k >> 2) * VL, 0, 2);
#pragma GCC unroll 8
        for (int j = 0; j < nv; j++) __builtin_prefetch(B + (k + PREFETCH_ROWS) * ldb + j * VL);
#pragma GCC unroll 12
        for (int r = 0; r < mr; r++) {
            V ak = v_spread(A[k * lda + r]);
#pragma GCC unroll 8
            for (int j = 0; j < nv; j++) c[r][j] = v_mac(ak, bk[j], c[r][j]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 8
        for (int j = 0; j < nv; j++) v_store(C + r * ldc + j * VL, c[r][j]);
}

#define TILE_KEY(mr, nv) (16 * (nv) + (mr))

static void rows_tile_any(int64_t mr, int64_t width, const rows_product *t, int64_t row,
                          int64_t column) {
#define CASE1(m)                                                                                   \
    case TILE_KEY(m, 1): rows_tile(m, 1, t, row, column); break;
#define CASE2(m)                                                                                   \
    case TILE_KEY(m, 2): rows_tile(m, 2, t, row, column); break;
#define CASE3(m)                                                                                   \
    case TILE_KEY(m, 3): rows_tile(m, 3, t, row, column); break;
    switch (TILE_KEY(mr, width / VL)) { EACH_MR(CASE1) EACH_MR(CASE2) EACH_MR3(CASE3) }
#undef CASE1
#undef CASE2
#undef CASE3
}

static void columns_tile_any(int64_t mr, int64_t width, int64_t K, const OPERAND *A, int64_t lda,
                             const OPERAND *B, int64_t ldb, REAL *C, int64_t ldc, int accumulate,
                             const REAL *soon) {
#define CASE(m, n)                                                                                 \
    case TILE_KEY(m, n): columns_tile(m, n, K, A, lda, B, ldb, C, ldc, accumulate, soon); break;
#define CASE1(m) CASE(m, 1)
#define CASE2(m) CASE(m, 2)
#define CASE3(m) CASE(m, 3)
    switch (TILE_KEY(mr, width / VL)) {
        EACH_MR(CASE1)
        EACH_MR(CASE2)
        EACH_MR3(CASE3)
        /* few rows and many columns, to keep enough chains in flight */
        CASE(1, 4) CASE(1, 5) CASE(1, 6) CASE(1, 7) CASE(1, 8) CASE(2, 4)
    }
#undef CASE
#undef CASE1
#undef CASE2
#undef CASE3
}

/* The most rows of a tile that is so wide. */
INLINE int64_t most_rows(int64_t width) { return width == 3 * VL ? MR3 : MR; }

/* Lengths of a reduction that is done in one go, so that the panel of B stays in the second-level
 * cache while rows go by, and the rows of B in a columns_tile in the first: K is cut evenly, and
 * a chain goes on from where it was stored. */
#define ROWS_BLOCK 1024
#define COLUMNS_BLOCK 256

#if !PAIRED
/* A panel of rows as they come; columns past n become zero. */
static void pack_panel(const REAL *B, int64_t ldb, int64_t K, int64_t n, int64_t width,
                       REAL *packed) {
    for (int64_t k = 0; k < K; k++, B += ldb, packed += width)
        for (int64_t j = 0; j < width; j += VL) {
            __builtin_prefetch(B + PREFETCH_ROWS * ldb + j);
            v_store(packed + j, n - j < VL ? v_load_n(B + j, n - j) : v_load(B + j));
        }
}
#endif

/* C[begin:end, 0:N] for B in panels, or row-major with stride t.ldb where in_panels is 0; there
 * t.packed is for the panels that are read more than once, and for those that end within a vector.
 * C is written in whole vectors, up to padded(N). */
static void rows_product_run(rows_product t, int in_panels, int64_t N, int64_t begin, int64_t end) {
    const rows_product whole = t;
    const int64_t block = even_part(whole.K, ROWS_BLOCK);
    for (int64_t k = 0; k < whole.K; k += block) {
        t.K = whole.K - k < block ? whole.K - k : block;
        t.A = whole.A + k;
        t.epilogue = k + block < whole.K ? STORE : whole.epilogue;
        if (k > 0) t.start = t.C, t.ld_start = t.ldc;
        for (int64_t j = 0, width; j < N; j += width) {
            width = panel_width(N, j);
            t.ldb = in_panels ? width : whole.ldb;
            t.B = whole.B + (in_panels ? j * whole.K : j) + k * t.ldb;
#if !PAIRED
            if (t.packed && (end - begin > MR || j + width > N)) {
                pack_panel(t.B, t.ldb, t.K, N - j, width, t.packed);
                t.B = t.packed, t.ldb = width;
            }
#endif
            for (int64_t r = begin, mr; r < end; r += mr) {
                mr = even_part(end - r, most_rows(width));
                rows_tile_any(mr, width, &t, r, j);
            }
        }
    }
}
