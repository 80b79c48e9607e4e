/* What a call of the encoder keeps and what it needs, and where in memory.
 *
 * In: a call. Out: a job, planned and laid out, of which encoder.c does the work. Nothing here
 * computes.
 *
 * Letters: B users, T tokens of all users, n tokens of a group, H hidden, F feed-forward, A heads.
 */
#ifndef USERBERT_LAYOUT_H
#define USERBERT_LAYOUT_H

#include "attention.h"
#include "call.h"
#include "gemm.h"
#include "plan.h"

/* What a layer keeps of its rows for the backward pass. */
typedef struct {
    uint16_t *mixed;           /* queries, keys, values: (n, 3H) */
    Softmax *softmax;          /* (n, A) */
    uint16_t *seen;            /* (n, H) */
    uint16_t *wide, *slope;    /* GELU and its derivative: (n, F); slope may be NULL */
    float *hat[2], *inverse[2]; /* of the norms: (n, H), (n,) */
} Kept;

/* One thread's room: for the rows of a group. */
typedef struct {
    float *x, *sums;              /* (n, H) */
    uint16_t *rounded;            /* (n, H) */
    int32_t *keys;                /* (n,) */
    uint16_t *wide;               /* (n, max(F, 3H)) */
    uint16_t *seen;               /* (n, H) */
    uint32_t *pairs, *wide_pairs[2]; /* (n / 2, H), (n / 2, max(F, 3H)) */
    AttentionRoom attention;
    Kept kept;                    /* where nothing is kept: one layer's, used by all */
    float *gradients;             /* all parameters' */
} Room;

typedef struct {
    const Call *call;
    bool backward;
    Plan plan;
    Kept *kept;         /* (layers,) */
    Room *rooms;        /* (parts,) */
    Right *forward, *back; /* (layers, MAPS): the weights, packed for either direction */
    int64_t parameters; /* how many numbers all of them are */
    void *arrays;       /* the arrays above */
} Job;

static int64_t parameter_size(const Call *call, int which)
{
    const int64_t h = call->hidden, f = call->wide;
    switch (which) {
    case MIX: return 3 * h * h;
    case MIX_BIAS: return 3 * h;
    case OUT: return h * h;
    case WIDEN: case NARROW: return h * f;
    case WIDEN_BIAS: return f;
    default: return h;
    }
}

/* Where a layer's parameter begins among all gradients. */
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
    return call->wide > 3 * call->hidden ? call->wide : 3 * call->hidden;
}

static Kept take_kept(const Call *call, int64_t rows, Memory *memory)
{
    const int64_t h = call->hidden, f = call->wide;
    Kept kept = {0};
    kept.mixed = take(memory, rows * 3 * h * 2);
    kept.softmax = take(memory, rows * call->heads * (int64_t)sizeof(Softmax));
    kept.seen = take(memory, rows * h * 2);
    kept.wide = take(memory, rows * f * 2);
    if (call->training)
        kept.slope = take(memory, rows * f * 2);
    for (int i = 0; i < 2; i++) {
        kept.hat[i] = take(memory, rows * h * 4);
        kept.inverse[i] = take(memory, rows * 4);
    }
    return kept;
}

/* What is kept of the rows from `row` on. */
static Kept kept_from(const Call *call, const Kept *all, int64_t row)
{
    const int64_t h = call->hidden, f = call->wide;
    return (Kept){all->mixed + row * 3 * h,
                  all->softmax + row * call->heads,
                  all->seen + row * h,
                  all->wide + row * f,
                  all->slope ? all->slope + row * f : NULL,
                  {all->hat[0] + row * h, all->hat[1] + row * h},
                  {all->inverse[0] + row, all->inverse[1] + row}};
}

static AttentionRoom take_attention(const Call *call, int64_t longest, Memory *memory)
{
    const int64_t width = call->hidden / call->heads, padded = (longest + 63) / 64 * 64;
    AttentionRoom room;
    room.keys = take(memory, padded * width * 2);
    room.values = take(memory, padded * width * 2);
    room.key_pairs = take(memory, padded * width * 2);
    room.value_pairs = take(memory, padded * width * 2);
    room.query_pairs = take(memory, padded * width * 2);
    room.seen_pairs = take(memory, padded * width * 2);
    room.scores = take(memory, SCORE_ROWS * padded * 4);
    room.weight_gradients = take(memory, SCORE_ROWS * padded * 4);
    room.rounded = take(memory, SCORE_ROWS * padded * 2);
    room.weight_pairs = take(memory, padded / 2 * padded * 4);
    room.score_pairs = take(memory, padded / 2 * padded * 4);
    return room;
}

static Room take_room(const Job *job, Memory *memory)
{
    const Call *call = job->call;
    const int64_t rows = most_tokens(&job->plan) + 1, h = call->hidden;
    Room room = {0};
    room.x = take(memory, rows * h * 4);
    room.sums = take(memory, rows * h * 4);
    room.rounded = take(memory, rows * h * 2);
    room.keys = take(memory, rows * 4);
    room.attention = take_attention(call, job->plan.longest, memory);
    if (!call->training)
        room.kept = take_kept(call, rows, memory);
    if (job->backward) {
        room.wide = take(memory, rows * widest(call) * 2);
        room.seen = take(memory, rows * h * 2);
        room.pairs = take(memory, rows * h * 2);
        for (int i = 0; i < 2; i++)
            room.wide_pairs[i] = take(memory, rows * widest(call) * 2);
    }
    return room;
}

/* Room for a packed map of (k, n). */
static Right take_panels(int64_t k, int64_t n, Memory *memory)
{
    return (Right){take(memory, k / 2 * n * 4), PANEL, k / 2 * PANEL};
}

/* Plan a call and lay out its memory from `kept` and `room` on, which then say where it ends. */
static Job open_job(const Call *call, bool backward, Memory *kept, Memory *room)
{
    const int users = (int)call->users, layers = (int)call->layers;
    const int parts = (int)(call->threads < users ? call->threads : users);
    Job job = {.call = call, .backward = backward};
    Memory small = {0};
    for (int real = 0; real < 2; real++) {
        User *const dealt = take(&small, users * (int64_t)sizeof(User));
        int *const starts = take(&small, (parts + 1) * (int64_t)sizeof(int));
        double *const work = take(&small, parts * (int64_t)sizeof(double));
        job.kept = take(&small, layers * (int64_t)sizeof(Kept));
        job.rooms = take(&small, parts * (int64_t)sizeof(Room));
        job.forward = take(&small, layers * MAPS * (int64_t)sizeof(Right));
        job.back = take(&small, layers * MAPS * (int64_t)sizeof(Right));
        if (!real) {
            job.arrays = malloc(small.next);
            if (job.arrays == NULL)
                abort();
            small.next = (uintptr_t)job.arrays;
        } else {
            job.plan = make_plan(call->lengths, users, parts, dealt, starts, work);
        }
    }
    const User *last = &job.plan.users[users - 1];
    job.parameters = parameter_offset(call, layers, 0);
    for (int p = 0; p < parts; p++) {
        job.rooms[p] = take_room(&job, room);
        /* The first part's sums are the result; the others' are added to them. */
        if (backward)
            job.rooms[p].gradients = p ? take(room, job.parameters * 4) : call->gradients;
    }
    for (int layer = 0; layer < layers; layer++) {
        if (call->training)
            job.kept[layer] = take_kept(call, last->row + last->tokens, kept);
        for (int map = 0; map < MAPS; map++) {
            int out, in;
            map_shape(call, map, &out, &in);
            /* Both are packed on the way forward, while the weights are near. */
            job.forward[layer * MAPS + map] = take_panels(in, out, room);
            if (call->training)
                job.back[layer * MAPS + map] = take_panels(out, in, kept);
        }
    }
    return job;
}

#endif
