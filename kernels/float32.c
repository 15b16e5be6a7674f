/* The kernels in single precision. */
#define REAL_IS_DOUBLE 0
#define PAIRED 0
#include "kernels.h"
