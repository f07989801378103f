/* A pool of threads that share the parts of one job at a time.
 *
 * Parts are claimed one by one, by the calling thread too: a helper that other programs keep from running delays nothing but
 * a part that it has begun. Helpers wait some 50 microseconds for the next job, then sleep. A caller that finds the pool in
 * use by another thread does its job alone. After fork() the child starts helpers of its own.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>

#define MAX_PARTS 1024
#define MAX_THREADS 64
#define WAITS 2000

typedef void (*Work)(const void *argument, int part);

static struct {
    Work work;
    const void *argument;
    _Atomic uint64_t ticket; /* number of the job << 32 | its threads << 24 | its parts << 12 | the next part */
    atomic_int remaining, sleeping;
    int helpers;
    pthread_mutex_t user, sleep;
    pthread_cond_t wake;
} pool = {.user = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

/* Do parts until none is left. A ticket names its job: whoever holds a part of it keeps the job from ending. */
static uint32_t share(void) {
    for (;;) {
        uint64_t ticket = atomic_fetch_add(&pool.ticket, 1);
        int part = (int)(ticket & 0xfff), parts = (int)(ticket >> 12 & 0xfff);
        if (part >= parts) return (uint32_t)(ticket >> 32);
        pool.work(pool.argument, part);
        atomic_fetch_sub(&pool.remaining, 1);
    }
}

/* The ticket of a job after the one numbered `seen`. */
static uint64_t next_job(uint32_t seen) {
    uint64_t ticket;
    for (int i = 0; i < WAITS; i++, relax())
        if ((uint32_t)((ticket = atomic_load(&pool.ticket)) >> 32) != seen) return ticket;
    pthread_mutex_lock(&pool.sleep);
    atomic_fetch_add(&pool.sleeping, 1);
    while ((uint32_t)((ticket = atomic_load(&pool.ticket)) >> 32) == seen) pthread_cond_wait(&pool.wake, &pool.sleep);
    atomic_fetch_sub(&pool.sleeping, 1);
    pthread_mutex_unlock(&pool.sleep);
    return ticket;
}

static void *help(void *number) {
    uint32_t seen = 0;
    for (;;) {
        uint64_t ticket = next_job(seen);
        seen = (int)(intptr_t)number < (int)(ticket >> 24 & 0xff) ? share() : (uint32_t)(ticket >> 32);
    }
    return NULL;
}

/* As many helpers as can be had, up to `count`; they take no signals. */
static void start_helpers(int count) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (pthread_t thread; pool.helpers < count; pool.helpers++) {
        if (pthread_create(&thread, NULL, help, (void *)(intptr_t)(pool.helpers + 1))) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* work(argument, 0 ... parts - 1) by up to `threads` threads, of which the caller is one. */
static void run(Work work, const void *argument, int parts, int threads) {
    if (threads < 2 || parts < 2 || pthread_mutex_trylock(&pool.user)) {
        for (int part = 0; part < parts; part++) work(argument, part);
        return;
    }
    threads = threads < MAX_THREADS ? threads : MAX_THREADS;
    if (pool.helpers < threads - 1) start_helpers(threads - 1);
    pool.work = work, pool.argument = argument;
    atomic_store(&pool.remaining, parts);
    uint64_t number = (atomic_load(&pool.ticket) >> 32) + 1;
    atomic_store(&pool.ticket, number << 32 | (uint64_t)threads << 24 | (uint64_t)parts << 12);
    if (atomic_load(&pool.sleeping)) {
        pthread_mutex_lock(&pool.sleep);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.sleep);
    }
    share();
    for (int i = 0; atomic_load(&pool.remaining); i++) i < WAITS ? relax() : (void)sched_yield();
    pthread_mutex_unlock(&pool.user);
}

static void forget_helpers(void) {
    pthread_mutex_init(&pool.user, NULL);
    pthread_mutex_init(&pool.sleep, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pool.helpers = 0;
    atomic_store(&pool.sleeping, 0);
}

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, forget_helpers); }
