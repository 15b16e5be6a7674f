/* A monotonic clock, in seconds. */
#ifndef HOTLOOP_CLOCK_H
#define HOTLOOP_CLOCK_H

#ifdef _WIN32
#include <windows.h>
static inline double hl_seconds(void) {
    LARGE_INTEGER ticks, frequency;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&frequency);
    return (double)ticks.QuadPart / (double)frequency.QuadPart;
}
#else
#include <time.h>
static inline double hl_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
#endif

#endif
