/* Optimizer steps. A rule is one function on vectors; a new one is a row in HL_OPTIMIZERS, a
 * function here and a case in `step`. Needs simd.h. */

typedef struct step_constants {
    V rate, momentum, decay, inverse_weight, beta_2, one_minus_momentum, one_minus_beta_2, epsilon;
} step_constants;

/* Never 0, or padding (0 / 0) would become NaN. */
INLINE V epsilon_of(double epsilon) {
    return v_set1((REAL)epsilon > SMALLEST_NORMAL ? (REAL)epsilon : SMALLEST_NORMAL);
}

INLINE step_constants step_constants_of(const hl_op *op, const double *s, double inverse_weight) {
    return (step_constants){
        .rate = v_set1((REAL)s[HL_rate]),
        .momentum = v_set1((REAL)s[HL_momentum]),
        .decay = v_set1((REAL)s[HL_decay]),
        .inverse_weight = v_set1((REAL)inverse_weight),
        .beta_2 = v_set1((REAL)op->beta_2),
        .one_minus_momentum = v_set1((REAL)(1.0 - s[HL_momentum])),
        .one_minus_beta_2 = v_set1((REAL)(1.0 - op->beta_2)),
        .epsilon = epsilon_of(op->epsilon),
    };
}

INLINE const double *scalars_of(const hl_batch *batch, int32_t group) {
    return batch->scalars + group * HL_N_SCALARS;
}

/* Rules whose ops are always `extended`, in a switch of those that may not be. */
#define OTHER_RULES                                                                                \
    case HL_amsgrad:                                                                               \
    case HL_nadam:                                                                                 \
    case HL_rmsprop:                                                                               \
    case HL_adagrad:                                                                               \
    case HL_lion:

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
    case HL_sgd: return sgd(c, w, g, first);
    case HL_nesterov: return nesterov(c, w, g, first);
    case HL_adam: return adam(c, w, g, first, second); OTHER_RULES
    case HL_N_OPTIMIZERS: break;
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
        OTHER_RULES
    case HL_N_OPTIMIZERS:
        break;
        STEP(HL_sgd)
        STEP(HL_nesterov)
        STEP(HL_adam)
    }
#undef STEP
    *squares = sum;
}

/* ------------------------------------------------------------------ extended steps */

/* What a penalised weight adds to twice the penalty over alpha: w^2, or with an L1 part
 * (1 - l1_ratio) w^2 + 2 l1_ratio |w|. */
INLINE V add_penalty(const hl_op *op, V w, V sum) {
    const REAL l1 = (REAL)op->l1_ratio;
    if (l1 == 0) return v_fma(w, w, sum);
    return v_fma(v_set1(1 - l1) * w, w, v_fma(v_set1(2 * l1), v_abs(w), sum));
}

/* -1, 0 or 1; NaN stays. */
INLINE V v_sign(V x) {
    return v_select(v_less(v_zero(), x), v_set1(1), v_select(v_less(x, v_zero()), v_set1(-1), x));
}

typedef struct extended_constants {
    step_constants plain; /* decay being that of the L2 part, epsilon multiplied by correction */
    V l1, shrink, gradient_rate, clip_scale, clip_value, average;
} extended_constants;

INLINE extended_constants extended_constants_of(const hl_op *op, const double *s,
                                                double inverse_weight, REAL clip_scale) {
    extended_constants c = {
        .plain = step_constants_of(op, s, inverse_weight),
        .l1 = v_set1((REAL)(s[HL_decay] * op->l1_ratio)),
        .shrink = v_set1((REAL)s[HL_shrink]),
        .gradient_rate = v_set1((REAL)s[HL_gradient_rate]),
        .clip_scale = v_set1(clip_scale),
        .clip_value = v_set1((REAL)op->clip_value),
        .average = v_set1((REAL)s[HL_average]),
    };
    c.plain.decay = v_set1((REAL)(s[HL_decay] * (1 - op->l1_ratio)));
    c.plain.epsilon = epsilon_of(op->epsilon * s[HL_correction]);
    return c;
}

/* The mean gradient with its penalty, before it is clipped. */
INLINE V penalised(const hl_op *op, const extended_constants *c, V w, V g) {
    V sum = v_fma(c->plain.decay, w, g);
    if (op->l1_ratio != 0) sum = v_fma(c->l1, v_sign(w), sum);
    return sum * c->plain.inverse_weight;
}

/* As adam, but the largest v so far takes the place of v (Reddi, Kale and Kumar 2018). */
INLINE V amsgrad(const step_constants *c, V w, V g, V slots[]) {
    adam(c, w, g, &slots[0], &slots[1]);
    slots[2] = v_max(slots[2], slots[1]);
    return v_fma(-c->rate, v_ratio(slots[0], slots[2], c->epsilon), w);
}

/* m and v as adam; w -= (rate m + gradient_rate g) / (sqrt(v) + epsilon) (Dozat 2016) */
INLINE V nadam(const extended_constants *x, V w, V g, V slots[]) {
    const step_constants *c = &x->plain;
    adam(c, w, g, &slots[0], &slots[1]);
    return w - v_ratio(v_fma(c->rate, slots[0], x->gradient_rate * g), slots[1], c->epsilon);
}

/* v = beta_2 v + (1 - beta_2) g^2;  u = momentum u + g / (sqrt(v) + epsilon);  w -= rate u */
INLINE V rmsprop(const step_constants *c, V w, V g, V slots[]) {
    slots[1] = v_fma(c->beta_2, slots[1], c->one_minus_beta_2 * (g * g));
    slots[0] = v_fma(c->momentum, slots[0], v_ratio(g, slots[1], c->epsilon));
    return v_fma(-c->rate, slots[0], w);
}

/* s += g^2;  w -= rate g / (sqrt(s) + epsilon)  (Duchi, Hazan and Singer 2011) */
INLINE V adagrad(const step_constants *c, V w, V g, V slots[]) {
    slots[0] = v_fma(g, g, slots[0]);
    return v_fma(-c->rate, v_ratio(g, slots[0], c->epsilon), w);
}

/* w -= rate sign(beta_1 m + (1 - beta_1) g);  m = beta_2 m + (1 - beta_2) g  (Chen et al. 2023) */
INLINE V lion(const step_constants *c, V w, V g, V slots[]) {
    const V step = v_sign(v_fma(c->momentum, slots[0], c->one_minus_momentum * g));
    slots[0] = v_fma(c->beta_2, slots[0], c->one_minus_beta_2 * g);
    return v_fma(-c->rate, step, w);
}

INLINE V extended_rule(const enum hl_optimizer rule, const extended_constants *c, V w, V g,
                       V slots[]) {
    switch (rule) {
    case HL_sgd:
    case HL_nesterov:
    case HL_adam: return stepped(rule, &c->plain, w, g, &slots[0], &slots[1]);
    case HL_amsgrad: return amsgrad(&c->plain, w, g, slots);
    case HL_nadam: return nadam(c, w, g, slots);
    case HL_rmsprop: return rmsprop(&c->plain, w, g, slots);
    case HL_adagrad: return adagrad(&c->plain, w, g, slots);
    case HL_lion: return lion(&c->plain, w, g, slots);
    case HL_N_OPTIMIZERS: break;
    }
    return w;
}

INLINE int n_slots_of(const enum hl_optimizer rule) {
    switch (rule) {
    case HL_sgd:
    case HL_nesterov:
    case HL_adagrad:
    case HL_lion: return 1;
    case HL_adam:
    case HL_nadam:
    case HL_rmsprop: return 2;
    case HL_amsgrad: return 3;
    case HL_N_OPTIMIZERS: break;
    }
    return 0;
}

/* Where a weight and what goes with it are; the average NULL if there is none. */
typedef struct stepped_places {
    REAL *weight, *slots[3], *average;
} stepped_places;

INLINE void extended_loop(const enum hl_optimizer rule, const hl_op *op,
                          const extended_constants *constants, int64_t n, const REAL *g,
                          stepped_places at, V *squares) {
    const extended_constants local = *constants, *c = &local;
    const int n_slots = n_slots_of(rule), clips = op->clip_value < INFINITY;
    V sum = *squares;
    for (int64_t i = 0; i < n; i += VL) {
        V w = v_load(at.weight + i), slots[3];
#pragma GCC unroll 3
        for (int k = 0; k < n_slots; k++) slots[k] = v_load(at.slots[k] + i);
        V gi = penalised(op, c, w, g ? v_load(g + i) : v_zero()) * c->clip_scale;
        if (clips) gi = v_min(c->clip_value, v_max(-c->clip_value, gi));
        w = extended_rule(rule, c, c->shrink * w, gi, slots);
        v_store(at.weight + i, w);
#pragma GCC unroll 3
        for (int k = 0; k < n_slots; k++) v_store(at.slots[k] + i, slots[k]);
        if (at.average) {
            const V a = v_load(at.average + i);
            v_store(at.average + i, v_fma(c->average, a - w, w));
        }
        sum = add_penalty(op, w, sum);
    }
    *squares = sum;
}

/* Steps as `step` does, with all that an op may ask for besides: clipped gradients, a penalty with
 * an L1 part, weights that shrink, an average of them. A gradient of NULL is zero. */
static void extended_step(const hl_op *op, const extended_constants *c, int64_t n, const REAL *g,
                          stepped_places at, V *squares) {
#define STEP(rule)                                                                                 \
    case rule: extended_loop(rule, op, c, n, g, at, squares); break;
    switch ((enum hl_optimizer)op->optimizer) {
    case HL_N_OPTIMIZERS:
        break;
        STEP(HL_sgd)
        STEP(HL_nesterov)
        STEP(HL_adam)
        STEP(HL_amsgrad)
        STEP(HL_nadam)
        STEP(HL_rmsprop)
        STEP(HL_adagrad)
        STEP(HL_lion)
    }
#undef STEP
}
