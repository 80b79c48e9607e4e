/* Runs the parts of a job on PyTorch's thread pool; all kernels use it.
 *
 * The caller passes GOMP_parallel of the loaded OpenMP library (see __init__.py). A second thread
 * pool would compete for the cores, because both pools spin between calls.
 */
#ifndef USERBERT_PARALLEL_H
#define USERBERT_PARALLEL_H

#include <stdatomic.h>
#include <stddef.h>

/* Type of GOMP_parallel. If it is NULL, all parts run one after the other. */
typedef void (*Parallel)(void (*body)(void *), void *data, unsigned threads, unsigned flags);

typedef void (*Work)(int part, void *job);

typedef struct {
    Work work;
    void *job;
    int parts;
    atomic_int next;
} Parts;

/* Each free thread takes the next part, as OpenMP may start fewer threads than requested. */
static inline void take_parts(void *data)
{
    Parts *all = data;
    for (int part; (part = atomic_fetch_add(&all->next, 1)) < all->parts;)
        all->work(part, all->job);
}

/* Calls work(part, job) for every part on `threads` threads; returns when all are done. */
static inline void run_parts(Parallel parallel, int threads, int parts, Work work, void *job)
{
    Parts all = {work, job, parts, 0};
    if (parallel == NULL || threads == 1)
        take_parts(&all);
    else
        parallel(take_parts, &all, (unsigned)threads, 0);
}

#endif
