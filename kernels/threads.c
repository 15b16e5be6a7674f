/* See threads.h. What waits, waits in this file: a thread without work looks for some for
 * SPINS pauses, since the next stage of a step is mostly less than that away, then sleeps. */
#define _POSIX_C_SOURCE 200809L /* posix_memalign and signal masks, beside -std=c11 */
#include "threads.h"
#include "denormals.h"

#include <stdlib.h>

#define SPINS 2000

#if defined(_WIN32)
#include <windows.h>
typedef SRWLOCK lock;
typedef CONDITION_VARIABLE condition;
#define LOCK_INIT SRWLOCK_INIT
#define CONDITION_INIT CONDITION_VARIABLE_INIT
static void acquire(lock *l) { AcquireSRWLockExclusive(l); }
static void release(lock *l) { ReleaseSRWLockExclusive(l); }
static void wait(condition *c, lock *l) { SleepConditionVariableSRW(c, l, INFINITE, 0); }
static void wake(condition *c) { WakeConditionVariable(c); }
static void yield(void) { SwitchToThread(); }
static void *allocate(size_t n_bytes) { return _aligned_malloc(n_bytes, 128); }
static void deallocate(void *memory) { _aligned_free(memory); }
static void work(hl_worker *self);
static DWORD WINAPI thread_main(void *self) { return work(self), 0; }
static int start_thread(hl_worker *self) {
    HANDLE thread = CreateThread(NULL, 0, thread_main, self, 0, NULL);
    return thread && CloseHandle(thread);
}
static void on_fork(void (*in_child)(void)) { (void)in_child; }
#else
#include <pthread.h>
#include <sched.h>
#include <signal.h>
typedef pthread_mutex_t lock;
typedef pthread_cond_t condition;
#define LOCK_INIT PTHREAD_MUTEX_INITIALIZER
#define CONDITION_INIT PTHREAD_COND_INITIALIZER
static void acquire(lock *l) { pthread_mutex_lock(l); }
static void release(lock *l) { pthread_mutex_unlock(l); }
static void wait(condition *c, lock *l) { pthread_cond_wait(c, l); }
static void wake(condition *c) { pthread_cond_signal(c); }
static void yield(void) { sched_yield(); }
static void *allocate(size_t n_bytes) {
    void *memory;
    return posix_memalign(&memory, 128, n_bytes) ? NULL : memory;
}
static void deallocate(void *memory) { free(memory); }
static void work(hl_worker *self);
static void *thread_main(void *self) { return work(self), NULL; }
/* Signals are for the threads of the user: these block them all. */
static int start_thread(hl_worker *self) {
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, NULL, thread_main, self);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!failed) pthread_detach(thread);
    return !failed;
}
static void on_fork(void (*in_child)(void)) { pthread_atfork(NULL, NULL, in_child); }
#endif

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Fields are shared by the builtin atomics, which gcc, clang and clang-cl all have. */
#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define STORE(x, value) __atomic_store_n(&(x), value, __ATOMIC_RELEASE)
#define ADD(x, value) __atomic_fetch_add(&(x), value, __ATOMIC_SEQ_CST)

/* What the two sides write lies on cache lines of its own. */
struct hl_worker {
    _Alignas(128) uint32_t posted; /* number of the stage to work on, written by the borrower */
    hl_team *team;
    int thread;
    int borrowed;
    _Alignas(128) uint32_t finished; /* number of the last stage that is done */
    uint32_t asleep;
    lock lock; /* of falling asleep */
    condition woken;
    hl_share_of_pieces share; /* written by its team */
};

static lock pool_lock = LOCK_INIT;
static hl_worker *pool[HL_MOST_THREADS - 1];
static int pool_size; /* grows only, but in a forked child */
static int n_working;
static int refused;         /* the system gave no further thread: it is not asked again */
static uint32_t generation; /* of the pool: another one in a forked child */

static void forget_pool(void) {
    /* The threads are gone; their memory is lost, since one may be named in a team up the stack. */
    pool_size = 0;
    n_working = 0;
    refused = 0;
    generation++;
    pool_lock = (lock)LOCK_INIT;
}

static hl_share_of_pieces *share_of(hl_team *team, int thread) {
    return thread ? &team->workers[thread - 1]->share : &team->share;
}

/* The next piece for a thread, or -1 when all are taken. */
static int64_t take_piece(hl_team *team, int thread) {
    const int size = 1 + team->n_workers;
    for (int i = 0, from = thread; i < size; i++, from = from + 1 < size ? from + 1 : 0) {
        hl_share_of_pieces *share = share_of(team, from);
        if (LOAD(share->next) >= share->end) continue;
        int64_t piece = ADD(share->next, 1);
        if (piece < share->end) return piece;
    }
    return -1;
}

static void work(hl_worker *self) {
    for (uint32_t stage = 1;; stage++) {
        for (int i = 0; i < SPINS && LOAD(self->posted) != stage; i++) pause_briefly();
        if (LOAD(self->posted) != stage) {
            acquire(&self->lock);
            __atomic_store_n(&self->asleep, 1, __ATOMIC_SEQ_CST);
            while (__atomic_load_n(&self->posted, __ATOMIC_SEQ_CST) != stage)
                wait(&self->woken, &self->lock);
            STORE(self->asleep, 0);
            release(&self->lock);
        }
        hl_restore_denormals(self->team->mode);
        for (int64_t piece; (piece = take_piece(self->team, self->thread)) >= 0;)
            self->team->run(self->team->context, piece, self->thread);
        STORE(self->finished, stage);
    }
}

static void post(hl_worker *worker) {
    __atomic_store_n(&worker->posted, worker->posted + 1, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&worker->asleep, __ATOMIC_SEQ_CST)) return;
    acquire(&worker->lock);
    wake(&worker->woken);
    release(&worker->lock);
}

/* Makes threads until there are `size`, or as many as the system gives. */
static void grow_pool(int size) {
    static int watching_forks;
    acquire(&pool_lock);
    if (!watching_forks) on_fork(forget_pool);
    watching_forks = 1;
    while (pool_size < size && !refused) {
        hl_worker *worker = allocate(sizeof *worker);
        if (!worker) break;
        *worker = (hl_worker){.lock = LOCK_INIT, .woken = CONDITION_INIT};
        if (!start_thread(worker)) {
            deallocate(worker);
            refused = 1;
            break;
        }
        pool[pool_size] = worker;
        STORE(pool_size, pool_size + 1);
    }
    release(&pool_lock);
}

void hl_begin_work(void) { ADD(n_working, 1); }
void hl_end_work(void) {
    if (LOAD(n_working) > 0) ADD(n_working, -1); /* a child may have been forked in between */
}

void hl_borrow(hl_team *team, int most, int limit) {
    team->n_workers = 0;
    team->mode = hl_denormals_mode();
    if (most > HL_MOST_THREADS) most = HL_MOST_THREADS;
    team->generation = generation;
    if (LOAD(pool_size) < most - 1 && !LOAD(refused)) grow_pool(most - 1);
    const int size = LOAD(pool_size);
    for (int i = 0; i < size && team->n_workers < most - 1; i++) {
        int idle = 0;
        if (ADD(n_working, 1) >= limit) {
            ADD(n_working, -1);
            return;
        }
        if (!__atomic_compare_exchange_n(&pool[i]->borrowed, &idle, 1, 0, __ATOMIC_ACQ_REL,
                                         __ATOMIC_RELAXED)) {
            ADD(n_working, -1);
            continue;
        }
        pool[i]->team = team;
        team->workers[team->n_workers++] = pool[i];
        pool[i]->thread = team->n_workers;
    }
}

void hl_give_back(hl_team *team) {
    for (int i = 0; i < team->n_workers; i++) STORE(team->workers[i]->borrowed, 0);
    if (team->generation == generation) ADD(n_working, -team->n_workers);
    team->n_workers = 0;
}

int hl_share(hl_team *team, int64_t n_pieces, hl_piece run, void *context, hl_question interrupted,
             void *asked) {
    const int size = 1 + team->n_workers;
    int stop = 0;
    team->run = run;
    team->context = context;
    for (int t = 0; t < size; t++)
        *share_of(team, t) = (hl_share_of_pieces){n_pieces * t / size, n_pieces * (t + 1) / size};
    for (int i = 0; i < team->n_workers && i < n_pieces - 1; i++) post(team->workers[i]);
    for (int64_t piece; !stop && (piece = take_piece(team, 0)) >= 0;) {
        run(context, piece, 0);
        if (interrupted) stop = interrupted(asked);
    }
    for (int t = 0; stop && t < size; t++) STORE(share_of(team, t)->next, share_of(team, t)->end);
    for (int i = 0; i < team->n_workers && i < n_pieces - 1; i++) {
        const hl_worker *worker = team->workers[i];
        for (int spin = 0; LOAD(worker->finished) != worker->posted; spin++) {
            if (team->generation != generation) return HL_FORKED;
            if (spin < SPINS) pause_briefly();
            else yield();
        }
    }
    return stop;
}

int hl_pool_size(void) { return LOAD(pool_size); }
