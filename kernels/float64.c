/* The kernels in double precision. */
#define REAL_IS_DOUBLE 1
#include "kernels.h"
