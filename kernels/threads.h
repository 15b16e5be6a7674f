/* One pool of threads for the whole process. A run borrows idle ones for a step and gives them
 * back, so that runs side by side share the cores: what is shared out does not depend on how
 * many take part, nor do its bits. Threads are made when first asked for, wait without taking
 * time, and are forgotten in a forked child, which makes its own. */
#ifndef HOTLOOP_THREADS_H
#define HOTLOOP_THREADS_H

#include <stdint.h>

enum { HL_MOST_THREADS = 256, HL_FORKED = -2 };

typedef struct hl_worker hl_worker;
/* Does a piece of work; `thread` is 0 for the caller and below the team's size for others. */
typedef void (*hl_piece)(void *context, int64_t piece, int thread);
typedef int (*hl_question)(void *asked);

/* The pieces that a thread begins with, the same ones every time, so that what it worked on is still
 * in its cache; then it goes on with what others have left. On a cache line of its own. */
typedef struct hl_share_of_pieces {
    _Alignas(64) int64_t next;
    int64_t end;
} hl_share_of_pieces;

/* A caller and the threads that it has borrowed. */
typedef struct hl_team {
    hl_worker *workers[HL_MOST_THREADS - 1];
    int n_workers;
    uint32_t generation; /* of the pool that they are from */
    unsigned mode;       /* of the caller's floating point: all work in the same */
    hl_piece run;
    void *context;
    hl_share_of_pieces share; /* the caller's own */
} hl_team;

/* Between these two the caller counts as a thread that works. */
void hl_begin_work(void);
void hl_end_work(void);

/* Fills a team of at most `most` threads, the caller counted in, such that no more than `limit`
 * work in the whole process; fewer where others have them. */
void hl_borrow(hl_team *team, int most, int limit);
void hl_give_back(hl_team *team);

/* Has every piece 0 .. n - 1 run once, and returns when all are done. After each piece of its own
 * the caller asks interrupted(asked), which may be NULL: where the answer is not 0, pieces not yet
 * begun are left out, and it is what is returned. HL_FORKED where the question has forked and this
 * is the child: pieces that borrowed threads had begun are lost. */
int hl_share(hl_team *team, int64_t n_pieces, hl_piece run, void *context, hl_question interrupted,
             void *asked);

/* Threads that the pool has made. */
int hl_pool_size(void);

#endif
