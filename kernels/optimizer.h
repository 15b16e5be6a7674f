/* Optimizer steps. A rule is one function on vectors; a new one is a row in HL_OPTIMIZERS, a
 * function here and a case in `step`. Needs simd.h. */

typedef struct step_constants {
    V rate, momentum, decay, inverse_weight, beta_2, one_minus_momentum, one_minus_beta_2, epsilon;
} step_constants;

INLINE step_constants step_constants_of(const hl_op *op, const hl_batch *batch, int32_t group) {
    const double *s = batch->scalars + group * HL_N_SCALARS;
    return (step_constants){
        .rate = v_set1((REAL)s[HL_rate]),
        .momentum = v_set1((REAL)s[HL_momentum]),
        .decay = v_set1((REAL)s[HL_decay]),
        .inverse_weight = v_set1((REAL)batch->inverse_weight),
        .beta_2 = v_set1((REAL)op->beta_2),
        .one_minus_momentum = v_set1((REAL)(1.0 - s[HL_momentum])),
        .one_minus_beta_2 = v_set1((REAL)(1.0 - op->beta_2)),
        /* never 0, or padding (0 / 0) would become NaN */
        .epsilon =
            v_set1((REAL)op->epsilon > SMALLEST_NORMAL ? (REAL)op->epsilon : SMALLEST_NORMAL),
    };
}

/* Each rule takes a weight and its gradient, overwrites the slots and returns the new weight. */

/* u = momentum u - rate g;  w += u */
INLINE V sgd(const step_constants *c, V w, V g, V *velocity) {
    *velocity = v_fma(c->momentum, *velocity, -(c->rate * g));
    return w + *velocity;
}

/* u = momentum u - rate g;  w += momentum u - rate g */
INLINE V nesterov(const step_constants *c, V w, V g, V *velocity) {
    V step = -(c->rate * g);
    *velocity = v_fma(c->momentum, *velocity, step);
    return w + v_fma(c->momentum, *velocity, step);
}

/* m = beta_1 m + (1 - beta_1) g;  v = beta_2 v + (1 - beta_2) g^2;
 * w -= rate m / (sqrt(v) + epsilon), the bias corrections being in the rate (Kingma and Ba
 * 2014, end of section 2) */
INLINE V adam(const step_constants *c, V w, V g, V *first, V *second) {
    *first = v_fma(c->momentum, *first, c->one_minus_momentum * g);
    *second = v_fma(c->beta_2, *second, c->one_minus_beta_2 * (g * g));
    return v_fma(-c->rate, v_ratio(*first, *second, c->epsilon), w);
}

INLINE V stepped(enum hl_optimizer rule, const step_constants *c, V w, V g, V *first, V *second) {
    switch (rule) {
    case HL_N_OPTIMIZERS: break;
    case HL_sgd: return sgd(c, w, g, first);
    case HL_nesterov: return nesterov(c, w, g, first);
    case HL_adam: return adam(c, w, g, first, second);
    }
    return w;
}

/* Steps n elements (a multiple of VL) by the sum of gradients g: w and the slots are overwritten,
 * the sum of the new squares is added to *squares. */
static void step(const hl_op *op, const step_constants *constants, int64_t n, const REAL *g,
                 REAL *w, REAL *slot_0, REAL *slot_1, V *squares) {
    const step_constants local = *constants, *c = &local; /* nothing that is stored can alias it */
    V sum = *squares;
#define STEP(rule)                                                                                 \
    case rule:                                                                                     \
        for (int64_t i = 0; i < n; i += VL) {                                                      \
            V wi = v_load(w + i), first = v_load(slot_0 + i), second = v_zero();                   \
            if (rule == HL_adam) second = v_load(slot_1 + i);                                      \
            V gi = v_fma(c->decay, wi, v_load(g + i)) * c->inverse_weight;                         \
            wi = stepped(rule, c, wi, gi, &first, &second);                                        \
            v_store(w + i, wi);                                                                    \
            v_store(slot_0 + i, first);                                                            \
            if (rule == HL_adam) v_store(slot_1 + i, second);                                      \
            sum = v_fma(wi, wi, sum);                                                              \
        }                                                                                          \
        break;
    switch ((enum hl_optimizer)op->optimizer) {
    case HL_N_OPTIMIZERS:
        break;
        STEP(HL_sgd)
        STEP(HL_nesterov)
        STEP(HL_adam)
    }
#undef STEP
    *squares = sum;
}
