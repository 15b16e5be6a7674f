/* Products of bfloat16 operands with sums in single precision, in which all else is computed, by
 * AVX512_BF16 where that is among the flags, or emulated. */
#define REAL_IS_DOUBLE 0
#define PAIRED 1
#include "kernels.h"
