/* Work split into parts, on the threads that PyTorch already keeps.
 *
 * The caller hands in GOMP_parallel of the OpenMP library that is loaded (see __init__.py): a pool
 * of our own beside it would fight for the cores, as both spin between calls. All kernels use it.
 */
#ifndef USERBERT_PARALLEL_H
#define USERBERT_PARALLEL_H

#include <stdatomic.h>
#include <stddef.h>

/* GOMP_parallel; NULL where there is none: all parts then run one after the other. */
typedef void (*Fork)(void (*body)(void *), void *data, unsigned threads, unsigned flags);

typedef void (*Work)(int part, void *job);

typedef struct {
    Work work;
    void *job;
    int parts;
    atomic_int next;
} Parts;

/* Parts are drawn, not dealt: OpenMP may give fewer threads than it was asked for. */
static inline void take_parts(void *data)
{
    Parts *all = data;
    for (int part; (part = atomic_fetch_add(&all->next, 1)) < all->parts;)
        all->work(part, all->job);
}

/* Call work(part, job) for each of the parts, on so many threads; return when all are done. */
static inline void run_parts(Fork fork, int threads, int parts, Work work, void *job)
{
    Parts all = {work, job, parts, 0};
    if (fork == NULL || threads == 1)
        take_parts(&all);
    else
        fork(take_parts, &all, (unsigned)threads, 0);
}

#endif
