/* What one core can do at most: multiply-adds in registers, for both element types, those of
 * bfloat16 pairs where there is an instruction for them, and the bandwidth of a copy. Compiled once
 * for each instruction set by peak.py; prints JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define REGISTER "v"
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#define REGISTER "x"
#elif defined(__x86_64__)
#define VECTOR_BYTES 16
#define REGISTER "x"
#else
#define VECTOR_BYTES 16
#define REGISTER "w"
#endif

#define CHAINS 12 /* enough to hide the latency of two units, few enough for 16 registers */
#define REPEATS 5

static double now(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* GFLOP/s of `steps` multiply-adds in each of CHAINS independent vectors, the best of REPEATS.
 * Every loop over the chains is unrolled, so that they are registers and not an array. */
#define UNROLL _Pragma("GCC unroll 12")
#define DEFINE_PEAK(NAME, REAL, ADDS, MULTIPLY_ADD)                                                \
    static double peak_##NAME(long steps) {                                                        \
        typedef REAL vector __attribute__((vector_size(VECTOR_BYTES)));                            \
        vector chain[CHAINS], scale = (vector){0} + (REAL)0.999, shift = (vector){0} + (REAL)1e-3; \
        UNROLL for (int k = 0; k < CHAINS; k++) chain[k] = shift;                                  \
        double best = 0;                                                                           \
        for (int repeat = 0; repeat < REPEATS; repeat++) {                                         \
            double seconds = now();                                                                \
            for (long step = 0; step < steps; step++) {                                            \
                UNROLL for (int k = 0; k < CHAINS; k++) chain[k] = MULTIPLY_ADD(chain[k]);         \
            }                                                                                      \
            UNROLL for (int k = 0; k < CHAINS; k++) __asm__ volatile("" : "+" REGISTER(chain[k])); \
            seconds = now() - seconds;                                                             \
            double lanes = VECTOR_BYTES / sizeof(REAL);                                            \
            double rate = 2e-9 * (double)steps * CHAINS * lanes * ADDS / seconds;                  \
            if (rate > best) best = rate;                                                          \
        }                                                                                          \
        return best;                                                                               \
    }
#define ONE(chain) (chain * scale + shift)
DEFINE_PEAK(float32, float, 1, ONE)
DEFINE_PEAK(float64, double, 1, ONE)
#if defined(__AVX512BF16__)
#define PAIR(chain) ((vector)_mm512_dpbf16_ps((__m512)chain, (__m512bh)scale, (__m512bh)shift))
DEFINE_PEAK(bfloat16, float, 2, PAIR)
#endif

/* GB/s, read and written, of copying far more than the caches hold; the best of REPEATS. */
static double copy_bandwidth(size_t bytes) {
    char *from = malloc(bytes), *to = malloc(bytes);
    if (!from || !to) exit(1);
    memset(from, 1, bytes);
    memset(to, 2, bytes);
    double best = 0;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        double seconds = now();
        memcpy(to, from, bytes);
        __asm__ volatile("" : : "r"(to) : "memory");
        seconds = now() - seconds;
        if (2e-9 * (double)bytes / seconds > best) best = 2e-9 * (double)bytes / seconds;
    }
    free(from);
    free(to);
    return best;
}

int main(void) {
    printf("{\"float32\": %.2f, \"float64\": %.2f, ", peak_float32(10000000),
           peak_float64(10000000));
#if defined(__AVX512BF16__)
    printf("\"bfloat16\": %.2f, ", peak_bfloat16(10000000));
#endif
    printf("\"copy\": %.2f}\n", copy_bandwidth((size_t)256 << 20));
}
