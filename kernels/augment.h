/* What training does to rows at random: dropout, noise, pairs of rows. Which words are drawn is said
 * with hl_draw in abi.h. Needs dense.h, loss.h, philox.h. */

enum { DRAWN = 256 }; /* words that are drawn before they are used: columns of a part of a row */
typedef uint32_t VW __attribute__((vector_size(HL_VECTOR_BYTES / sizeof(REAL) * 4)));
typedef VW VW_unaligned __attribute__((aligned(4), may_alias));

/* ------------------------------------------------------------------------ dropout */

/* A vector of a row, or what is left of it: m elements. */
INLINE V load_part(const REAL *p, int64_t m) { return m < VL ? v_load_n(p, m) : v_load(p); }
INLINE void store_part(REAL *p, int64_t m, V a) {
    if (m < VL) v_store_n(p, m, a);
    else v_store(p, a);
}

/* n columns, each times 0 or `scale`, and their slopes where they are kept. */
INLINE void drop(const hl_op *op, const uint32_t *words, int64_t n, REAL *output, REAL *slope) {
    const VW threshold = (VW){0} + (uint32_t)op->threshold;
    const VI scale = (VI)v_set1((REAL)op->scale);
    for (int64_t o = 0; o < n; o += VL) {
        const int64_t m = n - o < VL ? n - o : VL;
        const VW drawn = *(const VW_unaligned *)(words + o);
        V kept = (V)(__builtin_convertvector(drawn >= threshold, VI) & scale);
        store_part(output + o, m, load_part(output + o, m) * kept);
        if (slope) store_part(slope + o, m, load_part(slope + o, m) * kept);
    }
}

static void dropout(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const hl_draw draw = {batch->seed, (uint32_t)op->draw, batch->step};
    uint32_t words[DRAWN + HL_VECTOR_BYTES];
    for (int64_t r = begin; r < end; r++)
        for (int64_t j = 0; j < op->O; j += DRAWN) {
            const int64_t n = op->O - j < DRAWN ? op->O - j : DRAWN;
            random_bits(&draw, r, j, n, words);
            drop(op, words, n, in_arena(batch, op->output) + r * op->ld_output + j,
                 op->slope < 0 ? NULL : in_arena(batch, op->slope) + r * op->ld_slope + j);
        }
}

/* -------------------------------------------------------------------------- noise */

/* A polynomial, by Horner's rule. */
INLINE V v_polynomial(V x, const int terms, const REAL *coefficients) {
    V sum = v_set1(coefficients[terms - 1]);
    for (int i = terms - 2; i >= 0; i--) sum = v_fma(sum, x, v_set1(coefficients[i]));
    return sum;
}

/* The number that q + 1/2 of all standard normal numbers are below (AS 241, PPND16 and PPND7). Its
 * third case, beyond e^-25, is not reached by words of 32 bits. */
INLINE V v_normal(V q) {
#if REAL_IS_DOUBLE
    enum { terms = 8 };
    static const REAL above[] = {3.3871328727963666080e0,  1.3314166789178437745e+2,
                                 1.9715909503065514427e+3, 1.3731693765509461125e+4,
                                 4.5921953931549871457e+4, 6.7265770927008700853e+4,
                                 3.3430575583588128105e+4, 2.5090809287301226727e+3};
    static const REAL below[] = {1,
                                 4.2313330701600911252e+1,
                                 6.8718700749205790830e+2,
                                 5.3941960214247511077e+3,
                                 2.1213794301586595867e+4,
                                 3.9307895800092710610e+4,
                                 2.8729085735721942674e+4,
                                 5.2264952788528545610e+3};
    static const REAL far_above[] = {1.42343711074968357734e0,  4.63033784615654529590e0,
                                     5.76949722146069140550e0,  3.64784832476320460504e0,
                                     1.27045825245236838258e0,  2.41780725177450611770e-1,
                                     2.27238449892691845833e-2, 7.74545014278341407640e-4};
    static const REAL far_below[] = {1,
                                     2.05319162663775882187e0,
                                     1.67638483018380384940e0,
                                     6.89767334985100004550e-1,
                                     1.48103976427480074590e-1,
                                     1.51986665636164571966e-2,
                                     5.47593808499534494600e-4,
                                     1.05075007164441684324e-9};
#else
    enum { terms = 4 };
    static const REAL above[] = {3.3871327179f, 50.434271938f, 159.29113202f, 59.109374720f};
    static const REAL below[] = {1, 17.895169469f, 78.757757664f, 67.187563600f};
    static const REAL far_above[] = {1.4234372777f, 2.7568153900f, 1.3067284816f, 0.17023821103f};
    static const REAL far_below[] = {1, 0.73700164250f, 0.12021132975f, 0};
#endif
    V a = v_abs(q), near = v_set1((REAL)0.180625) - q * q;
    V far = v_sqrt(-v_log(v_set1((REAL)0.5) - a)) - v_set1((REAL)1.6);
    MASK is_far = v_less(v_set1((REAL)0.425), a);
    V numerator = v_select(is_far, v_copysign(v_polynomial(far, terms, far_above), q),
                           q * v_polynomial(near, terms, above));
    return numerator /
           v_select(is_far, v_polynomial(far, terms, far_below), v_polynomial(near, terms, below));
}

static void noise(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const hl_draw draw = {batch->seed, (uint32_t)op->draw, batch->step};
    const V scale = v_set1((REAL)op->scale);
    uint32_t words[DRAWN];
    REAL places[DRAWN];
    for (int64_t r = begin; r < end; r++)
        for (int64_t j = 0; j < op->O; j += DRAWN) {
            const int64_t n = op->O - j < DRAWN ? op->O - j : DRAWN;
            REAL *row = in_arena(batch, op->output) + r * op->ld_output + j;
            random_bits(&draw, r, j, n, words);
            for (int64_t i = 0; i < n; i++) /* exact, and so is all up to the logarithm */
                places[i] = REAL_IS_DOUBLE
                                ? ((REAL)words[i] + (REAL)0.5) * (REAL)0x1p-32 - (REAL)0.5
                                : ((REAL)(words[i] >> 9) + (REAL)0.5) * (REAL)0x1p-23 - (REAL)0.5;
            for (int64_t i = 0; i < n; i += VL) {
                const int64_t m = n - i < VL ? n - i : VL;
                V z = v_normal(load_part(places + i, m));
                store_part(row + i, m, v_fma(scale, z, load_part(row + i, m)));
            }
        }
}

/* ------------------------------------------------------------------ pairs of rows */

/* Runs a kernel on the batch of the partners: row r there is row (r + n / 2) mod n here. */
static void with_partners(hl_kernel run, const hl_op *op, const hl_batch *batch, int64_t begin,
                          int64_t end) {
    const int64_t turn = batch->n / 2, cut = batch->n - turn;
    hl_batch partners = *batch;
    for (int later = 0; later < 2; later++) {
        const int64_t first = later && begin < cut ? cut : begin;
        const int64_t last = later || end < cut ? end : cut, shift = later ? -cut : turn;
        if (first >= last) continue;
        if (batch->order) partners.order = batch->order + shift;
        partners.first = batch->first + shift;
        run(op, &partners, first, last);
    }
}

static void partner_gather(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    with_partners(gather, op, batch, begin, end);
}

/* The outputs are copied first: a loss leaves its deltas in their place. */
static void partner_loss(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const int64_t ld = op->ld_output;
    memcpy(in_arena(batch, op->output) + begin * ld, in_arena(batch, op->input) + begin * ld,
           (size_t)((end - begin) * ld) * sizeof(REAL));
    with_partners(loss, op, batch, begin, end);
}

static void mix_rows(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const double mix = batch->scalars[HL_mix];
    const V own = v_set1((REAL)mix), other = v_set1((REAL)(1 - mix));
    const int flat = op->ld_output == 1; /* one unpadded column: a single long row */
    const int64_t columns = flat ? end - begin : op->O, rows = flat ? 1 : end - begin;
    for (int64_t r = 0; r < rows; r++) {
        REAL *output = in_arena(batch, op->output) + (begin + r) * op->ld_output;
        const REAL *input = in_arena(batch, op->input) + (begin + r) * op->ld_input;
        for (int64_t o = 0; o < columns; o += VL) {
            const int64_t n = columns - o < VL ? columns - o : VL;
            V mixed = v_fma(other, load_part(input + o, n), own * load_part(output + o, n));
            store_part(output + o, n, mixed);
        }
    }
}
