/* A first layer on CSR input at the cost of the batch's non-zeros. Its weight lies in rows, each
 * beside the same row of the optimizer's slots: what a feature needs is few consecutive lines.
 *
 * A step touches the features that its batch has and no other. In each of the steps that pass a
 * feature by, its gradient would be the L2 penalty's alone; a feature that is touched again first
 * catches up with those (unless it is `lazy`), and all do before anyone reads the weights. Where
 * nothing decays, the missed steps are a closed form; where something does, they are taken one by
 * one in registers, each by its own rate. Needs dense.h. */

#if HL_VECTOR_REGISTERS == 32
#define MOST_VECTORS 8 /* of a row that are worked on at a time */
#define EACH_BLOCK(F, rule)                                                                        \
    F(1, rule) F(2, rule) F(3, rule) F(4, rule) F(5, rule) F(6, rule) F(7, rule) F(8, rule)
#else
#define MOST_VECTORS 4
#define EACH_BLOCK(F, rule) F(1, rule) F(2, rule) F(3, rule) F(4, rule)
#endif
/* For every number of vectors nv in a block, and for every rule of an optimizer: F(nv, rule). */
#define SWITCH_BLOCK(nv, F)                                                                        \
    switch (nv) { EACH_BLOCK(F, 0) }
#define SWITCH_BLOCK_AND_RULE(nv, optimizer, F)                                                    \
    switch ((enum hl_optimizer)(optimizer)) {                                                      \
        OTHER_RULES                                                                                \
    case HL_N_OPTIMIZERS: break;                                                                   \
    case HL_sgd:                                                                                   \
        switch (nv) { EACH_BLOCK(F, HL_sgd) }                                                      \
        break;                                                                                     \
    case HL_nesterov:                                                                              \
        switch (nv) { EACH_BLOCK(F, HL_nesterov) }                                                 \
        break;                                                                                     \
    case HL_adam:                                                                                  \
        switch (nv) { EACH_BLOCK(F, HL_adam) }                                                     \
        break;                                                                                     \
    }
/* Entries and features that are asked for ahead of time: they lie anywhere. */
#define ENTRIES_AHEAD 8
#define FEATURES_AHEAD 16

INLINE hl_feature *features_of(const hl_op *op, const hl_batch *batch) {
    return (hl_feature *)(batch->store + op->features);
}

#define LINE (64 / (int64_t)sizeof(REAL))

/* Asks for what a touched feature some places on has in the store. */
INLINE void prefetch_feature(const hl_op *op, const hl_batch *batch, int64_t place) {
    if (place + FEATURES_AHEAD >= batch->touched->n) return;
    const int64_t feature = batch->touched->features[place + FEATURES_AHEAD];
    const REAL *row = in_store(batch, op->weight) + feature * op->ld_weight;
    __builtin_prefetch(features_of(op, batch) + feature, 1);
    for (int64_t i = 0; i < op->ld_weight; i += LINE) __builtin_prefetch(row + i, 0, 2);
}

/* ------------------------------------------------------------------ index */

/* Two passes over the entries: the first finds the features and counts, the second puts each
 * entry in its feature's list. A place is a feature's if that feature is there, so nothing has to
 * be cleared between batches. */
static void csr_index(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    (void)begin, (void)end; /* one unit */
    const hl_stream *X = &batch->X;
    hl_touched *touched = batch->touched;
    hl_feature *features = features_of(op, batch);
    int64_t n = 0, k = 0;
    if (op->gradient == HL_overwrite)
        memset(in_store(batch, op->weight_gradient), 0,
               (size_t)(op->I * padded(op->O)) * sizeof(REAL));
    for (int64_t r = 0; r < batch->n; r++) {
        const int64_t row = row_of(batch, r), next = r + 1 < batch->n ? row_of(batch, r + 1) : row;
        for (int64_t e = X->indptr[next]; next != row && e < X->indptr[next + 1]; e++)
            __builtin_prefetch(features + X->indices[e]);
        for (int64_t e = X->indptr[row]; e < X->indptr[row + 1]; e++) {
            /* without a branch: whether a feature is new is anyone's guess */
            const int32_t feature = X->indices[e], last = features[feature].place;
            const int known = (last < n) & (touched->features[last] == feature);
            const int32_t place = known ? last : (int32_t)n;
            features[feature].place = place;
            touched->features[place] = feature;
            touched->ends[place] = (known ? touched->ends[place] : 0) + 1;
            touched->places[k++] = place;
            n += !known;
        }
    }
    touched->n = n;
    for (int64_t place = 0, start = 0, count; place < n; place++, start += count) {
        count = touched->ends[place];
        touched->ends[place] = start;
    }
    k = 0;
    for (int64_t r = 0; r < batch->n; r++) {
        const int64_t row = row_of(batch, r);
        for (int64_t e = X->indptr[row]; e < X->indptr[row + 1]; e++) {
            const int64_t at = touched->ends[touched->places[k++]]++;
            touched->rows[at] = (int32_t)r;
            ((REAL *)touched->values)[at] = ((const REAL *)X->data)[e];
        }
    }
}

/* ------------------------------------------------------------------ forward */

/* nv vectors of a row of the output, from its entries begin .. end. */
INLINE void csr_products(const int nv, const hl_op *op, const hl_stream *X, int64_t begin,
                         int64_t end, const REAL *W, const REAL *bias, REAL *output, int64_t last) {
    V c[MOST_VECTORS];
#pragma GCC unroll 8
    for (int j = 0; j < nv; j++) c[j] = v_load(bias + vector_at(j, nv, last));
    for (int64_t e = begin; e < end; e++) {
        const REAL *w = W + X->indices[e] * op->ld_weight;
        const V x = v_set1(((const REAL *)X->data)[e]);
        if (e + ENTRIES_AHEAD < end) {
            const REAL *ahead = W + X->indices[e + ENTRIES_AHEAD] * op->ld_weight;
#pragma GCC unroll 8
            for (int64_t i = 0; i < nv * VL; i += LINE) __builtin_prefetch(ahead + i);
        }
#pragma GCC unroll 8
        for (int j = 0; j < nv; j++) c[j] = v_fma(x, v_load(w + vector_at(j, nv, last)), c[j]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < nv; j++) v_store(output + vector_at(j, nv, last), relu_of(op, c[j]));
}

/* A row of fewer columns than a vector has lanes, from a weight without padding. */
static void csr_short_row(const hl_op *op, const hl_stream *X, int64_t begin, int64_t end,
                          const REAL *W, const REAL *bias, REAL *output) {
    V c = v_load(bias);
    for (int64_t e = begin; e < end; e++) {
        const V w = v_load_n(W + X->indices[e] * op->ld_weight, op->O);
        c = v_fma(v_set1(((const REAL *)X->data)[e]), w, c);
    }
    v_store(output, relu_of(op, c));
}

static void csr_forward(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const hl_stream *X = &batch->X;
    const REAL *bias = in_store(batch, op->bias);
    const int plain = op->weight < 0; /* no row has padding, nor the end of the weight */
    const REAL *weight = plain ? plain_weight(op, batch) : in_store(batch, op->weight);
    const int64_t width = padded(op->O), readable = plain ? op->O : width;
    REAL *output = in_arena(batch, op->output);
    for (int64_t r = begin; r < end; r++) {
        const int64_t row = row_of(batch, r), first = X->indptr[row], last = X->indptr[row + 1];
        REAL *out = output + r * op->ld_output;
        if (readable < VL) {
            csr_short_row(op, X, first, last, weight, bias, out);
            continue;
        }
        if (plain) v_store(out + width - VL, v_zero()); /* its padding */
        for (int64_t j = 0, nv; j < width; j += nv * VL) {
            nv = even_part((width - j) / VL, MOST_VECTORS);
            const int64_t at_last = j + nv * VL < width ? (nv - 1) * VL : readable - VL - j;
#define CASE(n, rule)                                                                              \
    case n: csr_products(n, op, X, first, last, weight + j, bias + j, out + j, at_last); break;
            SWITCH_BLOCK(nv, CASE)
#undef CASE
        }
    }
    activate_rows(op, batch, begin, end);
}

/* ------------------------------------------------------------------ missed steps */

/* Adam without a gradient: after i missed steps m is m0 times the product of the momenta, and
 * sqrt(v) is a (1 - lag), a = sqrt(v0), lag = 1 - beta_2^(i / 2). The move
 *
 *   sum_i rate_i m_i / (a (1 - lag_i) + epsilon) = m0 / (a + epsilon) sum_k rho^k moves[k],
 *   rho = a / (a + epsilon),   moves[k] = sum_i rate_i (m_i / m0) lag_i^k
 *
 * needs few terms as long as the first moment fades well before the second does, as by the usual
 * beta_1 and beta_2 (the terms left out are at most `rest`). For sgd the move is the velocity times
 * moves[0]. */
#if REAL_IS_DOUBLE
#define N_TERMS HL_MOVE_TERMS
#define MOVE_PRECISION 1e-15
#else
#define N_TERMS 4
#define MOVE_PRECISION 1e-7
#endif
#define NOTHING 1e-30 /* a moment of which less is kept moves nothing any more */

INLINE int decays(const hl_op *op, const hl_batch *batch) {
    return batch->scalars[op->weight_group * HL_N_SCALARS + HL_decay] != 0;
}

/* The step just taken enters the history, as one that others have missed. */
static void remember(const hl_op *op, const hl_batch *batch) {
    hl_history *h = batch->history;
    const double *s = batch->scalars + op->weight_group * HL_N_SCALARS;
    const int64_t t = h->n++;
    const double momentum = s[HL_momentum];
    double scale = 1, fading = 0; /* of a step by the first moment; of the second, its logarithm */
    switch ((enum hl_optimizer)op->optimizer) {
        OTHER_RULES
    case HL_N_OPTIMIZERS:
    case HL_sgd: break;
    case HL_nesterov: scale = momentum; break;
    case HL_adam:
        scale = s[HL_rate];
        fading = log(op->beta_2);
        break;
    }
    h->decays = decays(op, batch);
    REAL *constants = (REAL *)h->constants[t];
    constants[0] = (REAL)s[HL_rate];
    constants[1] = (REAL)momentum;
    constants[2] = (REAL)(1.0 - momentum);
    constants[3] = (REAL)s[HL_decay];
    constants[4] = (REAL)batch->inverse_weight;
    h->share[t] = 0.5 * s[HL_decay] * batch->inverse_weight * (double)batch->n;
    if (op->extended) {
        memcpy(h->scalars[t], s, sizeof h->scalars[t]);
        h->inverse_weights[t] = batch->inverse_weight;
    }
    if (h->decays || op->lazy || op->extended) return;
    for (; h->gaps <= t + 1; h->gaps++) {
        const double gap = (double)h->gaps;
        h->faded[h->gaps] = h->gaps ? exp(gap * fading) : 1;
        h->lag[h->gaps] = h->gaps ? -expm1(0.5 * gap * fading) : 0;
    }
    h->kept[t] = 1;
    h->rest[t] = 0;
    for (int k = 0; k < N_TERMS; k++) h->moves[k][t] = 0;
    while (h->live < t && h->kept[h->live] < NOTHING) h->live++;
    for (int64_t i = h->live; i <= t; i++) {
        const double lag = h->lag[t + 1 - i];
        h->kept[i] *= momentum;
        double term = scale * h->kept[i];
        for (int k = 0; k < N_TERMS; k++) {
            h->moves[k][i] += term;
            term *= lag;
        }
        if (term != 0) h->rest[i] += term / (1 - lag);
    }
}

/* Features of a stretch that catch up: what they have in common. */
typedef struct catch_up {
    const hl_op *op;
    const hl_history *history;
    step_constants constants; /* of the optimizer; the steps' own are in the history */
    V *sums;                  /* of squared weights before each step, or NULL */
} catch_up;

INLINE catch_up catch_up_of(const hl_op *op, const hl_batch *batch, V *sums) {
    static const double no_scalars[HL_N_SCALARS]; /* the batch's may be gone */
    return (catch_up){op, batch->history, step_constants_of(op, no_scalars, 0), sums};
}

INLINE step_constants missed_step(const catch_up *c, int64_t i) {
    const REAL *own = (const REAL *)c->history->constants[i];
    step_constants s = c->constants;
    s.rate = v_set1(own[0]);
    s.momentum = v_set1(own[1]);
    s.one_minus_momentum = v_set1(own[2]);
    s.decay = v_set1(own[3]);
    s.inverse_weight = v_set1(own[4]);
    return s;
}

/* nv vectors of a row take the steps from .. n one by one, without a gradient of the loss. */
INLINE void replay(const int nv, const enum hl_optimizer rule, const catch_up *c, int64_t from,
                   REAL *w, int64_t slot) {
    V W[MOST_VECTORS], first[MOST_VECTORS], second[MOST_VECTORS];
#pragma GCC unroll 8
    for (int j = 0; j < nv; j++) {
        W[j] = v_load(w + j * VL);
        first[j] = v_load(w + slot + j * VL);
        if (rule == HL_adam) second[j] = v_load(w + 2 * slot + j * VL);
    }
    for (int64_t i = from; i < c->history->n; i++) {
        const step_constants s = missed_step(c, i);
        V sum = c->sums ? c->sums[i] : v_zero();
#pragma GCC unroll 8
        for (int j = 0; j < nv; j++) {
            sum = v_fma(W[j], W[j], sum);
            V g = s.decay * W[j] * s.inverse_weight;
            W[j] = stepped(rule, &s, W[j], g, &first[j], &second[j]);
        }
        if (c->sums) c->sums[i] = sum;
    }
#pragma GCC unroll 8
    for (int j = 0; j < nv; j++) {
        v_store(w + j * VL, W[j]);
        v_store(w + slot + j * VL, first[j]);
        if (rule == HL_adam) v_store(w + 2 * slot + j * VL, second[j]);
    }
}

static void replay_row(const catch_up *c, int64_t from, REAL *row) {
    const int64_t slot = padded(c->op->O);
    for (int64_t j = 0, nv; j < slot; j += nv * VL) {
        nv = even_part((slot - j) / VL, MOST_VECTORS);
#define CASE(n, rule)                                                                              \
    case n: replay(n, rule, c, from, row + j, slot); break;
        SWITCH_BLOCK_AND_RULE(nv, c->op->optimizer, CASE)
#undef CASE
    }
}

INLINE V row_penalty(const hl_op *op, const REAL *w) {
    V sum = v_zero();
    for (int64_t j = 0; j < padded(op->O); j += VL) sum = add_penalty(op, v_load(w + j), sum);
    return sum;
}

/* The same of extended steps, over the whole row each. */
static void replay_extended(const catch_up *c, int64_t from, REAL *row) {
    const hl_op *op = c->op;
    const int64_t slot = padded(op->O), item = (int64_t)sizeof(REAL);
    REAL *average = op->weight_average < 0 ? NULL : row + (op->weight_average - op->weight) / item;
    const stepped_places at = {row, {row + slot, row + 2 * slot, row + 3 * slot}, average};
    for (int64_t i = from; i < c->history->n; i++) {
        const extended_constants constants =
            extended_constants_of(op, c->history->scalars[i], c->history->inverse_weights[i], 1);
        V unused = v_zero();
        if (c->sums) c->sums[i] += row_penalty(op, row);
        extended_step(op, &constants, slot, NULL, at, &unused);
    }
}

/* The same in closed form, where nothing decays. */
static void move_row(const catch_up *c, int64_t from, REAL *row) {
    const hl_op *op = c->op;
    const hl_history *h = c->history;
    const int64_t slot = padded(op->O);
    const V kept = v_set1((REAL)h->kept[from]), faded = v_set1((REAL)h->faded[h->n - from]);
    const V epsilon = c->constants.epsilon;
    V moves[N_TERMS];
    for (int k = 0; k < N_TERMS; k++) moves[k] = v_set1((REAL)h->moves[k][from]);
    for (int64_t j = 0; j < slot; j += VL) {
        REAL *w = row + j, *first = w + slot, *second = first + slot;
        V m = v_load(first), v, r, rho, sum;
        v_store(first, m * kept);
        switch ((enum hl_optimizer)op->optimizer) {
            OTHER_RULES
        case HL_N_OPTIMIZERS: break;
        case HL_sgd:
        case HL_nesterov: v_store(w, v_fma(moves[0], m, v_load(w))); break;
        case HL_adam:
            v = v_load(second);
            r = v_ratio(v_set1(1), v, epsilon), rho = v_fma(-epsilon, r, v_set1(1));
            sum = moves[N_TERMS - 1];
            for (int k = N_TERMS - 2; k >= 0; k--) sum = v_fma(sum, rho, moves[k]);
            v_store(w, v_fma(-(m * r), sum, v_load(w)));
            v_store(second, v * faded);
            break;
        }
    }
}

/* Takes a row from step `from` to the present. */
INLINE void advance(const catch_up *c, int64_t from, REAL *row) {
    const hl_history *h = c->history;
    if (from == h->n || c->op->lazy) return;
    if (c->op->extended) replay_extended(c, from, row);
    else if (!h->decays && h->rest[from] <= MOVE_PRECISION * h->moves[0][from])
        move_row(c, from, row);
    else replay_row(c, from, row);
}

INLINE double *counts_of(const hl_op *op, const hl_batch *batch, int64_t piece) {
    return (double *)(batch->store + op->counts) + piece * HL_MOST_COUNTED;
}

/* Each step's loss has the squares of the weights before it. A lazy feature's stay as they were
 * in the steps begin .. end that it missed. */
static void count_lazy(V squares, int64_t begin, int64_t end, double *counts) {
    const double sum = v_sum(squares);
    for (int64_t i = begin; i < end; i++) counts[i] += sum;
}

/* Takes touched features, or all, to the present: weights are as if no step had passed them by. */
static void csr_catch_up(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const hl_history *h = batch->history;
    const int32_t *touched = batch->touched ? batch->touched->features : NULL;
    hl_feature *features = features_of(op, batch);
    REAL *W = in_store(batch, op->weight);
    double *counts = counts_of(op, batch, begin / op->grain);
    V sums[HL_MOST_COUNTED];
    const catch_up c = catch_up_of(op, batch, h->decays ? sums : NULL);
    if (h->n == 0 || (op->lazy && !h->decays)) return;
    for (int i = 0; h->decays && i < HL_MOST_COUNTED; i++) sums[i] = v_zero();
    for (int64_t k = begin; k < end; k++) {
        const int64_t feature = touched ? touched[k] : k, from = features[feature].step;
        REAL *row = W + feature * op->ld_weight;
        if (touched) prefetch_feature(op, batch, k);
        if (op->lazy) count_lazy(row_penalty(op, row), from, h->n, counts);
        advance(&c, from, row);
        features[feature].step = (int32_t)h->n;
    }
    if (!h->decays || op->lazy) return;
    for (int64_t i = 0; i < h->n; i++) counts[i] += v_sum(sums[i]);
}

/* plain <- the weights or a slot, those at `packed`, as they are at present. The store stays as it
 * was: to look at it changes no bit of what follows. */
static void read_rows(const hl_op *op, const hl_batch *batch, int64_t packed, void *scratch,
                      void *plain) {
    const catch_up c = catch_up_of(op, batch, NULL);
    REAL *row = scratch;
    for (int64_t i = 0; i < op->I; i++) {
        memcpy(row, in_store(batch, op->weight) + i * op->ld_weight,
               (size_t)op->ld_weight * sizeof(REAL));
        advance(&c, features_of(op, batch)[i].step, row);
        memcpy((REAL *)plain + i * op->O, (const char *)row + (packed - op->weight),
               (size_t)op->O * sizeof(REAL));
    }
}

static double settle(const hl_op *op, const hl_batch *batch) {
    hl_history *h = batch->history;
    const int64_t pieces = (op->I + op->grain - 1) / op->grain;
    double sums[HL_MOST_COUNTED] = {0}, total = 0;
    if (h->decays) {
        for (int64_t piece = 0; piece < pieces; piece++)
            for (int64_t i = 0; i < h->n; i++) sums[i] += counts_of(op, batch, piece)[i];
        for (int64_t i = 0; i < h->n; i++) total += h->share[i] * sums[i];
    }
    memset(counts_of(op, batch, 0), 0, (size_t)(pieces * HL_MOST_COUNTED) * sizeof(double));
    for (int64_t i = 0; i < op->I; i++) features_of(op, batch)[i].step = 0;
    h->n = h->live = 0;
    return total;
}

/* -------------------------------------------------- gradient of the parameters */

/* The entries of a feature in the batch. */
typedef struct entries {
    int64_t n;
    const int32_t *rows;
    const REAL *values;
} entries;

INLINE entries entries_at(const hl_touched *touched, int64_t place) {
    const int64_t first = place ? touched->ends[place - 1] : 0;
    return (entries){touched->ends[place] - first, touched->rows + first,
                     (const REAL *)touched->values + first};
}

/* c[j] += the gradient of nv vectors of a feature's weights: one chain over its entries. */
INLINE void entries_product(const int nv, entries of, const REAL *D, int64_t ldd, V *c) {
    for (int64_t e = 0; e < of.n; e++) {
        const V x = v_set1(of.values[e]);
        const REAL *d = D + of.rows[e] * ldd;
#pragma GCC unroll 8
        for (int j = 0; j < nv; j++) c[j] = v_fma(x, v_load(d + j * VL), c[j]);
    }
}

INLINE void keep_gradient(const int nv, entries of, const REAL *D, int64_t ldd, REAL *G,
                          int accumulate) {
    V c[MOST_VECTORS];
#pragma GCC unroll 8
    for (int j = 0; j < nv; j++) c[j] = accumulate ? v_load(G + j * VL) : v_zero();
    entries_product(nv, of, D, ldd, c);
#pragma GCC unroll 8
    for (int j = 0; j < nv; j++) v_store(G + j * VL, c[j]);
}

/* The gradient, and the optimizer's step by it, without leaving the registers. */
INLINE void step_on_entries(const int nv, const enum hl_optimizer rule, const step_constants *s,
                            entries of, const REAL *D, int64_t ldd, REAL *w, int64_t slot) {
    V c[MOST_VECTORS];
#pragma GCC unroll 8
    for (int j = 0; j < nv; j++) c[j] = v_zero();
    entries_product(nv, of, D, ldd, c);
#pragma GCC unroll 8
    for (int j = 0; j < nv; j++) {
        REAL *at = w + j * VL;
        V wj = v_load(at), first = v_load(at + slot), second = v_zero();
        if (rule == HL_adam) second = v_load(at + 2 * slot);
        V g = v_fma(s->decay, wj, c[j]) * s->inverse_weight;
        v_store(at, stepped(rule, s, wj, g, &first, &second));
        v_store(at + slot, first);
        if (rule == HL_adam) v_store(at + 2 * slot, second);
    }
}

/* The same with an extended step. */
static void extended_step_on_entries(sink *s, int64_t nv, entries of, int64_t j, int64_t offset) {
    const REAL *D = in_arena(s->batch, s->op->d_output) + j;
    REAL g[MOST_VECTORS * HL_VECTOR_BYTES / sizeof(REAL)];
#define CASE(n, rule)                                                                              \
    case n: keep_gradient(n, of, D, s->op->ld_output, g, 0); break;
    SWITCH_BLOCK(nv, CASE)
#undef CASE
    extended_weights(s, g, offset + j, nv * VL);
}

static void csr_bias(sink *s) {
    const hl_op *op = s->op;
    const REAL *D = in_arena(s->batch, op->d_output);
    for (int64_t j = 0, width; j < op->O; j += width) {
        width = panel_width(op->O, j);
        sink_bias(s, (unit){.j = j, .width = width}, D + j, op->ld_output);
    }
}

/* Before a feature is stepped on: its share in the loss, and the mark that it was. */
INLINE void mark(const hl_op *op, const hl_batch *batch, int64_t feature, double *counts,
                 V *squares) {
    const int32_t now = (int32_t)batch->history->n;
    hl_feature *it = &features_of(op, batch)[feature];
    if (decays(op, batch)) {
        const V sum = row_penalty(op, in_store(batch, op->weight) + feature * op->ld_weight);
        if (op->lazy) count_lazy(sum, it->step, now + 1, counts);
        else *squares += sum;
    }
    it->step = now + 1;
}

/* The first piece of touched features has the bias as well. */
static void csr_backward_weight(const hl_op *op, const hl_batch *batch, int64_t begin,
                                int64_t end) {
    const REAL *D = in_arena(batch, op->d_output);
    const int64_t width = padded(op->O), ldd = op->ld_output;
    const int fused = op->gradient == HL_update, accumulate = op->gradient == HL_accumulate;
    sink s = sink_of(op, batch), steps = s;
    const step_constants constants = s.weight;
    double *counts = fused ? counts_of(op, batch, begin / op->grain) : NULL;
    if (begin == 0 && has_bias(op)) csr_bias(&s);
    for (int64_t k = begin; k < end; k++) {
        const int64_t feature = batch->touched->features[k];
        const entries of = entries_at(batch->touched, k);
        REAL *w = in_store(batch, op->weight) + feature * op->ld_weight;
        if (fused) {
            prefetch_feature(op, batch, k);
            mark(op, batch, feature, counts, &s.squares);
        }
        for (int64_t j = 0, nv; j < width; j += nv * VL) {
            nv = even_part((width - j) / VL, MOST_VECTORS);
            if (fused && op->extended) {
                extended_step_on_entries(&steps, nv, of, j, feature * op->ld_weight);
            } else if (fused) {
#define CASE(n, rule)                                                                              \
    case n: step_on_entries(n, rule, &constants, of, D + j, ldd, w + j, width); break;
                SWITCH_BLOCK_AND_RULE(nv, op->optimizer, CASE)
#undef CASE
            } else {
                REAL *G = in_store(batch, op->weight_gradient) + feature * width + j;
#define CASE(n, rule)                                                                              \
    case n: keep_gradient(n, of, D + j, ldd, G, accumulate); break;
                SWITCH_BLOCK(nv, CASE)
#undef CASE
            }
        }
    }
    if (fused && decays(op, batch)) counts[batch->history->n] += v_sum(s.squares);
}

/* The optimizer on gradients that were kept. */
static void csr_update(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const int64_t width = padded(op->O);
    double *counts = counts_of(op, batch, begin / op->grain);
    sink s = sink_of(op, batch);
    V squares = v_zero(); /* before the steps, as a loss has them: the sink sums those after */
    if (begin == 0 && has_bias(op)) step_bias(&s, in_store(batch, op->bias_gradient), 0, width);
    for (int64_t k = begin; k < end; k++) {
        const int64_t feature = batch->touched->features[k];
        prefetch_feature(op, batch, k);
        mark(op, batch, feature, counts, &squares);
        step_weights(&s, in_store(batch, op->weight_gradient) + feature * width,
                     feature * op->ld_weight, width);
    }
    if (decays(op, batch)) counts[batch->history->n] += v_sum(squares);
}
