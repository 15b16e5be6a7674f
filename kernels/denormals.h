/* Numbers below the normal range cost a hundred times a normal one, and decaying moments of units
 * that have gone silent end there. While training, they are taken for zero. */
#ifndef HOTLOOP_DENORMALS_H
#define HOTLOOP_DENORMALS_H

#if defined(__SSE__)
#include <xmmintrin.h>
#define HL_FLUSH 0x8040u /* flush results to zero, take operands for zero */
static inline unsigned hl_flush_denormals(void) {
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | HL_FLUSH);
    return mode;
}
static inline unsigned hl_denormals_mode(void) { return _mm_getcsr(); }
static inline void hl_restore_denormals(unsigned mode) {
    _mm_setcsr((_mm_getcsr() & ~HL_FLUSH) | (mode & HL_FLUSH));
}
#elif defined(__aarch64__)
#include <stdint.h>
#define HL_FLUSH ((uint64_t)1 << 24) /* FPCR.FZ: results and operands */
static inline uint64_t hl_fpcr(void) {
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static inline unsigned hl_flush_denormals(void) {
    uint64_t mode = hl_fpcr();
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | HL_FLUSH));
    return (unsigned)mode;
}
static inline unsigned hl_denormals_mode(void) { return (unsigned)hl_fpcr(); }
static inline void hl_restore_denormals(unsigned mode) {
    __asm__ volatile("msr fpcr, %0" : : "r"((hl_fpcr() & ~HL_FLUSH) | (mode & HL_FLUSH)));
}
#else
static inline unsigned hl_flush_denormals(void) { return 0; }
static inline unsigned hl_denormals_mode(void) { return 0; }
static inline void hl_restore_denormals(unsigned mode) { (void)mode; }
#endif

#endif
