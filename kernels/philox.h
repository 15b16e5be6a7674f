/* Random words by Philox4x32-10; what they are drawn for, and what becomes of them, is said with
 * hl_draw in abi.h. Needs simd.h.
 *
 * A round takes a counter (c0, c1, c2, c3) and a key (k0, k1), all of 32 bits, to
 *   c0 = high(M1 c2) ^ c1 ^ k0    c1 = low(M1 c2)    c2 = high(M0 c0) ^ c3 ^ k1    c3 = low(M0 c0)
 * and before the next one the key becomes (k0 + W0, k1 + W1). There are ten rounds, and the words are
 * the last counter (section 4.3 of the paper).
 *
 * A lane is a counter: a word has the lower half of a lane of 64 bits, and the upper half holds
 * what no product reads. So the low half of a product is the product itself. */
#define PHILOX_ROUNDS 10
#define PHILOX_M0 0xd2511f53u
#define PHILOX_M1 0xcd9e8d57u
#define PHILOX_W0 0x9e3779b9u
#define PHILOX_W1 0xbb67ae85u
enum { PHILOX_WORDS = HL_VECTOR_BYTES / 2 }; /* that are made at a time */

/* out <- words of the counters (block, row, op, step), block + 1 ..., PHILOX_WORDS in all */
INLINE void philox(const hl_draw *draw, uint32_t row, uint32_t block, uint32_t *out) {
    V64 zero = {0}, c0, lower = zero + 0xffffffffu, first, second;
    /* The blocks of lanes 0, 2, 4 .. follow one another, then come those of lanes 1, 3, 5 .. */
    for (int i = 0; i < VL64; i++) c0[i] = (uint64_t)(i / 2 + i % 2 * (VL64 / 2));
    c0 += block;
    V64 c1 = zero + row, c2 = zero + draw->op, c3 = zero + draw->step;
    uint32_t k0 = (uint32_t)draw->seed, k1 = (uint32_t)(draw->seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        V64 p0 = v_product64(zero + PHILOX_M0, c0), p1 = v_product64(zero + PHILOX_M1, c2);
        c0 = (p1 >> 32) ^ c1 ^ (zero + k0);
        c1 = p1;
        c2 = (p0 >> 32) ^ c3 ^ (zero + k1);
        c3 = p0;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    V64 front = (c0 & lower) | (c1 << 32), back = (c2 & lower) | (c3 << 32);
    first = v_firsts64(front, back);
    second = v_seconds64(front, back);
    memcpy(out, &first, sizeof(V64));
    memcpy(out + PHILOX_WORDS / 2, &second, sizeof(V64));
}

/* out (n,) <- words of columns column, column + 1 .. of a row; a vector of which a part is wanted
 * is made whole elsewhere. */
static void random_bits(const hl_draw *draw, int64_t row, int64_t column, int64_t n, void *out) {
    uint32_t whole[PHILOX_WORDS], *words = out;
    while (n > 0) {
        int64_t skipped = column % 4, taken = PHILOX_WORDS - skipped;
        int direct = skipped == 0 && n >= PHILOX_WORDS;
        philox(draw, (uint32_t)row, (uint32_t)(column / 4), direct ? words : whole);
        if (taken > n) taken = n;
        if (!direct) memcpy(words, whole + skipped, (size_t)taken * sizeof(uint32_t));
        words += taken;
        column += taken;
        n -= taken;
    }
}

/* The same as numbers in [0, 1), exact multiples of 2^-24 or 2^-32. */
static void random_uniform(const hl_draw *draw, int64_t row, int64_t column, int64_t n, void *out) {
    uint32_t words[256];
    REAL *numbers = out;
    for (int64_t done = 0; done < n; done += 256) {
        int64_t m = n - done < 256 ? n - done : 256;
        random_bits(draw, row, column + done, m, words);
        for (int64_t i = 0; i < m; i++)
            numbers[done + i] = REAL_IS_DOUBLE ? (REAL)words[i] * (REAL)0x1p-32
                                               : (REAL)(words[i] >> 8) * (REAL)0x1p-24;
    }
}
