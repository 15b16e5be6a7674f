/* The vector vocabulary: the few operations that the kernels are written in, for the
 * instruction set the compiler was told to use and the element type REAL (float or double).
 * A translation unit has one of each (float32.c, float64.c); every name is static. Addition,
 * subtraction, multiplication and division are the compiler's own vector operators; whatever
 * rounds differently between sets is spelled out here.
 *
 *   v_load/v_store(p)      VL elements, any alignment    v_load_n/v_store_n(p, n)  first n lanes
 *   v_fma(a, b, c)         a * b + c, one rounding (two on the x86-64 baseline)
 *   v_max(bound, x)        NaN in x comes through; so for v_min
 *   v_select(m, a, b)      a where the mask m is set, else b
 *   v_ratio(m, v, e)       m / (sqrt(v) + e), Adam's step
 *
 * Activations and deltas are kept as STORED for products, which read them as OPERANDs: both are
 * REAL, or else, where PAIRED is set, bfloat16 and two of them that are next to each other along
 * the reduction, the first in the lower half. A V holds OPERANDs, too.
 *
 *   v_load_stored(p)       VL of STORED as REAL
 *   v_operand(t)           the operands that PER_OPERAND vectors of REAL make, rounded
 *   v_spread(x)            an OPERAND in every lane
 *   v_mac(a, b, c)         c + the products of operands a and b, one fma after the other
 */
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#elif defined(__aarch64__) || defined(_M_ARM64)
#define HL_NEON
#include <arm_neon.h>
#endif

#if REAL_IS_DOUBLE
#define SMALLEST_NORMAL 0x1p-1022
typedef double REAL;
typedef int64_t REAL_INT;
#else
#define SMALLEST_NORMAL 0x1p-126f
typedef float REAL;
typedef int32_t REAL_INT;
#endif

#if defined(__AVX512F__)
#define HL_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define HL_VECTOR_BYTES 32
#else
#define HL_VECTOR_BYTES 16
#endif

#if defined(__AVX512F__) || defined(HL_NEON)
#define HL_VECTOR_REGISTERS 32
#else
#define HL_VECTOR_REGISTERS 16
#endif

#define VL ((int64_t)(HL_VECTOR_BYTES / sizeof(REAL)))
typedef REAL V __attribute__((vector_size(HL_VECTOR_BYTES)));
typedef REAL V_unaligned
    __attribute__((vector_size(HL_VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef REAL_INT VI __attribute__((vector_size(HL_VECTOR_BYTES)));

#define INLINE static inline __attribute__((always_inline))

INLINE V v_load(const REAL *p) { return *(const V_unaligned *)p; }
INLINE void v_store(REAL *p, V a) { *(V_unaligned *)p = a; }
INLINE V v_set1(REAL x) { return x - (V){0}; }
INLINE V v_zero(void) { return (V){0}; }

#if defined(__AVX512F__)
/* ------------------------------------------------------------------ AVX-512 */
#if REAL_IS_DOUBLE
typedef __mmask8 MASK;
#define AVX512(op) _mm512_##op##_pd
#else
typedef __mmask16 MASK;
#define AVX512(op) _mm512_##op##_ps
#endif
#define v_fma(a, b, c) ((V)AVX512(fmadd)(a, b, c))
#define v_max(bound, x) ((V)AVX512(max)(bound, x))
#define v_min(bound, x) ((V)AVX512(min)(bound, x))
#define v_sqrt(a) ((V)AVX512(sqrt)(a))
#if REAL_IS_DOUBLE
#define v_less(a, b) _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ)
#define v_equal(a, b) _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ)
#define v_select(m, a, b) ((V)_mm512_mask_blend_pd(m, b, a))
#else
#define v_less(a, b) _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ)
#define v_equal(a, b) _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ)
#define v_select(m, a, b) ((V)_mm512_mask_blend_ps(m, b, a))
#endif
INLINE MASK first_lanes(int64_t n) { return (MASK)((1u << n) - 1u); }
INLINE V v_load_n(const REAL *p, int64_t n) { return (V)AVX512(maskz_loadu)(first_lanes(n), p); }
INLINE void v_store_n(REAL *p, int64_t n, V a) { AVX512(mask_storeu)(p, first_lanes(n), a); }

/* Newton steps from the 14-bit estimates, within 3 ulp of the exact quotient. An infinite or NaN v
 * takes the exact instructions, and so does an e small enough to show that sqrt of a v below the
 * normal range comes out too small. */
INLINE V v_ratio(V m, V v, V e) {
    enum { special = 0x99 }; /* infinite or NaN */
#if REAL_IS_DOUBLE
    if (__builtin_expect(_mm512_fpclass_pd_mask(v, special) | v_less(e, v_set1(1e-140)), 0))
        return m / (v_sqrt(v) + e);
    V y = (V)_mm512_rsqrt14_pd(v_max(v_set1(SMALLEST_NORMAL), v));
    y = y * (v_set1(1.5) - v_set1(0.5) * v * y * y);
#else
    if (__builtin_expect(_mm512_fpclass_ps_mask(v, special) | v_less(e, v_set1(1e-15f)), 0))
        return m / (v_sqrt(v) + e);
    V y = (V)_mm512_rsqrt14_ps(v_max(v_set1(SMALLEST_NORMAL), v));
#endif
    V s = v * y;
    s = v_fma(s, (V)AVX512(fnmadd)(s, v_set1((REAL)0.5) * y, v_set1((REAL)0.5)), s);
    V d = s + e;
    V r = (V)AVX512(rcp14)(d);
    r = v_fma(r, (V)AVX512(fnmadd)(d, r, v_set1(1)), r);
#if REAL_IS_DOUBLE
    r = v_fma(r, (V)AVX512(fnmadd)(d, r, v_set1(1)), r);
#endif
    return m * r;
}

#else
/* ------------------------------------------------- sets whose masks are vectors */
typedef VI MASK;
INLINE V v_select(MASK m, V a, V b) { return (V)((m & (VI)a) | (~m & (VI)b)); }
#define v_ratio(m, v, e) ((m) / (v_sqrt(v) + (e)))
#if defined(__AVX2__)
#define v_less(a, b) ((MASK)X86_COMPARE(a, b, _CMP_LT_OQ))
#define v_equal(a, b) ((MASK)X86_COMPARE(a, b, _CMP_EQ_OQ))
#if REAL_IS_DOUBLE
#define X86_COMPARE _mm256_cmp_pd
#define INTRINSIC(op) _mm256_##op##_pd
#define v_fma(a, b, c) ((V)_mm256_fmadd_pd(a, b, c))
#else
#define X86_COMPARE _mm256_cmp_ps
#define INTRINSIC(op) _mm256_##op##_ps
#define v_fma(a, b, c) ((V)_mm256_fmadd_ps(a, b, c))
#endif
#elif defined(__x86_64__) || defined(_M_X64)
#define v_less(a, b) ((MASK)INTRINSIC(cmplt)(a, b)) /* gcc 12 fails on the operator for doubles */
#define v_equal(a, b) ((MASK)INTRINSIC(cmpeq)(a, b))
#if REAL_IS_DOUBLE
#define INTRINSIC(op) _mm_##op##_pd
#else
#define INTRINSIC(op) _mm_##op##_ps
#endif
#define v_fma(a, b, c) ((a) * (b) + (c))
#elif defined(HL_NEON)
#define v_less(a, b) ((MASK)INTRINSIC(clt)(a, b))
#define v_equal(a, b) ((MASK)INTRINSIC(ceq)(a, b))
#if REAL_IS_DOUBLE
#define INTRINSIC(op) v##op##q_f64
#else
#define INTRINSIC(op) v##op##q_f32
#endif
#define v_fma(a, b, c) ((V)INTRINSIC(fma)(c, a, b))
#endif

#ifdef INTRINSIC
#define v_max(bound, x) ((V)INTRINSIC(max)(bound, x))
#define v_min(bound, x) ((V)INTRINSIC(min)(bound, x))
#define v_sqrt(a) ((V)INTRINSIC(sqrt)(a))
#else
/* A plain statement of the vocabulary for any compiler with vector extensions. */
#define v_less(a, b) ((MASK)((a) < (b)))
#define v_equal(a, b) ((MASK)((a) == (b)))
INLINE V v_fma(V a, V b, V c) {
    for (int i = 0; i < VL; i++)
        c[i] = REAL_IS_DOUBLE ? __builtin_fma(a[i], b[i], c[i]) : __builtin_fmaf(a[i], b[i], c[i]);
    return c;
}
INLINE V v_max(V bound, V x) { return v_select(bound > x, bound, x); }
INLINE V v_min(V bound, V x) { return v_select(bound < x, bound, x); }
INLINE V v_sqrt(V a) {
    for (int i = 0; i < VL; i++)
        a[i] = REAL_IS_DOUBLE ? __builtin_sqrt(a[i]) : __builtin_sqrtf(a[i]);
    return a;
}
#endif

INLINE V v_load_n(const REAL *p, int64_t n) {
    V a = {0};
    for (int64_t i = 0; i < n; i++) a[i] = p[i];
    return a;
}
INLINE void v_store_n(REAL *p, int64_t n, V a) {
    for (int64_t i = 0; i < n; i++) p[i] = a[i];
}
#endif

INLINE V v_abs(V a) { return (V)((VI)a & ~(VI)v_set1((REAL)-0.0)); }
INLINE V v_copysign(V magnitude, V sign) {
    VI bit = (VI)v_set1((REAL)-0.0);
    return (V)(((VI)magnitude & ~bit) | ((VI)sign & bit));
}

/* Lanes of a, or of a and b side by side, in the order that `lanes` says. */
#if defined(__clang__)
INLINE V v_shuffle2(V a, V b, VI lanes) {
    V c;
    for (int i = 0; i < VL; i++) c[i] = lanes[i] < VL ? a[lanes[i]] : b[lanes[i] - VL];
    return c;
}
#define v_shuffle(a, lanes) v_shuffle2(a, a, lanes)
#else
#define v_shuffle2(a, b, lanes) __builtin_shuffle(a, b, lanes)
#define v_shuffle(a, lanes) __builtin_shuffle(a, lanes)
#endif

/* Horizontal reductions by one tree: each round combines the lanes `half` apart, until all
 * lanes hold the result. */
#define REDUCE(a, combine)                                                                         \
    V other;                                                                                       \
    VI lane;                                                                                       \
    for (int i = 0; i < VL; i++) lane[i] = i;                                                      \
    _Pragma("GCC unroll 4") for (int half = (int)VL / 2; half > 0; half /= 2) {                    \
        other = v_shuffle(a, lane ^ half);                                                         \
        a = combine;                                                                               \
    }                                                                                              \
    return a[0];
INLINE REAL v_sum(V a){REDUCE(a, a + other)} INLINE REAL v_largest(V a) {
    REDUCE(a, v_max(a, other))
}
#undef REDUCE

/* ------------------------------------------------------------- 64-bit integers */
typedef uint64_t V64 __attribute__((vector_size(HL_VECTOR_BYTES)));
#define VL64 ((int64_t)(HL_VECTOR_BYTES / sizeof(uint64_t)))
#if defined(__AVX512F__)
#define X86_INTEGERS(op, a, b) ((V64)_mm512_##op((__m512i)(a), (__m512i)(b)))
#elif defined(__AVX2__)
#define X86_INTEGERS(op, a, b) ((V64)_mm256_##op((__m256i)(a), (__m256i)(b)))
#elif defined(__x86_64__) || defined(_M_X64)
#define X86_INTEGERS(op, a, b) ((V64)_mm_##op((__m128i)(a), (__m128i)(b)))
#endif

/* v_product64: the products of the lower halves of each lane, whatever is in the upper ones.
 * v_firsts64: the first of each two lanes of a and of b, in turn; v_seconds64: the second ones. */
#ifdef X86_INTEGERS
#define v_product64(a, b) X86_INTEGERS(mul_epu32, a, b)
#define v_firsts64(a, b) X86_INTEGERS(unpacklo_epi64, a, b)
#define v_seconds64(a, b) X86_INTEGERS(unpackhi_epi64, a, b)
#else
#ifdef HL_NEON
#define v_product64(a, b) ((V64)vmull_u32(vmovn_u64((uint64x2_t)(a)), vmovn_u64((uint64x2_t)(b))))
#else
INLINE V64 v_product64(V64 a, V64 b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }
#endif
INLINE V64 v_firsts64(V64 a, V64 b) { return (V64){a[0], b[0]}; }
INLINE V64 v_seconds64(V64 a, V64 b) { return (V64){a[1], b[1]}; }
#endif

/* -------------------------------------------------------- operands of products */
#if PAIRED
#define PER_OPERAND 2
typedef uint16_t STORED;
typedef uint32_t OPERAND __attribute__((may_alias));
typedef uint32_t VU __attribute__((vector_size(HL_VECTOR_BYTES)));
typedef uint16_t V_stored __attribute__((vector_size(HL_VECTOR_BYTES / 2)));
typedef V_stored V_stored_unaligned __attribute__((aligned(sizeof(STORED)), may_alias));

#define UPPER 0xffff0000u /* where a bfloat16 lies in the single precision number it stands for */
INLINE V v_load_stored(const STORED *p) {
    return (V)(__builtin_convertvector(*(const V_stored_unaligned *)p, VU) << 16);
}
/* To the nearest, ties to even, in the upper half of each lane; the lower one is of no use. A NaN
 * stays one. */
INLINE VU v_rounded(V a) {
    VU u = (VU)a, nan = (VU)((VI)(u & 0x7fffffffu) > 0x7f800000);
    return ((u | 0x400000u) & nan) | ((u + 0x7fffu + (u >> 16 & 1u)) & ~nan);
}
INLINE void v_store_stored(STORED *p, V a) {
    *(V_stored_unaligned *)p = __builtin_convertvector(v_rounded(a) >> 16, V_stored);
}
INLINE V v_zip(VU first, VU second) { return (V)((first >> 16) | (second & UPPER)); }
INLINE V v_zip_stored(const STORED *first, const STORED *second) {
    VU low = __builtin_convertvector(*(const V_stored_unaligned *)first, VU);
    return (V)(low | __builtin_convertvector(*(const V_stored_unaligned *)second, VU) << 16);
}
INLINE V v_operand(const V t[]) { return v_zip(v_rounded(t[0]), v_rounded(t[1])); }
INLINE V v_load_operand(const OPERAND *p) { return v_load((const REAL *)p); }
INLINE void v_store_operand(OPERAND *p, V a) { v_store((REAL *)p, a); }
INLINE V v_spread(OPERAND x) { return (V)((VU){0} + x); }
#if defined(__AVX512BF16__)
INLINE V v_mac(V a, V b, V c) { return (V)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b); }
#else
/* What the instruction does: the second product first, each added by an fma. A product of two
 * bfloat16 numbers is exact, so that all sets agree, those without fma too, as long as no product
 * is below the normal range. */
INLINE V v_mac(V a, V b, V c) {
    c = v_fma((V)((VU)a & UPPER), (V)((VU)b & UPPER), c);
    return v_fma((V)((VU)a << 16), (V)((VU)b << 16), c);
}
#endif
#undef UPPER
#else
#define PER_OPERAND 1
typedef REAL STORED, OPERAND;
#define v_load_stored v_load
#define v_load_operand v_load
#define v_store_operand v_store
#define v_operand(t) (*(t))
#define v_spread v_set1
#define v_mac v_fma
#endif
