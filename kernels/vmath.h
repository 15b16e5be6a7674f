/* exp, log, logistic and tanh on vectors, at most 2.5 ulp, the same operations in every lane:
 * an element's bits do not depend on its place. Needs simd.h. */

#if REAL_IS_DOUBLE
#define MANTISSA_BITS 52
#define EXPONENT_BIAS INT64_C(1023)
#define ROUNDING_MAGIC 0x1.8p52
#define LN2_HIGH 0x1.62e42feep-1
#define LN2_LOW 0x1.a39ef35793c76p-33
#define EXP_LARGEST 710.0
#define EXP_SMALLEST -746.0
#define TAYLOR_TERMS 14
#else
#define MANTISSA_BITS 23
#define EXPONENT_BIAS INT32_C(127)
#define ROUNDING_MAGIC 0x1.8p23f
#define LN2_HIGH 0x1.63p-1f
#define LN2_LOW -0x1.bd0106p-13f
#define EXP_LARGEST 89.5f
#define EXP_SMALLEST -105.0f
#define TAYLOR_TERMS 8
#endif

/* 2^t for a t that carries an integer in the low bits of its mantissa (t = n + ROUNDING_MAGIC). */
INLINE V power_of_two(V t) { return (V)(((VI)t + EXPONENT_BIAS) << MANTISSA_BITS); }

/* e^x = 2^n e^r, |r| <= ln 2 / 2, by the Taylor series of e^r; 2^n in two factors, so that
 * results below the normal range and overflow come out as they should. */
INLINE V v_exp(V x) {
    static const REAL factorial_inverse[14] = {1.0,
                                               1.0,
                                               0.5,
                                               1.0 / 6,
                                               1.0 / 24,
                                               1.0 / 120,
                                               1.0 / 720,
                                               1.0 / 5040,
                                               1.0 / 40320,
                                               1.0 / 362880,
                                               1.0 / 3628800,
                                               1.0 / 39916800,
                                               1.0 / 479001600,
                                               1.0 / 6227020800.0};
    V magic = v_set1((REAL)ROUNDING_MAGIC);
    x = v_max(v_set1((REAL)EXP_SMALLEST), v_min(v_set1((REAL)EXP_LARGEST), x));
    V n = v_fma(x, v_set1((REAL)0x1.71547652b82fep+0), magic) - magic;
    V r = v_fma(n, v_set1((REAL)-LN2_HIGH), x);
    r = v_fma(n, v_set1((REAL)-LN2_LOW), r);
    V p = v_set1(factorial_inverse[TAYLOR_TERMS - 1]);
#pragma GCC unroll 14
    for (int i = TAYLOR_TERMS - 2; i >= 0; i--) p = v_fma(p, r, v_set1(factorial_inverse[i]));
    V half = v_fma(n, v_set1((REAL)0.5), magic);
    V rest = n - (half - magic) + magic;
    return p * power_of_two(half) * power_of_two(rest);
}

/* log x = k ln 2 + log m, m in [sqrt(1/2), sqrt(2)), by the atanh series of (m - 1) / (m + 1)
 * as in FreeBSD's msun (e_log.c). For x positive and in the normal range. */
INLINE V v_log(V x) {
#if REAL_IS_DOUBLE
    static const REAL c[7] = {0x1.5555555555593p-1, 0x1.999999997fa04p-2, 0x1.2492494229359p-2,
                              0x1.c71c51d8e78afp-3, 0x1.7466496cb03dep-3, 0x1.39a09d078c69fp-3,
                              0x1.2f112df3e5244p-3};
    const REAL_INT sqrt_half = INT64_C(0x3fe6a09e667f3bcd);
    const int terms = 7;
#else
    static const REAL c[4] = {0xaaaaaa.0p-24f, 0xccce13.0p-25f, 0x91e9ee.0p-25f, 0xf89e26.0p-26f};
    const REAL_INT sqrt_half = INT32_C(0x3f3504f3);
    const int terms = 4;
#endif
    VI bits = (VI)x - sqrt_half;
    VI k = bits >> MANTISSA_BITS;
    V m = (V)((bits & (((REAL_INT)1 << MANTISSA_BITS) - 1)) + sqrt_half);
    V kf = __builtin_convertvector(k, V);
    V f = m - v_set1(1);
    V s = f / (v_set1(2) + f), z = s * s;
    V series = v_set1(c[terms - 1]);
    for (int i = terms - 2; i >= 0; i--) series = v_fma(series, z, v_set1(c[i]));
    V half_square = v_set1((REAL)0.5) * f * f;
    V low = v_fma(s, v_fma(series, z, half_square), kf * v_set1((REAL)LN2_LOW));
    return v_fma(kf, v_set1((REAL)LN2_HIGH), f - (half_square - low));
}

/* log(1 + x) for 1 + x positive and in the normal range, of full relative accuracy around 0: what
 * rounding took from 1 + x is put back. */
INLINE V v_log1p(V x) {
    V one = v_set1(1), u = one + x;
    return v_log(u) + (x - (u - one)) / u;
}

/* 1 / (1 + e^-x), from e^-|x| so that both tails keep their relative accuracy. */
INLINE V v_logistic(V x) {
    V one = v_set1(1), e = v_exp(-v_abs(x));
    return v_select(v_less(x, v_zero()), e, one) / (one + e);
}

/* tanh: Cephes' odd form for |x| < 0.625 (Moshier, tanh.c and tanhf.c), else from e^2|x|. */
INLINE V v_tanh(V x) {
    V a = v_abs(x), z = x * x;
#if REAL_IS_DOUBLE
    V p = v_fma(v_fma(v_set1(-9.64399179425052238628e-1), z, v_set1(-9.92877231001918586564e1)), z,
                v_set1(-1.61468768441708447952e3));
    V q = v_fma(v_fma(z + v_set1(1.12811678491632931402e2), z, v_set1(2.23548839060100448583e3)), z,
                v_set1(4.84406305325125486048e3));
    V small = v_fma(x * z, p / q, x);
#else
    V p = v_fma(v_set1(-5.70498872745e-3f), z, v_set1(2.06390887954e-2f));
    p = v_fma(p, z, v_set1(-5.37397155531e-2f));
    p = v_fma(p, z, v_set1(1.33314422036e-1f));
    p = v_fma(p, z, v_set1(-3.33332819422e-1f));
    V small = v_fma(x * z, p, x);
#endif
    V large = v_copysign(v_set1(1) - v_set1(2) / (v_exp(a + a) + v_set1(1)), x);
    return v_select(v_less(a, v_set1((REAL)0.625)), small, large);
}

/* An element-wise activation by its number; softmax and ordered work on whole rows (loss.h). */
INLINE V v_activation(enum hl_activation activation, V z) {
    switch (activation) {
    case HL_relu: return v_max(v_zero(), z);
    case HL_logistic: return v_logistic(z);
    case HL_tanh: return v_tanh(z);
    case HL_exp: return v_exp(z);
    case HL_identity:
    case HL_softmax:
    case HL_ordered:
    case HL_custom: /* dense.h */
    case HL_N_ACTIVATIONS: return z;
    }
    return z;
}
