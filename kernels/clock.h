/* A monotonic clock, in seconds. */
#ifndef HOTLOOP_CLOCK_H
#define HOTLOOP_CLOCK_H

#ifdef _WIN32
#include <windows.h>
static inline double hl_seconds(void) { return (double)GetTickCount64() * 1e-3; }
#else
#include <time.h>
static inline double hl_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
#endif

#endif
