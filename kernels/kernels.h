/* All kernels for one element type and one instruction set, as a value. Included once by a
 * translation unit that has said which: REAL_IS_DOUBLE, PAIRED, HL_ISA_NAME, and the compiler's
 * flags. */
#include "abi.h"

#include <math.h>
#include <string.h>

#include "simd.h"
#include "vmath.h"
#include "product.h"
#include "optimizer.h"
#include "dense.h"
#include "muon.h"
#if !PAIRED
#include "csr.h"
#include "loss.h"
#include "norm.h"
#include "philox.h"
#include "augment.h"
#include "row.h"
#endif

#define HL_JOIN(a, b, c) a##b##_##c
#define HL_TABLE(isa, dtype) HL_JOIN(hl_, isa, dtype)
#if PAIRED && defined(__AVX512BF16__)
#define HL_THIS_TABLE HL_TABLE(HL_ISA_NAME, bfloat16)
#elif PAIRED
#define HL_THIS_TABLE HL_TABLE(HL_ISA_NAME, bfloat16_emulated)
#elif REAL_IS_DOUBLE
#define HL_THIS_TABLE HL_TABLE(HL_ISA_NAME, float64)
#else
#define HL_THIS_TABLE HL_TABLE(HL_ISA_NAME, float32)
#endif

const hl_kernels HL_THIS_TABLE = {
    .geometry = {.vector_lanes = VL,
                 .panel_width = NR,
                 .unit_rows = UNIT_ROWS,
                 .most_unit_rows = MOST_UNIT_ROWS,
                 .narrow_columns = NARROW_COLUMNS,
                 .unit_size = UNIT_SIZE,
                 .packed_size = PACKED_SIZE,
                 .reduction = ROWS_BLOCK,
                 .counted_steps = HL_MOST_COUNTED},
    .run =
        {
#if PAIRED
            [HL_ROUND] = round_rows,
#else
            [HL_CSR_INDEX] = csr_index,
            [HL_CSR_CATCH_UP] = csr_catch_up,
            [HL_GATHER] = gather,
            [HL_CSR_FORWARD] = csr_forward,
            [HL_LOSS] = loss,
            [HL_OUTPUT] = output_rows,
            [HL_CSR_BACKWARD_WEIGHT] = csr_backward_weight,
            [HL_CSR_UPDATE] = csr_update,
            [HL_BATCH_STATISTICS] = batch_statistics,
            [HL_NORMALIZE] = normalize,
            [HL_NORM_GRADIENT] = norm_gradient,
            [HL_NORMALIZE_BACKWARD] = normalize_backward,
            [HL_NORM_UPDATE] = norm_update,
            [HL_DROPOUT] = dropout,
            [HL_NOISE] = noise,
            [HL_PARTNER_GATHER] = partner_gather,
            [HL_PARTNER_LOSS] = partner_loss,
            [HL_MIX] = mix_rows,
            [HL_MUON_SQUARES] = muon_squares,
            [HL_MUON_SCALE] = muon_scale,
            [HL_MUON_GRAM] = muon_gram,
            [HL_MUON_POLYNOMIAL] = muon_polynomial,
            [HL_MUON_APPLY] = muon_apply,
#endif
            [HL_DENSE_FORWARD] = dense_forward,
            [HL_DENSE_BACKWARD_INPUT] = dense_backward_input,
            [HL_DENSE_BACKWARD_SHARD] = dense_backward_shard,
            [HL_DENSE_BACKWARD_WEIGHT] = dense_backward_weight,
            [HL_UPDATE] = update,
            [HL_GRADIENT_SQUARES] = gradient_squares,
            [HL_GRADIENT_NORM] = gradient_norm,
            [HL_MAX_NORM] = max_norm,
            [HL_MUON_UPDATE] = muon_update,
        },
    .prepare = prepare,
#if !PAIRED
    .sum_loss = sum_loss,
    .sum_weights = sum_weights,
    .remember = remember,
    .read = read_rows,
    .settle = settle,
    .row_forward = row_forward,
    .all_finite = all_finite,
    .random_bits = random_bits,
    .random_uniform = random_uniform,
#endif
    .sum_squares = sum_squares,
    .pack = pack,
    .unpack = unpack,
};
