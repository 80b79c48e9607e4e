/* Memory layout of an encoder call: arrays kept for the backward pass, and scratch memory.
 *
 * In: a call. Out: a job with its plan and arrays, which encoder.c runs. Nothing is computed here.
 *
 * Shapes: B users, T tokens of all users, n tokens of a group, H hidden, F feed-forward, A heads.
 */
#ifndef USERBERT_LAYOUT_H
#define USERBERT_LAYOUT_H

#include "attention.h"
#include "call.h"
#include "gemm.h"
#include "plan.h"

/* Arrays of one layer that the backward pass needs. */
typedef struct {
    uint16_t *qkv;                 /* queries, keys, values: (n, 3H) */
    Softmax *softmax;              /* (n, A) */
    uint16_t *context;             /* output of the attention: (n, H) */
    uint16_t *activation, *slope;  /* GELU and its derivative: (n, F); slope may be NULL */
    float *normalized[2];          /* output of the norms before gain and shift: (n, H) */
    float *inverse_std[2];         /* 1 / σ of the norms: (n,) */
} Kept;

/* One thread's scratch memory, for the rows of a group. */
typedef struct {
    float *x, *sums;                 /* (n, H) */
    uint16_t *rounded;               /* (n, H) */
    int32_t *keys;                   /* keys of dropout: (n,) */
    uint16_t *wide;                  /* (n, max(F, 3H)) */
    uint16_t *context;               /* (n, H) */
    uint32_t *pairs, *wide_pairs[2]; /* (n / 2, H), (n / 2, max(F, 3H)) */
    AttentionScratch attention;
    Kept kept;                       /* without training: one set of arrays for all layers */
    float *gradients;                /* gradients of all parameters */
} Scratch;

typedef struct {
    const Call *call;
    bool backward;
    Plan plan;
    Kept *kept;         /* (layers,) */
    Scratch *buffers;   /* (parts,): scratch memory of each thread */
    /* (layers, MAPS): the weights, packed for the forward and the backward pass */
    Right *forward_maps, *backward_maps;
    int64_t parameters; /* number of weights and biases */
    void *arrays;       /* memory of the arrays above */
} Job;

static int64_t parameter_size(const Call *call, int which)
{
    const int64_t h = call->hidden, f = call->feed_forward;
    switch (which) {
    case QKV: return 3 * h * h;
    case QKV_BIAS: return 3 * h;
    case OUT: return h * h;
    case FC1: case FC2: return h * f;
    case FC1_BIAS: return f;
    default: return h;
    }
}

/* Index of a layer's parameter in the array of all gradients. */
static int64_t parameter_offset(const Call *call, int layer, int which)
{
    int64_t block = 0, before = 0;
    for (int i = 0; i < PARAMETERS; i++) {
        before += i < which ? parameter_size(call, i) : 0;
        block += parameter_size(call, i);
    }
    return layer * block + before;
}

static int64_t widest(const Call *call)
{
    return call->feed_forward > 3 * call->hidden ? call->feed_forward : 3 * call->hidden;
}

static Kept take_kept(const Call *call, int64_t rows, Memory *memory)
{
    const int64_t h = call->hidden, f = call->feed_forward;
    Kept kept = {0};
    kept.qkv = take(memory, rows * 3 * h * 2);
    kept.softmax = take(memory, rows * call->heads * (int64_t)sizeof(Softmax));
    kept.context = take(memory, rows * h * 2);
    kept.activation = take(memory, rows * f * 2);
    if (call->training)
        kept.slope = take(memory, rows * f * 2);
    for (int i = 0; i < 2; i++) {
        kept.normalized[i] = take(memory, rows * h * 4);
        kept.inverse_std[i] = take(memory, rows * 4);
    }
    return kept;
}

/* Returns the kept arrays from `row` on. */
static Kept kept_from(const Call *call, const Kept *all, int64_t row)
{
    const int64_t h = call->hidden, f = call->feed_forward;
    return (Kept){all->qkv + row * 3 * h,
                  all->softmax + row * call->heads,
                  all->context + row * h,
                  all->activation + row * f,
                  all->slope ? all->slope + row * f : NULL,
                  {all->normalized[0] + row * h, all->normalized[1] + row * h},
                  {all->inverse_std[0] + row, all->inverse_std[1] + row}};
}

static AttentionScratch take_attention(const Call *call, int64_t longest, Memory *memory)
{
    const int64_t width = call->hidden / call->heads, padded = (longest + 63) / 64 * 64;
    AttentionScratch scratch;
    scratch.keys = take(memory, padded * width * 2);
    scratch.values = take(memory, padded * width * 2);
    scratch.key_pairs = take(memory, padded * width * 2);
    scratch.value_pairs = take(memory, padded * width * 2);
    scratch.query_pairs = take(memory, padded * width * 2);
    scratch.context_pairs = take(memory, padded * width * 2);
    scratch.scores = take(memory, SCORE_ROWS * padded * 4);
    scratch.weight_gradients = take(memory, SCORE_ROWS * padded * 4);
    scratch.rounded = take(memory, SCORE_ROWS * padded * 2);
    scratch.weight_pairs = take(memory, padded / 2 * padded * 4);
    scratch.score_pairs = take(memory, padded / 2 * padded * 4);
    return scratch;
}

static Scratch take_scratch(const Job *job, Memory *memory)
{
    const Call *call = job->call;
    const int64_t rows = max_group_tokens(&job->plan) + 1, h = call->hidden;
    Scratch scratch = {0};
    scratch.x = take(memory, rows * h * 4);
    scratch.sums = take(memory, rows * h * 4);
    scratch.rounded = take(memory, rows * h * 2);
    scratch.keys = take(memory, rows * 4);
    scratch.attention = take_attention(call, job->plan.longest, memory);
    if (!call->training)
        scratch.kept = take_kept(call, rows, memory);
    if (job->backward) {
        scratch.wide = take(memory, rows * widest(call) * 2);
        scratch.context = take(memory, rows * h * 2);
        scratch.pairs = take(memory, rows * h * 2);
        for (int i = 0; i < 2; i++)
            scratch.wide_pairs[i] = take(memory, rows * widest(call) * 2);
    }
    return scratch;
}

/* Memory for a packed map (k, n). */
static Right take_panels(int64_t k, int64_t n, Memory *memory)
{
    return (Right){take(memory, k / 2 * n * 4), PANEL, k / 2 * PANEL};
}

/* Plans a call and allocates its arrays from `kept` and `scratch`, which advance to their ends. */
static Job open_job(const Call *call, bool backward, Memory *kept, Memory *scratch)
{
    const int users = (int)call->users, layers = (int)call->layers;
    const int parts = (int)(call->threads < users ? call->threads : users);
    Job job = {.call = call, .backward = backward};
    Memory arrays = {0};
    /* The first round counts the bytes, the second allocates. */
    for (int counted = 0; counted < 2; counted++) {
        User *const user_array = take(&arrays, users * (int64_t)sizeof(User));
        int *const starts = take(&arrays, (parts + 1) * (int64_t)sizeof(int));
        double *const work = take(&arrays, parts * (int64_t)sizeof(double));
        job.kept = take(&arrays, layers * (int64_t)sizeof(Kept));
        job.buffers = take(&arrays, parts * (int64_t)sizeof(Scratch));
        job.forward_maps = take(&arrays, layers * MAPS * (int64_t)sizeof(Right));
        job.backward_maps = take(&arrays, layers * MAPS * (int64_t)sizeof(Right));
        if (!counted) {
            job.arrays = malloc(arrays.next);
            if (job.arrays == NULL)
                abort();
            arrays.next = (uintptr_t)job.arrays;
        } else {
            job.plan = make_plan(call->lengths, users, parts, user_array, starts, work);
        }
    }
    const User *last = &job.plan.users[users - 1];
    job.parameters = parameter_offset(call, layers, 0);
    for (int p = 0; p < parts; p++) {
        job.buffers[p] = take_scratch(&job, scratch);
        /* Part 0 adds up in the result itself; the other parts' sums are added to it later. */
        if (backward)
            job.buffers[p].gradients = p ? take(scratch, job.parameters * 4) : call->gradients;
    }
    for (int layer = 0; layer < layers; layer++) {
        if (call->training)
            job.kept[layer] = take_kept(call, last->row + last->tokens, kept);
        for (int map = 0; map < MAPS; map++) {
            int out, in;
            map_shape(call, map, &out, &in);
            /* The forward pass packs both, while the weights are in the cache. */
            job.forward_maps[layer * MAPS + map] = take_panels(in, out, scratch);
            if (call->training)
                job.backward_maps[layer * MAPS + map] = take_panels(out, in, kept);
        }
    }
    return job;
}

#endif
