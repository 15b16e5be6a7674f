/* Chooses among the instruction sets. Compiled without any of their flags: it must run on every
 * processor. HL_ISA_LIST comes from the one table in setup.py. */
#include "dispatch.h"

#include <string.h>

#define HL_ISA(name, features)                                                                     \
    extern const hl_kernels hl_##name##_float32, hl_##name##_float64, hl_##name##_bfloat16_emulated;
#define HL_EXTENSION(name, features, extends, dtype) extern const hl_kernels hl_##name##_##dtype;
HL_ISA_LIST
HL_EXTENSION_LIST
#undef HL_ISA
#undef HL_EXTENSION

#define HL_ISA(name, features)                                                                     \
    {#name,                                                                                        \
     features,                                                                                     \
     NULL,                                                                                         \
     {[HL_float32] = &hl_##name##_float32,                                                         \
      [HL_float64] = &hl_##name##_float64,                                                         \
      [HL_bfloat16_emulated] = &hl_##name##_bfloat16_emulated}},
#define HL_EXTENSION(name, features, extends, dtype)                                               \
    {#name, features, #extends, {[HL_##dtype] = &hl_##name##_##dtype}},
const hl_isa hl_isas[] = {HL_ISA_LIST{0}};
const hl_isa hl_extensions[] = {HL_EXTENSION_LIST{0}};
#undef HL_ISA
#undef HL_EXTENSION

/* 1, 0, or -1 for a name that is not known here. The compiler's builtins ask CPUID, and XCR0
 * whether the system saves the registers. */
static int cpu_has(const char *feature, size_t length) {
#if defined(__x86_64__)
#define KNOWN(name)                                                                                \
    if (length == sizeof(name) - 1 && !memcmp(feature, name, length))                              \
        return !!__builtin_cpu_supports(name);
    __builtin_cpu_init();
    KNOWN("avx2")
    KNOWN("fma")
    KNOWN("avx512f")
    KNOWN("avx512dq")
    KNOWN("avx512bw")
    KNOWN("avx512vl")
    KNOWN("avx512bf16")
#undef KNOWN
#endif
    (void)feature;
    (void)length;
    return -1;
}

int hl_isa_usable(const hl_isa *isa) {
    for (const char *p = isa->features; *p;) {
        size_t length = strcspn(p, " ");
        if (cpu_has(p, length) != 1) return 0;
        p += length;
        p += strspn(p, " ");
    }
    return 1;
}

#define HL_FIELD(type, name) {#name, #type, offsetof(hl_op, name)},
const hl_field hl_op_fields[] = {HL_OP_FIELDS(HL_FIELD){NULL, NULL, 0}};
#undef HL_FIELD

#define NAME(name, ...) #name " "
const char *hl_vocabulary(const char *name) {
    if (!strcmp(name, "kinds")) return HL_KINDS(NAME);
    if (!strcmp(name, "dtypes")) return HL_DTYPES(NAME);
    if (!strcmp(name, "layouts")) return HL_LAYOUTS(NAME);
    if (!strcmp(name, "activations")) return HL_ACTIVATIONS(NAME);
    if (!strcmp(name, "losses")) return HL_LOSSES(NAME);
    if (!strcmp(name, "gradients")) return HL_GRADIENTS(NAME);
    if (!strcmp(name, "optimizers")) return HL_OPTIMIZERS(NAME);
    if (!strcmp(name, "scalars")) return HL_SCALARS(NAME);
    if (!strcmp(name, "normalizations")) return HL_NORMALIZATIONS(NAME);
    return NULL;
}
#undef NAME

#define STAGE(name, stage) #stage,
const char *const hl_stages[HL_N_KINDS] = {HL_KINDS(STAGE)};
