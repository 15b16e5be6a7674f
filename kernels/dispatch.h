/* The instruction sets that were compiled in, and which of them this processor can run. */
#ifndef HOTLOOP_DISPATCH_H
#define HOTLOOP_DISPATCH_H

#include "abi.h"

/* In order of preference; ends with a row whose name is NULL. */
extern const hl_isa hl_isas[];

/* Kernels that some processors with the instruction set `extends` can run besides; the same. */
extern const hl_isa hl_extensions[];

/* 1 if processor and operating system have every feature the set needs. */
int hl_isa_usable(const hl_isa *isa);

/* The fields of hl_op, for the dtype that Python sees; ends with a row whose name is NULL. */
typedef struct hl_field {
    const char *name;
    const char *type; /* its C type */
    int64_t offset;
} hl_field;
extern const hl_field hl_op_fields[];

/* Names of a vocabulary of abi.h by its own name ("kinds", "layouts", ...), separated by
 * spaces and in the order of their values; NULL for an unknown one. */
const char *hl_vocabulary(const char *name);

/* The stage of each kind, in the order of the kinds. */
extern const char *const hl_stages[HL_N_KINDS];

#endif
