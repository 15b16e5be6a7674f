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
#else
static inline unsigned hl_flush_denormals(void) { return 0; }
static inline unsigned hl_denormals_mode(void) { return 0; }
static inline void hl_restore_denormals(unsigned mode) { (void)mode; }
#endif

#endif
