/* Row orders from NumPy's legacy random stream, bit for bit what RandomState.shuffle draws.
 * MT19937: Matsumoto and Nishimura (1998), "Mersenne Twister", ACM TOMACS 8(1). */
#ifndef HOTLOOP_SHUFFLE_H
#define HOTLOOP_SHUFFLE_H

#include <stdint.h>

#define MT_WORDS 624
#define MT_SHIFT 397

static inline uint32_t mt_twist(uint32_t here, uint32_t next, uint32_t far) {
    uint32_t y = (here & 0x80000000u) | (next & 0x7fffffffu);
    return far ^ (y >> 1) ^ (-(y & 1u) & 0x9908b0dfu);
}

static void mt_refill(uint32_t *key) {
    int i = 0;
    for (; i < MT_WORDS - MT_SHIFT; i++) key[i] = mt_twist(key[i], key[i + 1], key[i + MT_SHIFT]);
    for (; i < MT_WORDS - 1; i++)
        key[i] = mt_twist(key[i], key[i + 1], key[i + MT_SHIFT - MT_WORDS]);
    key[i] = mt_twist(key[i], key[0], key[MT_SHIFT - 1]);
}

static inline uint32_t mt_temper(uint32_t y) {
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

/* Fisher-Yates from the end; an index in 0 .. i is the first draw not above i, of as many bits
 * as i has. A draw above i swaps i with itself: a branch on it would be guessed wrong too often.
 * For n <= 2^32. Advances key and position. */
static inline void hl_shuffle(uint32_t *key, int *position, int64_t n, intptr_t *order) {
    uint32_t drawn[MT_WORDS];
    int at = *position;
    for (int k = at; k < MT_WORDS; k++) drawn[k] = mt_temper(key[k]);
    uint32_t mask = 0;
    while (mask < n - 1) mask = mask << 1 | 1;
    for (int64_t i = n - 1; i > 0;) {
        if (at == MT_WORDS) {
            mt_refill(key);
            for (int k = 0; k < MT_WORDS; k++) drawn[k] = mt_temper(key[k]);
            at = 0;
        }
        while (mask >> 1 >= i) mask >>= 1;
        uint32_t draw = drawn[at++] & mask;
        int64_t j = draw <= i ? draw : i;
        intptr_t last = order[i];
        order[i] = order[j];
        order[j] = last;
        i -= draw <= i;
    }
    *position = at;
}

#endif
