/* exp, log, logistic and tanh on vectors, at most 2.5 ulp, and the activations made of them, the
 * same operations in every lane: an element's bits do not depend on its place. Needs simd.h. */

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

/* x = n ln 2 + r with an integer n, |r| <= ln 2 / 2. */
INLINE V v_reduced(V x, V *n) {
    V magic = v_set1((REAL)ROUNDING_MAGIC);
    *n = v_fma(x, v_set1((REAL)0x1.71547652b82fep+0), magic) - magic;
    V r = v_fma(*n, v_set1((REAL)-LN2_HIGH), x);
    return v_fma(*n, v_set1((REAL)-LN2_LOW), r);
}

/* The Taylor series of e^r from r^first / first! on, divided by r^first. */
INLINE V v_exp_series(V r, const int first) {
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
    V p = v_set1(factorial_inverse[TAYLOR_TERMS - 1]);
#pragma GCC unroll 14
    for (int i = TAYLOR_TERMS - 2; i >= first; i--) p = v_fma(p, r, v_set1(factorial_inverse[i]));
    return p;
}

/* 2^n e^r; 2^n in two factors, so that results below the normal range and overflow come out as they
 * should. */
INLINE V v_scaled_exp(V n, V r) {
    V magic = v_set1((REAL)ROUNDING_MAGIC), p = v_exp_series(r, 0);
    V half = v_fma(n, v_set1((REAL)0.5), magic);
    V rest = n - (half - magic) + magic;
    return p * power_of_two(half) * power_of_two(rest);
}

INLINE V v_exp_bounded(V x) {
    return v_max(v_set1((REAL)EXP_SMALLEST), v_min(v_set1((REAL)EXP_LARGEST), x));
}
INLINE V v_exp(V x) {
    V n, r = v_reduced(v_exp_bounded(x), &n);
    return v_scaled_exp(n, r);
}

/* e^x - 1 for x up to 0, of the same relative accuracy near it, and e^x. */
INLINE V v_expm1(V x, V *e) {
    const REAL smallest = REAL_IS_DOUBLE ? -40 : -20; /* where it is -1 */
    V n, r = v_reduced(v_max(v_set1(smallest), x), &n);
    V scale = power_of_two(n + v_set1((REAL)ROUNDING_MAGIC));
    V p = v_fma(r * r, v_exp_series(r, 2), r);
    *e = v_fma(scale, p, scale);
    return v_fma(scale, p, scale - v_set1(1));
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

/* The normal distribution from -infinity to -a and its density there, for a >= 0: e^(-a^2 / 2) has
 * a^2 in two parts, the first exact, and what it is multiplied by, (a + 4) e^(a^2 / 2) Phi(-a), is a
 * Chebyshev series in (a - 4) / (a + 4), as Shepherd and Laframboise (1981), "Chebyshev approximation
 * of (1 + 2x) exp(x^2) erfc x in 0 <= x < infinity", have it. */
INLINE V v_normal_tail(V a, V *density) {
#if REAL_IS_DOUBLE
    static const REAL c[25] = {
        0x1.82b4bb8c94dcep-1,   -0x1.373e3a893c28cp-1,  0x1.8c6dbf2cfc2b6p-2,
        -0x1.7dff2bff68080p-3,  0x1.eec4cc3e4d100p-5,   -0x1.ee2761054501fp-8,
        -0x1.c81719d54e26dp-9,  0x1.ab825feed60c0p-10,  0x1.17a4ae564635ep-13,
        -0x1.e4a43156c4564p-13, -0x1.001ed86a94b4ep-19, 0x1.26d18d992c1ccp-15,
        0x1.80c0d49e14b3ep-21,  -0x1.8d6480ccf6ccap-18, -0x1.522419ffbc3fbp-21,
        0x1.1316b229f3154p-20,  0x1.248e0cffdb33bp-22,  -0x1.571caa0900ce5p-23,
        -0x1.7516b1aa4ba8bp-24, 0x1.3292d28468146p-26,  0x1.701f992bd400cp-26,
        -0x1.42e7f2a5e9142p-31, -0x1.005e33ccf11adp-28, -0x1.07d58223a74e6p-33,
        0x1.7632b9ac0e68ap-32};
    const REAL_INT low_bits = (INT64_C(1) << 27) - 1;
    const REAL largest = 40;
    const int terms = 25;
#else
    static const REAL c[12] = {0.755285144f,   -0.607896626f,    0.387137383f,     -0.186522156f,
                               0.0603966489f,  -0.007537717f,    -0.00347995455f,  0.00162204006f,
                               0.00013365339f, -0.000215573775f, -1.73108231e-06f, 2.11829847e-05f};
    const REAL_INT low_bits = (1 << 12) - 1;
    const REAL largest = 15;
    const int terms = 12;
#endif
    a = v_min(v_set1(largest), a); /* where all is zero */
    V inverse = v_set1(1) / (a + v_set1(4)), t = (a - v_set1(4)) * inverse;
    V series = v_set1(c[terms - 1]);
#pragma GCC unroll 25
    for (int i = terms - 2; i >= 0; i--) series = v_fma(series, t, v_set1(c[i]));
    V high = (V)((VI)a & ~low_bits), half = v_set1((REAL)0.5), n;
    V r = v_reduced(v_exp_bounded(-half * (high * high)), &n);
    V e = v_scaled_exp(n, r - half * (a - high) * (a + high));
    *density = v_set1((REAL)0.398942280401432677939946) * e;
    return e * (series * inverse);
}

/* z Phi(z), Phi being the normal distribution, and its derivative. */
INLINE V v_gelu(V z, V *slope) {
    V density, tail = v_normal_tail(v_abs(z), &density);
    V phi = v_select(v_less(z, v_zero()), tail, v_set1(1) - tail);
    *slope = v_fma(z, density, phi);
    return z * phi;
}

/* z / (1 + e^-x) and its derivative, where x has the derivative dx. */
INLINE V v_gated(V z, V x, V dx, V *slope) {
    V one = v_set1(1), e = v_exp(-v_abs(x)), inverse = one / (one + e);
    V gate = v_select(v_less(x, v_zero()), e, one) * inverse;
    *slope = v_fma(z * (e * inverse * inverse), dx, gate);
    return z * gate;
}

/* z tanh(sqrt(2 / pi) (z + 0.044715 z^3)) / 2 + z / 2. Far out the gate is 0 or 1. */
INLINE V v_gelu_tanh(V z, V *slope) {
    const REAL root = (REAL)1.59576912160573071176, cubic = (REAL)0.0713548162726002527220;
    const REAL far = REAL_IS_DOUBLE ? 32 : 16;
    V near = v_max(v_set1(-far), v_min(v_set1(far), z)), square = near * near;
    V x = near * v_fma(v_set1(cubic), square, v_set1(root));
    return v_gated(z, x, v_fma(v_set1(3 * cubic), square, v_set1(root)), slope);
}

/* z tanh(log(1 + e^z)): the tanh is m / (m + 2), m = e^z (e^z + 2); both by e^-2z where z > 0. */
INLINE V v_mish(V z, V *slope) {
    V one = v_set1(1), two = v_set1(2), e = v_exp(-v_abs(z)), twice = e + e;
    MASK negative = v_less(z, v_zero());
    V upper = v_select(negative, e * (e + two), one + twice);
    V rest = v_select(negative, two, twice * e), inverse = one / (upper + rest);
    V gate = upper * inverse, logistic = v_select(negative, e, one) / (one + e);
    *slope = v_fma(z * (rest * inverse) * ((upper + upper + rest) * inverse), logistic, gate);
    return z * gate;
}

/* scale * z above zero, scale * alpha * (e^z - 1) below. */
INLINE V v_elu(V z, V scale, V below, V *slope) {
    V e, curve = v_expm1(z, &e);
    *slope = v_select(v_less(v_zero(), z), scale, below * e);
    return v_select(v_less(z, v_zero()), below * curve, scale * z);
}

/* max(0, min(6, z + 3)) / 6 */
INLINE V v_hard_sigmoid(V z) {
    V six = v_set1(6);
    return v_max(v_zero(), v_min(six, z + v_set1(3))) / six;
}

/* An element-wise activation by its number, and its derivative at z; softmax, softmaxes and ordered
 * work on whole rows (loss.h), what is custom elsewhere (dense.h). At a kink the derivative is the
 * one that PyTorch takes. */
INLINE V v_activation_slope(enum hl_activation activation, V z, V *slope) {
    V zero = v_zero(), one = v_set1(1), h = z;
    *slope = one;
    switch (activation) {
    case HL_relu: *slope = v_select(v_less(zero, z), one, zero); return v_max(zero, z);
    case HL_logistic:
        h = v_logistic(z); /* and the other tail keeps its accuracy, too */
        *slope = h * v_logistic(-z);
        return h;
    case HL_tanh:
        h = v_tanh(z);
        *slope = one - h * h;
        return h;
    case HL_exp: return *slope = v_exp(z);
    case HL_leaky_relu: {
        V below = v_set1((REAL)0.01);
        *slope = v_select(v_less(zero, z), one, below);
        return v_select(v_less(z, zero), below * z, z);
    }
    case HL_elu: return v_elu(z, one, one, slope);
    case HL_selu:
        return v_elu(z, v_set1((REAL)1.0507009873554804934193349852946),
                     v_set1((REAL)1.7580993408473768599402175208123), slope);
    case HL_gelu: return v_gelu(z, slope);
    case HL_gelu_tanh: return v_gelu_tanh(z, slope);
    case HL_silu: return v_gated(z, z, one, slope);
    case HL_mish: return v_mish(z, slope);
    case HL_softplus: *slope = v_logistic(z); return v_max(zero, z) + v_log1p(v_exp(-v_abs(z)));
    case HL_softsign: {
        V size = one + v_abs(z), inverse = one / size;
        *slope = inverse * inverse;
        return z / size;
    }
    case HL_hard_sigmoid:
        *slope = v_select(v_less(v_abs(z), v_set1(3)), v_set1((REAL)(1.0 / 6)), zero);
        return v_hard_sigmoid(z);
    case HL_hard_swish: {
        V three = v_set1(3), line = v_fma(z, v_set1((REAL)(1.0 / 3)), v_set1((REAL)0.5));
        V outside = v_select(v_less(zero, z), one, zero);
        *slope = v_select(v_less(v_abs(z), three), line, outside);
        return z * v_hard_sigmoid(z);
    }
    case HL_identity:
    case HL_softmax:
    case HL_ordered:
    case HL_softmaxes:
    case HL_custom:
    case HL_N_ACTIVATIONS: return z;
    }
    return z;
}

INLINE V v_activation(enum hl_activation activation, V z) {
    V slope;
    return v_activation_slope(activation, z, &slope);
}
