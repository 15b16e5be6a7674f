/* Fully connected layers: forward, gradient of the input, gradient of the parameters with or
 * without the optimizer behind it. Needs product.h, optimizer.h, vmath.h. */

/* Rows of I in a unit of a panels weight: whole tiles, whole vectors. The last has what is left,
 * down to half as many and up to half as many more. */
#define UNIT_ROWS 96
#define MOST_UNIT_ROWS (UNIT_ROWS + UNIT_ROWS / 2)
#define NARROW_COLUMNS (8 * VL) /* columns of I in a unit of a narrow weight */
/* Elements of a unit of either layout, and those that it may pack of both sides of the product. */
#define UNIT_SIZE (MOST_UNIT_ROWS * 3 * VL)
#define PACKED_SIZE (COLUMNS_BLOCK * (MOST_UNIT_ROWS + 3 * VL))

INLINE REAL *in_arena(const hl_batch *batch, int64_t offset) {
    return (REAL *)(batch->arena + offset);
}
INLINE REAL *in_store(const hl_batch *batch, int64_t offset) {
    return (REAL *)(batch->store + offset);
}
INLINE const STORED *stored(const hl_batch *batch, int64_t offset) {
    return (const STORED *)(batch->arena + offset);
}
INLINE const void *plain_weight(const hl_op *op, const hl_batch *batch) {
    return batch->plain_weights[-1 - op->weight];
}
INLINE int64_t row_of(const hl_batch *batch, int64_t r) {
    return batch->order ? (int64_t)batch->order[r] : batch->first + r;
}

#if PAIRED
/* Rows that a product or a gather wrote, for the next product to read. Padding becomes zero. */
static void round_rows(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
        const REAL *input = in_arena(batch, op->input) + r * op->ld_input;
        STORED *output = (STORED *)(batch->arena + op->output) + r * op->ld_output;
        int64_t o = 0;
        for (; o + VL <= op->O; o += VL) v_store_stored(output + o, v_load(input + o));
        if (o < op->O) v_store_stored(output + o, v_load_n(input + o, op->O - o));
    }
}
#endif

/* ------------------------------------------------------------------ forward */

/* relu is computed before a result is stored: by a rows_tile, or by these. */
INLINE V relu_of(const hl_op *op, V c) {
    return op->activation == HL_relu ? v_max(v_zero(), c) : c;
}
INLINE REAL relu_of_one(const hl_op *op, REAL z) {
    return op->activation == HL_relu && z < 0 ? 0 : z;
}

/* Where vector j of nv in a row starts: the last may go over columns of the one before, to end where
 * a row without padding does. */
INLINE int64_t vector_at(int j, const int nv, int64_t last) { return j < nv - 1 ? j * VL : last; }

/* The user's activation of rows that were just written, and where training needs it its slope. */
static void activate_custom(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const hl_function *f = &batch->functions[op->function];
    for (int64_t r = begin; r < end; r++) {
        REAL *row = in_arena(batch, op->output) + r * op->ld_output;
        if (op->slope < 0) f->activate(row, (intptr_t)op->O);
        else
            f->activate_and_slope(row, in_arena(batch, op->slope) + r * op->ld_slope,
                                  (intptr_t)op->O);
    }
}

/* Rows of one activation, and where they are kept its slopes. */
INLINE void activate_as(enum hl_activation activation, const int keep, const hl_op *op,
                        REAL *output, REAL *slopes, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
        REAL *row = output + r * op->ld_output, *kept = keep ? slopes + r * op->ld_slope : NULL;
        V slope;
        int64_t o = 0;
        for (; o + VL <= op->O; o += VL) {
            v_store(row + o, v_activation_slope(activation, v_load(row + o), &slope));
            if (keep) v_store(kept + o, slope);
        }
        if (o == op->O) continue;
        const int64_t n = op->O - o;
        v_store_n(row + o, n, v_activation_slope(activation, v_load_n(row + o, n), &slope));
        if (keep) v_store_n(kept + o, n, slope);
    }
}

/* The other activations run over rows that were just written. `slopes` is NULL where none are
 * kept. */
static void activate(const hl_op *op, REAL *output, REAL *slopes, int64_t begin, int64_t end) {
    switch ((enum hl_activation)op->activation) {
#define CASE(name)                                                                                 \
    case HL_##name:                                                                                \
        if (slopes) activate_as(HL_##name, 1, op, output, slopes, begin, end);                     \
        else if (HL_##name != HL_identity && HL_##name != HL_relu)                                 \
            activate_as(HL_##name, 0, op, output, NULL, begin, end);                               \
        break;
        HL_ACTIVATIONS(CASE)
#undef CASE
    case HL_N_ACTIVATIONS: break;
    }
}

static void activate_rows(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    if (op->activation == HL_custom) activate_custom(op, batch, begin, end);
    else
        activate(op, in_arena(batch, op->output), op->slope < 0 ? NULL : in_arena(batch, op->slope),
                 begin, end);
}

#if !PAIRED
/* Dot products of R rows with one row of a narrow weight: lanes along I, VL partial sums
 * combined by v_sum. */
INLINE void dots(const int R, const REAL *A, int64_t lda, const REAL *w, int64_t I, REAL *sums) {
    V c[8];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) c[r] = v_zero();
    int64_t i = 0;
    for (; i + VL <= I; i += VL) {
        V wi = v_load(w + i);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) c[r] = v_fma(v_load(A + r * lda + i), wi, c[r]);
    }
    if (i < I) {
        V wi = v_load(w + i);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) c[r] = v_fma(v_load_n(A + r * lda + i, I - i), wi, c[r]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) sums[r] = v_sum(c[r]);
}

static void narrow_forward(const hl_op *op, const hl_batch *batch, const REAL *A, int64_t lda,
                           int64_t begin, int64_t end) {
    const REAL *W = in_store(batch, op->weight), *bias = in_store(batch, op->bias);
    REAL *output = in_arena(batch, op->output), sums[8];
    for (int64_t r = begin; r < end;) {
        int64_t rows = end - r >= 8 ? 8 : 1;
        for (int64_t o = 0; o < op->O; o++) {
            const REAL *w = W + o * padded(op->I);
            if (rows == 8) dots(8, A + r * lda, lda, w, op->I, sums);
            else dots(1, A + r * lda, lda, w, op->I, sums);
            for (int64_t i = 0; i < rows; i++) {
                REAL *out = output + (r + i) * op->ld_output + o;
                *out = relu_of_one(op, bias[o] + sums[i]);
            }
        }
        r += rows;
    }
}

#endif

static void dense_forward(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    int64_t lda = op->from_stream ? batch->X.n_cols : op->ld_input;
    const STORED *A = op->from_stream ? (const STORED *)batch->X.data + batch->first * lda
                                      : stored(batch, op->input);
    const int plain = op->weight < 0;
    const void *W = plain ? plain_weight(op, batch) : in_store(batch, op->weight);
#if !PAIRED
    if (op->layout == HL_narrow) narrow_forward(op, batch, A, lda, begin, end);
    else
#endif
        rows_product_run((rows_product){.K = operands(op->I),
                                        .lda = lda / PER_OPERAND,
                                        .ldb = op->O,
                                        .ldc = op->ld_output,
                                        .A = (const OPERAND *)A,
                                        .B = W,
                                        .packed = plain ? (OPERAND *)batch->scratch : NULL,
                                        .start = in_store(batch, op->bias),
                                        .C = in_arena(batch, op->output),
                                        .epilogue = op->activation == HL_relu ? RELU : STORE},
                         !plain, op->O, begin, end);
    activate_rows(op, batch, begin, end);
}

/* ------------------------------------------------------- gradient of the input */

/* The slope of the activation that made an input: kept, or known from that. */
INLINE enum epilogue slope_of(const hl_op *op) {
    if (op->slope >= 0) return TIMES_SLOPE;
    switch (op->activation) {
    case HL_relu: return TIMES_RELU_SLOPE;
    case HL_logistic: return TIMES_LOGISTIC_SLOPE;
    case HL_tanh: return TIMES_TANH_SLOPE;
    default: return STORE;
    }
}

static void dense_backward_input(const hl_op *op, const hl_batch *batch, int64_t begin,
                                 int64_t end) {
    int narrow = op->layout == HL_narrow;
    int64_t weight = narrow ? op->weight : op->mirror;
    rows_product_run((rows_product){.K = operands(op->O),
                                    .lda = op->ld_output / PER_OPERAND,
                                    .ldb = padded(op->I),
                                    .ldc = op->ld_d_input,
                                    .A = (const OPERAND *)stored(batch, op->d_output),
                                    .B = (const OPERAND *)(batch->store + weight),
                                    .output = stored(batch, op->input),
                                    .ld_output = op->ld_input,
                                    .slope = op->slope < 0 ? NULL : in_arena(batch, op->slope),
                                    .ld_slope = op->ld_slope,
                                    .C = in_arena(batch, op->d_input),
                                    .epilogue = slope_of(op)},
                     !narrow, op->I, begin, end);
}

/* --------------------------------------------------- units of a parameter */

/* A unit's weights: `runs` runs of `length` elements, `stride` apart, the first at `offset`;
 * they are rows i .. i + rows (of I) by columns j .. j + width (of O), or the transpose of that
 * in a narrow weight. The unit with bias set also has the bias of its columns. Units of a panels
 * weight go along O first, so that the columns of the input that they share stay in the cache. */
typedef struct unit {
    int64_t i, rows, j, width, offset, length, stride, runs;
    int bias;
} unit;

INLINE unit unit_of(const hl_op *op, int64_t k) {
    unit u;
    if (op->layout == HL_narrow) {
        int64_t left = padded(op->I) - k * NARROW_COLUMNS;
        u.i = u.offset = k * NARROW_COLUMNS;
        u.rows = u.length = left < NARROW_COLUMNS ? left : NARROW_COLUMNS;
        u.j = 0;
        u.width = u.runs = op->O;
        u.stride = padded(op->I);
        u.bias = k == 0;
    } else if (op->layout == HL_rows) {
        u.i = k * UNIT_ROWS;
        u.rows = u.runs = op->I - u.i < UNIT_ROWS ? op->I - u.i : UNIT_ROWS;
        u.j = 0;
        u.width = u.length = padded(op->O);
        u.stride = op->ld_weight;
        u.offset = u.i * op->ld_weight;
        u.bias = k == 0;
    } else {
        u.i = k / panels(op->O) * UNIT_ROWS;
        u.rows = op->I - u.i < MOST_UNIT_ROWS ? op->I - u.i : UNIT_ROWS;
        u.j = k % panels(op->O) * NR;
        u.width = panel_width(op->O, u.j);
        u.offset = u.j * op->I + u.i * u.width;
        u.length = u.stride = u.rows * u.width;
        u.runs = 1;
        u.bias = u.i == 0;
    }
    return u;
}

/* Transposes VL vectors in place, by log2(VL) rounds of exchanges between lanes 2^s apart. */
INLINE void transpose(V t[]) {
    VI lane;
    for (int i = 0; i < VL; i++) lane[i] = i;
#pragma GCC unroll 4
    for (int s = 1; s < VL; s *= 2) {
        VI low = lane + ((VI)((lane & s) != 0) & (REAL_INT)(VL - s)), high = low + s;
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++)
            if (!(i & s)) {
                V a = t[i], b = t[i + s];
                t[i] = v_shuffle2(a, b, low);
                t[i + s] = v_shuffle2(a, b, high);
            }
    }
}

/* mirror <- transpose of the unit's weights; rows past I become zero columns. */
static void mirror_unit(const hl_op *op, const hl_batch *batch, unit u) {
    const REAL *W = in_store(batch, op->weight) + u.offset;
    OPERAND *mirror = (OPERAND *)(batch->store + op->mirror);
    for (int64_t i = 0; i < u.rows; i += VL) {
        int64_t panel = panel_of(op->I, u.i + i), width = panel_width(op->I, panel);
        OPERAND *column = mirror + panel * operands(op->O) + (u.i + i - panel);
        for (int64_t j = 0; j < u.width; j += VL) {
            V t[HL_VECTOR_BYTES / sizeof(REAL)];
            for (int64_t k = 0; k < VL; k++)
                t[k] = i + k < u.rows ? v_load(W + (i + k) * u.width + j) : v_zero();
            transpose(t);
            for (int64_t k = 0; k < VL && u.j + j + k < op->O; k += PER_OPERAND)
                v_store_operand(column + (u.j + j + k) / PER_OPERAND * width, v_operand(t + k));
        }
    }
}

/* Products read the unit's weights elsewhere than the optimizer does, where they are rounded. */
static void operand_unit(const hl_op *op, const hl_batch *batch, unit u) {
    const REAL *W = in_store(batch, op->weight) + u.offset;
    OPERAND *panel = (OPERAND *)(batch->store + op->operand) + u.j * operands(op->I);
    for (int64_t i = 0; i < u.rows; i += PER_OPERAND)
        for (int64_t j = 0; j < u.width; j += VL) {
            V t[PER_OPERAND];
            for (int64_t k = 0; k < PER_OPERAND; k++)
                t[k] = i + k < u.rows ? v_load(W + (i + k) * u.width + j) : v_zero();
            v_store_operand(panel + (u.i + i) / PER_OPERAND * u.width + j, v_operand(t));
        }
}

/* What products read of weights that were just written. */
INLINE void refresh_unit(const hl_op *op, const hl_batch *batch, unit u) {
    if (PAIRED) operand_unit(op, batch, u);
    if (op->mirror >= 0) mirror_unit(op, batch, u);
}

/* What a step keeps up to date besides the weights, made anew for weights from elsewhere. */
static void prepare(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    if (op->squares < 0) return; /* predictions need neither */
    for (int64_t k = begin; k < end; k++) {
        unit u = unit_of(op, k);
        V sum = v_zero();
        for (int64_t run = 0; run < u.runs; run++) {
            const REAL *w = in_store(batch, op->weight) + u.offset + run * u.stride;
            for (int64_t i = 0; i < u.length; i += VL) sum = add_penalty(op, v_load(w + i), sum);
        }
        ((double *)(batch->store + op->squares))[k] = v_sum(sum);
        refresh_unit(op, batch, u);
    }
}

static double sum_squares(const hl_op *op, const hl_batch *batch) {
    const double *squares = (const double *)(batch->store + op->squares);
    double sum = 0;
    for (int64_t u = 0; u < op->units; u++) sum += squares[u];
    return sum;
}

/* -------------------------------------------------- gradient of the parameters */

/* sums[c] = sum over rows of D[r, c], c < width: four chains over r mod 4, combined pairwise.
 * A single unpadded column (ldd 1) has its lanes along the rows instead. */
static void column_sums(const STORED *D, int64_t ldd, int64_t rows, int64_t width, REAL *sums) {
#if !PAIRED
    if (ldd == 1) {
        V c = v_zero();
        for (int64_t r = 0; r < rows; r += VL) c += v_load_n(D + r, rows - r < VL ? rows - r : VL);
        v_store(sums, v_zero());
        sums[0] = v_sum(c);
        return;
    }
#endif
    for (int64_t j = 0; j < width; j += VL) {
        V c[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
        int64_t r = 0;
        for (; r + 4 <= rows; r += 4)
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) c[k] += v_load_stored(D + (r + k) * ldd + j);
        for (; r < rows; r++) c[r % 4] += v_load_stored(D + r * ldd + j);
        v_store(sums + j, (c[0] + c[1]) + (c[2] + c[3]));
    }
}

/* Where a gradient goes once it is known: it is stepped on at once, or kept. */
typedef struct sink {
    const hl_op *op;
    const hl_batch *batch;
    step_constants weight, bias;
    V squares;
} sink;

INLINE sink sink_of(const hl_op *op, const hl_batch *batch) {
    sink s = {.op = op, .batch = batch, .squares = v_zero()};
    if (op->gradient == HL_update) {
        const double inverse = batch->inverse_weight;
        s.weight = step_constants_of(op, scalars_of(batch, op->weight_group), inverse);
        s.bias = step_constants_of(op, scalars_of(batch, op->bias_group), inverse);
    }
    return s;
}

/* The element of a buffer in the store at an offset from its start, or NULL if there is none. */
INLINE REAL *element_of(const hl_batch *batch, int64_t place, int64_t offset) {
    return place < 0 ? NULL : in_store(batch, place) + offset;
}

/* What clips all gradients alike; 1 where nothing does. */
INLINE REAL clip_scale_of(const hl_op *op, const hl_batch *batch) {
    return op->clip_scale < 0 ? 1 : *in_store(batch, op->clip_scale);
}

INLINE stepped_places weights_at(const hl_op *op, const hl_batch *batch, int64_t offset) {
    return (stepped_places){element_of(batch, op->weight, offset),
                            {element_of(batch, op->weight_slot_0, offset),
                             element_of(batch, op->weight_slot_1, offset),
                             element_of(batch, op->weight_slot_2, offset)},
                            element_of(batch, op->weight_average, offset)};
}

static void extended_weights(sink *s, const REAL *g, int64_t offset, int64_t n) {
    const hl_op *op = s->op;
    const extended_constants c =
        extended_constants_of(op, scalars_of(s->batch, op->weight_group), s->batch->inverse_weight,
                              clip_scale_of(op, s->batch));
    extended_step(op, &c, n, g, weights_at(op, s->batch, offset), &s->squares);
}

static void extended_bias(sink *s, const REAL *g, int64_t offset, int64_t n) {
    const hl_op *op = s->op;
    const hl_batch *batch = s->batch;
    V unused = v_zero();
    const extended_constants c = extended_constants_of(
        op, scalars_of(batch, op->bias_group), batch->inverse_weight, clip_scale_of(op, batch));
    extended_step(op, &c, n, g,
                  (stepped_places){element_of(batch, op->bias, offset),
                                   {element_of(batch, op->bias_slot_0, offset),
                                    element_of(batch, op->bias_slot_1, offset),
                                    element_of(batch, op->bias_slot_2, offset)},
                                   element_of(batch, op->bias_average, offset)},
                  &unused);
}

INLINE void step_weights(sink *s, const REAL *g, int64_t offset, int64_t n) {
    const hl_batch *batch = s->batch;
    if (s->op->extended) {
        extended_weights(s, g, offset, n);
        return;
    }
    step(s->op, &s->weight, n, g, in_store(batch, s->op->weight) + offset,
         in_store(batch, s->op->weight_slot_0) + offset,
         in_store(batch, s->op->weight_slot_1) + offset, &s->squares);
}

INLINE void step_bias(sink *s, const REAL *g, int64_t offset, int64_t n) {
    const hl_batch *batch = s->batch;
    V unused = v_zero();
    if (s->op->extended) {
        extended_bias(s, g, offset, n);
        return;
    }
    step(s->op, &s->bias, n, g, in_store(batch, s->op->bias) + offset,
         in_store(batch, s->op->bias_slot_0) + offset, in_store(batch, s->op->bias_slot_1) + offset,
         &unused);
}

/* A bias that follows a normalisation is not the product's: NORM_UPDATE steps on it. */
INLINE int has_bias(const hl_op *op) { return op->bias >= 0; }

static void sink_bias(sink *s, unit u, const STORED *D, int64_t ldd) {
    REAL sums[3 * VL];
    int64_t width = padded(u.width);
    column_sums(D, ldd, s->batch->n, width, sums);
    if (s->op->gradient == HL_update) {
        step_bias(s, sums, u.j, width);
        return;
    }
    REAL *kept = in_store(s->batch, s->op->bias_gradient) + u.j;
    for (int64_t j = 0; j < width; j += VL) {
        V g = v_load(sums + j);
        v_store(kept + j, s->op->gradient == HL_accumulate ? v_load(kept + j) + g : g);
    }
}

/* Columns of A without the gaps between its rows, for batches whose rows spread over more pages
 * than the processor keeps track of; or as operands for a reduction over the rows. */
static void pack_columns(const STORED *A, int64_t lda, int64_t n, int64_t columns, int64_t ld,
                         OPERAND *packed) {
    for (int64_t k = 0; k < n; k += PER_OPERAND)
        for (int64_t i = 0; i < columns; i += VL) {
            const STORED *a = A + k * lda + i;
            OPERAND *there = packed + k / PER_OPERAND * ld + i;
            __builtin_prefetch(a + PREFETCH_ROWS * lda);
#if PAIRED
            static const STORED none[VL];
            __builtin_prefetch(a + (PREFETCH_ROWS + 1) * lda);
            v_store_operand(there, v_zip_stored(a, k + 1 < n ? a + lda : none));
#else
            v_store(there, v_load(a));
#endif
        }
}

/* A unit's tiles over K rows of the batch: C (rows of I by columns of O) = A' D, or D' A in a narrow
 * weight; added to C if it continues. A and D start at the unit's first column. What the optimizer
 * will read is asked for meanwhile, where it is `next`. */
static void unit_products(const sink *s, unit u, REAL *C, int64_t ld, const OPERAND *A, int64_t lda,
                          const OPERAND *D, int64_t ldd, int64_t K, int continues, int next) {
    const hl_op *op = s->op;
    const int narrow = op->layout == HL_narrow;
    int64_t rows = narrow ? u.runs : u.rows, columns = narrow ? u.length : u.width;
    const OPERAND *left = narrow ? D : A, *right = narrow ? A : D;
    int64_t ld_left = narrow ? ldd : lda, ld_right = narrow ? lda : ldd;
    const int64_t stepped[] = {op->weight, op->weight_slot_0, op->weight_slot_1};
    int64_t tile = 0;
    for (int64_t r = 0, mr; r < rows; r += mr, tile++) {
        mr = even_part(rows - r, most_rows(narrow ? NR : columns));
        int64_t asked = tile / 3 * (K / 4) * VL;
        const REAL *soon = (const REAL *)left;
        if (next && !narrow && asked < u.length && stepped[tile % 3] >= 0)
            soon = in_store(s->batch, stepped[tile % 3]) + u.offset + asked;
        int64_t across = !narrow ? columns : mr == 1 ? 8 * VL : mr == 2 ? 4 * VL : NR;
        for (int64_t c = 0; c < columns; c += across) {
            int64_t width = columns - c < across ? columns - c : across;
            columns_tile_any(mr, width, K, left + r, ld_left, right + c, ld_right, C + r * ld + c,
                             ld, continues, soon);
        }
    }
}

/* Gradients of the units begin .. end, which have their rows of I in common, at `units`, UNIT_SIZE
 * apart, or where they are kept. All take some rows of the batch before any takes the next, so that
 * what they read of the input stays in the cache. */
static void units_gradient(const sink *s, int64_t begin, int64_t end, REAL *units) {
    const hl_op *op = s->op;
    const hl_batch *batch = s->batch;
    const int fused = op->gradient == HL_update, narrow = op->layout == HL_narrow;
    const int64_t n = operands(batch->n), block = even_part(n, COLUMNS_BLOCK);
    OPERAND *packed = (OPERAND *)(units + op->grain * UNIT_SIZE);
    OPERAND *columns = packed + COLUMNS_BLOCK * MOST_UNIT_ROWS;
    for (int64_t b = 0; b < n; b += block) {
        const int64_t K = n - b < block ? n - b : block, row = b * PER_OPERAND;
        const int64_t rows = K * PER_OPERAND < batch->n - row ? K * PER_OPERAND : batch->n - row;
        for (int64_t k = begin; k < end; k++) {
            const unit u = unit_of(op, k);
            const STORED *A = stored(batch, op->input) + row * op->ld_input + u.i;
            const STORED *D = stored(batch, op->d_output) + row * op->ld_output + u.j;
            const OPERAND *a = (const OPERAND *)A, *d = (const OPERAND *)D;
            int64_t lda = op->ld_input, ldd = op->ld_output;
            if (op->pack_input) {
                a = packed, lda = MOST_UNIT_ROWS;
                if (k == begin) pack_columns(A, op->ld_input, rows, u.rows, lda, packed);
            }
            if (PAIRED) {
                d = columns, ldd = 3 * VL;
                pack_columns(D, op->ld_output, rows, u.width, ldd, columns);
            }
            unit_products(s, u,
                          fused ? units + (k - begin) * UNIT_SIZE
                                : in_store(batch, op->weight_gradient) + u.offset,
                          narrow ? (fused ? u.length : u.stride) : u.width, a, lda, d, ldd, K,
                          b > 0 || op->gradient == HL_accumulate, fused && b + block >= n);
        }
    }
}

static void dense_backward_weight(const hl_op *op, const hl_batch *batch, int64_t begin,
                                  int64_t end) {
    const STORED *D = stored(batch, op->d_output);
    REAL *units = (REAL *)batch->scratch;
    sink s = sink_of(op, batch);
    for (int64_t first = begin, last; first < end; first = last) {
        const int64_t i = unit_of(op, first).i;
        for (last = first + 1; last < end && unit_of(op, last).i == i;) last++;
        units_gradient(&s, first, last, units);
        for (int64_t k = first; k < last; k++) {
            const unit u = unit_of(op, k);
            if (u.bias && has_bias(op)) sink_bias(&s, u, D + u.j, op->ld_output);
            if (op->gradient != HL_update) continue;
            s.squares = v_zero();
            for (int64_t run = 0; run < u.runs; run++)
                step_weights(&s, units + (k - first) * UNIT_SIZE + run * u.length,
                             u.offset + run * u.stride, u.length);
            refresh_unit(op, batch, u);
            ((double *)(batch->store + op->squares))[k] = v_sum(s.squares);
        }
    }
}

/* Rows begin .. end are a shard. Its gradients stay with who made its rows. */
static void dense_backward_shard(const hl_op *op, const hl_batch *batch, int64_t begin,
                                 int64_t end) {
    const int64_t place = begin / op->shard_rows * op->shard_bytes;
    hl_op shard = *op;
    hl_batch rows = *batch;
    shard.input += begin * op->ld_input * (int64_t)sizeof(STORED);
    shard.d_output += begin * op->ld_output * (int64_t)sizeof(STORED);
    shard.weight_gradient += place;
    shard.bias_gradient += place;
    rows.n = end - begin;
    dense_backward_weight(&shard, &rows, 0, op->units);
}

/* n elements of the gradient at a place in the store: of the shards in order, if there are any. */
static const REAL *whole_gradient(const hl_op *op, const hl_batch *batch, int64_t place,
                                  int64_t n) {
    if (op->shard_rows < 0) return in_store(batch, place);
    REAL *sums = (REAL *)batch->scratch;
    const int64_t shards = (batch->n - 1) / op->shard_rows + 1;
    for (int64_t i = 0; i < n; i += VL) {
        V sum = v_load(in_store(batch, place) + i);
        for (int64_t shard = 1; shard < shards; shard++)
            sum += v_load(in_store(batch, place + shard * op->shard_bytes) + i);
        v_store(sums + i, sum);
    }
    return sums;
}

/* The optimizer on gradients that a BACKWARD_WEIGHT or a BACKWARD_SHARD kept. Those of the first
 * take the same steps in the same order as when they are fused, so have the same bits. */
static void update(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    sink s = sink_of(op, batch);
    for (int64_t k = begin; k < end; k++) {
        unit u = unit_of(op, k);
        s.squares = v_zero();
        for (int64_t run = 0; run < u.runs; run++) {
            int64_t offset = u.offset + run * u.stride;
            int64_t place = op->weight_gradient + offset * (int64_t)sizeof(REAL);
            step_weights(&s, whole_gradient(op, batch, place, u.length), offset, u.length);
        }
        if (u.bias && has_bias(op)) {
            int64_t place = op->bias_gradient + u.j * (int64_t)sizeof(REAL);
            step_bias(&s, whole_gradient(op, batch, place, padded(u.width)), u.j, padded(u.width));
        }
        refresh_unit(op, batch, u);
        ((double *)(batch->store + op->squares))[k] = v_sum(s.squares);
    }
}

/* ------------------------------------------------- norms of gradients and of weights */

/* Sum of squares of n elements of the mean gradient, its penalty included. */
static double mean_squares(const hl_op *op, const extended_constants *c, const REAL *w,
                           const REAL *g, int64_t n) {
    V sum = v_zero();
    for (int64_t i = 0; i < n; i += VL) {
        const V gi = penalised(op, c, v_load(w + i), v_load(g + i));
        sum = v_fma(gi, gi, sum);
    }
    return v_sum(sum);
}

static void gradient_squares(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const double inverse = batch->inverse_weight, *s = scalars_of(batch, op->weight_group);
    const extended_constants of_weight = extended_constants_of(op, s, inverse, 1);
    const extended_constants of_bias =
        extended_constants_of(op, scalars_of(batch, op->bias_group), inverse, 1);
    for (int64_t k = begin; k < end; k++) {
        const unit u = unit_of(op, k);
        double sum = 0;
        for (int64_t run = 0; run < u.runs; run++) {
            const int64_t offset = u.offset + run * u.stride;
            sum += mean_squares(op, &of_weight, in_store(batch, op->weight) + offset,
                                in_store(batch, op->weight_gradient) + offset, u.length);
        }
        if (u.bias && has_bias(op))
            sum += mean_squares(op, &of_bias, in_store(batch, op->bias) + u.j,
                                in_store(batch, op->bias_gradient) + u.j, padded(u.width));
        ((double *)(batch->store + op->norms))[k] = sum;
    }
}

/* As torch.nn.utils.clip_grad_norm_ has it. */
static void gradient_norm(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    (void)begin, (void)end; /* one unit */
    const double *norms = (const double *)(batch->store + op->norms);
    double sum = 0;
    for (int64_t i = 0; i < op->I; i++) sum += norms[i];
    const double scale = op->clip_norm / (sqrt(sum) + 1e-6);
    *in_store(batch, op->clip_scale) = (REAL)(scale > 1 ? 1 : scale);
}

/* Shrinks n weights by a factor, and the average by what they lose: it has them already. */
INLINE void shrink_weights(V scale, V unaveraged, REAL *w, REAL *average) {
    const V old = v_load(w), new = scale *old;
    v_store(w, new);
    if (average) v_store(average, v_fma(unaveraged, new - old, v_load(average)));
}

/* 1 where a column is short enough; one whose sum of squares is infinite becomes 0, and NaN stays. */
INLINE V limit_of(V squares, V most) {
    const V norm = v_sqrt(squares);
    return v_select(v_less(most, norm), most / norm, v_set1(1));
}

/* Units k, k + step .. to the last are up to date again. */
static void prepare_from(const hl_op *op, const hl_batch *batch, int64_t k, int64_t step) {
    for (unit u = {0}; u.i + u.rows < op->I; k += step) {
        u = unit_of(op, k);
        prepare(op, batch, k, k + 1);
    }
}

/* The columns of the units begin .. end, which are the panels of a panels weight; else there is
 * one unit for all. */
static void max_norm(const hl_op *op, const hl_batch *batch, int64_t begin, int64_t end) {
    const V most = v_set1((REAL)op->max_norm);
    const V rest = v_set1((REAL)(1.0 - scalars_of(batch, op->weight_group)[HL_average]));
    REAL *W = in_store(batch, op->weight), *A = element_of(batch, op->weight_average, 0);
    if (op->layout == HL_narrow) {
        for (int64_t o = 0; o < op->O; o++) {
            const int64_t at = o * padded(op->I);
            V sum = v_zero();
            for (int64_t i = at; i < at + padded(op->I); i += VL)
                sum = v_fma(v_load(W + i), v_load(W + i), sum);
            const V scale = limit_of(v_set1(v_sum(sum)), most);
            if (scale[0] == 1) continue;
            for (int64_t i = at; i < at + padded(op->I); i += VL)
                shrink_weights(scale, rest, W + i, A ? A + i : NULL);
        }
        prepare_from(op, batch, 0, 1);
        return;
    }
    for (int64_t p = begin; p < end; p++) {
        const int64_t first = p * NR, width = panel_width(op->O, first);
        for (int64_t j = 0; j < width; j += VL) {
            const int64_t at = first * op->I + j;
            V sum = v_zero();
            for (int64_t i = 0; i < op->I; i++) {
                const V w = v_load(W + at + i * width);
                sum = v_fma(w, w, sum);
            }
            const V scale = limit_of(sum, most);
            for (int64_t i = 0; i < op->I; i++)
                shrink_weights(scale, rest, W + at + i * width, A ? A + at + i * width : NULL);
        }
        prepare_from(op, batch, p, panels(op->O));
    }
}

/* ------------------------------------------------- packing for the store and back */

#define COPY_ROWS 32

/* Copies a weight between its packed layout and rows of O: `packed` is written where `to_store` is
 * set, `plain` otherwise. Some rows at a time, since both sides are far apart on their own. */
INLINE void copy_weight(const hl_op *op, REAL *packed, REAL *plain, const int to_store) {
    const int narrow = op->layout == HL_narrow, rows = op->layout == HL_rows;
    for (int64_t begin = 0; begin < op->I; begin += COPY_ROWS) {
        const int64_t end = begin + COPY_ROWS < op->I ? begin + COPY_ROWS : op->I;
        for (int64_t j = 0, width; j < op->O; j += width) {
            width = narrow ? 1 : rows ? op->O : panel_width(op->O, j);
            const int64_t n = op->O - j < width ? op->O - j : width;
            const int64_t ld = rows ? op->ld_weight : width;
            REAL *panel = packed + j * (narrow ? padded(op->I) : op->I);
            for (int64_t i = begin; i < end; i++) {
                REAL *there = panel + i * ld, *here = plain + i * op->O + j;
                memcpy(to_store ? there : here, to_store ? here : there, (size_t)n * sizeof(REAL));
            }
        }
    }
}

/* The store was zeroed when it was made; padding is never written. A weight that the store has no
 * room for is read where it lies. */
static void pack(const hl_op *op, char *store, int64_t packed_weight, int64_t packed_bias,
                 void *weight, void *bias) {
    if (packed_weight >= 0) copy_weight(op, (REAL *)(store + packed_weight), weight, 1);
    memcpy(store + packed_bias, bias, (size_t)op->O * sizeof(REAL));
}

static void unpack(const hl_op *op, char *store, int64_t packed_weight, int64_t packed_bias,
                   void *weight, void *bias) {
    copy_weight(op, (REAL *)(store + packed_weight), weight, 0);
    memcpy(bias, store + packed_bias, (size_t)op->O * sizeof(REAL));
}
