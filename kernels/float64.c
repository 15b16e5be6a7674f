/* The kernels in double precision. */
#define REAL_IS_DOUBLE 1
#define PAIRED 0
#include "kernels.h"
