/* The encoder of model/encoder.py forward in float32, for all users of a batch in one call: what
 * vectors need where no gradient is wanted.
 *
 * In: tokens (T, H) of many users, one after the other, how many each has (B,), and the weights of
 * every block. Out: (T, H). As in encoder.c there is no padding: every user's rows pass through all
 * layers on one thread, in groups that stay in the cache. Nothing is rounded and nothing is kept, so
 * results are those of PyTorch's operations to the order of sums. kernels/encoder.py calls it.
 *
 * Letters: B users, T tokens of all users, n tokens of a group, H hidden, F feed-forward, A heads,
 * L tokens of a user, D width of a head, S is L up to a multiple of 16.
 */
#define FLOAT32_WORDS 1

#include <math.h>

#include "call.h"
#include "gemm.h"
#include "vectors.h"

enum { ROWS_TOGETHER = 24 };
static const float NORM_EPSILON = 1e-12f; /* as model/encoder.py has it */

/* One thread's room: for the rows of a group. */
typedef struct {
    float *x, *seen, *sums; /* (n, H) */
    float *wide;            /* (n, max(F, 3H)): queries, keys and values side by side, then GELU */
    uint32_t *keys;         /* transposed: a Right operand (D, L) */
    float *scores;          /* (ROWS_TOGETHER, S) */
} Room;

typedef struct {
    const Call *call;
    Plan plan;
    Room *rooms;  /* (parts,) */
    Right *maps;  /* (layers, MAPS): the weights, packed */
    void *arrays; /* the arrays above */
} Job;

/* ---- memory ---- */

static Room take_room(const Call *call, const Plan *plan, Memory *memory)
{
    const int64_t rows = most_tokens(plan), h = call->hidden;
    const int64_t padded = (int64_t)divide_up(plan->longest, PANEL) * PANEL;
    Room room;
    room.x = take(memory, rows * h * 4);
    room.seen = take(memory, rows * h * 4);
    room.sums = take(memory, rows * h * 4);
    room.wide = take(memory, rows * (call->wide > 3 * h ? call->wide : 3 * h) * 4);
    room.keys = take(memory, padded * (h / call->heads) * 4);
    room.scores = take(memory, ROWS_TOGETHER * padded * 4);
    return room;
}

/* Plan a call and lay out its memory from `room` on, which then says where it ends. */
static Job open_job(const Call *call, Memory *room)
{
    const int users = (int)call->users, maps = (int)call->layers * MAPS;
    const int parts = (int)(call->threads < users ? call->threads : users);
    Job job = {.call = call};
    Memory small = {0};
    for (int real = 0; real < 2; real++) {
        User *const dealt = take(&small, users * (int64_t)sizeof(User));
        int *const starts = take(&small, (parts + 1) * (int64_t)sizeof(int));
        double *const work = take(&small, parts * (int64_t)sizeof(double));
        job.rooms = take(&small, parts * (int64_t)sizeof(Room));
        job.maps = take(&small, maps * (int64_t)sizeof(Right));
        if (!real) {
            job.arrays = malloc(small.next);
            if (job.arrays == NULL)
                abort();
            small.next = (uintptr_t)job.arrays;
        } else {
            job.plan = make_plan(call->lengths, users, parts, dealt, starts, work);
        }
    }
    for (int p = 0; p < parts; p++)
        job.rooms[p] = take_room(call, &job.plan, room);
    for (int number = 0; number < maps; number++) {
        int out, in;
        map_shape(call, number % MAPS, &out, &in);
        job.maps[number] =
            (Right){take(room, (int64_t)in * out * 4), PANEL, (ptrdiff_t)in * PANEL};
    }
    return job;
}

/* Pack one linear map: its transpose, by panels. */
KERNEL static void pack_map(int number, void *data)
{
    const Job *job = data;
    const Call *call = job->call;
    int out, in;
    map_shape(call, number % MAPS, &out, &in);
    const float *weight = call->weights[number / MAPS * PARAMETERS + MAP[number % MAPS]];
    transpose_right((const uint32_t *)weight, in, in, out, job->maps[number]);
}

/* ---- pieces of a layer ---- */

static Left rows_of(const float *rows, int64_t columns)
{
    return (Left){(const uint32_t *)rows, columns, 1};
}

/* What a product's tiles become: rows after a bias, maybe GELU, or each times a factor. */
typedef struct {
    const float *by;
    float *to;
    ptrdiff_t stride;
} Store;

KERNEL static void store_affine(const void *job, const float *tile, int row, int rows, int column,
                                int columns)
{
    const Store *store = job;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j += LANES)
            _mm512_storeu_ps(store->to + (row + i) * store->stride + column + j,
                             _mm512_add_ps(_mm512_loadu_ps(tile + i * PANEL + j),
                                           _mm512_loadu_ps(store->by + column + j)));
}

KERNEL static void store_gelu(const void *job, const float *tile, int row, int rows, int column,
                              int columns)
{
    const Store *store = job;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j += LANES) {
            __m512 slope;
            const __m512 bent = gelu(_mm512_add_ps(_mm512_loadu_ps(tile + i * PANEL + j),
                                                   _mm512_loadu_ps(store->by + column + j)),
                                     &slope);
            _mm512_storeu_ps(store->to + (row + i) * store->stride + column + j, bent);
        }
}

KERNEL static void store_scaled(const void *job, const float *tile, int row, int rows, int column,
                                int columns)
{
    const Store *store = job;
    for (int i = 0; i < rows; i++) {
        const __m512 share = _mm512_set1_ps(store->by[row + i]);
        for (int j = 0; j < columns; j += LANES)
            _mm512_storeu_ps(store->to + (row + i) * store->stride + column + j,
                             _mm512_mul_ps(_mm512_loadu_ps(tile + i * PANEL + j), share));
    }
}

/* Powers of rows of scores (rows, S), of which L are real, and the inverse of each row's sum. */
ALWAYS_INLINE KERNEL void soften_rows(float *scores, int rows, int tokens, int padded, float scale,
                                      float *shares)
{
    const __mmask16 real = first_lanes(tokens - (padded - LANES));
    for (int i = 0; i < rows; i++) {
        float *row = scores + i * padded, *last = row + padded - LANES;
        _mm512_mask_storeu_ps(last, (__mmask16)~real, _mm512_set1_ps(-1e30f));
        __m512 greatest = _mm512_loadu_ps(row), sum = _mm512_setzero_ps();
        for (int j = LANES; j < padded; j += LANES)
            greatest = _mm512_max_ps(greatest, _mm512_loadu_ps(row + j));
        const __m512 most = _mm512_set1_ps(_mm512_reduce_max_ps(greatest) * scale);
        for (int j = 0; j < padded; j += LANES) {
            const __m512 power = power_of_2(
                _mm512_fmsub_ps(_mm512_loadu_ps(row + j), _mm512_set1_ps(scale), most));
            sum = _mm512_add_ps(sum, power);
            _mm512_storeu_ps(row + j, power);
        }
        shares[i] = 1.0f / _mm512_reduce_add_ps(sum);
    }
}

/* One user's attention: from queries, keys and values (L, 3, A, D) to seen (L, A, D). */
KERNEL static void attend(const Call *call, const float *mixed, int tokens, float *seen,
                          const Room *room)
{
    const int h = (int)call->hidden, heads = (int)call->heads, width = h / heads;
    const int padded = divide_up(tokens, LANES) * LANES;
    const float scale = LOG2_E / sqrtf((float)width);
    const Right keys = {room->keys, PANEL, (ptrdiff_t)PANEL * width};
    float shares[ROWS_TOGETHER];
    for (int head = 0; head < heads; head++) {
        const float *own = mixed + head * width;
        transpose_right((const uint32_t *)own + h, 3 * h, width, tokens, keys);
        const Right values = {(const uint32_t *)own + 2 * h, 3 * h, PANEL};
        for (int row = 0; row < tokens; row += ROWS_TOGETHER) {
            const int rows = smaller(ROWS_TOGETHER, tokens - row);
            gemm_store(rows_of(own + row * 3 * h, 3 * h), keys, rows, padded, width, room->scores,
                       padded, false);
            soften_rows(room->scores, rows, tokens, padded, scale, shares);
            const Store store = {shares, seen + row * h + head * width, h};
            gemm_finish(rows_of(room->scores, padded), values, rows, width, tokens, store_scaled,
                        &store);
        }
    }
}

/* x = LayerNorm(x + sums + bias), whose gain and shift follow the bias. */
ALWAYS_INLINE KERNEL void norm_row(const int hidden, const float *const *bias, const float *sums,
                                   float *x)
{
    __m512 total = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int c = 0; c < hidden; c += LANES) {
        const __m512 sum = _mm512_add_ps(_mm512_loadu_ps(sums + c), _mm512_loadu_ps(bias[0] + c));
        const __m512 y = _mm512_add_ps(sum, _mm512_loadu_ps(x + c));
        _mm512_storeu_ps(x + c, y);
        total = _mm512_add_ps(total, y);
    }
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(total) / (float)hidden);
    for (int c = 0; c < hidden; c += LANES) {
        const __m512 off = _mm512_sub_ps(_mm512_loadu_ps(x + c), mean);
        squares = _mm512_fmadd_ps(off, off, squares);
    }
    const float variance = _mm512_reduce_add_ps(squares) / (float)hidden;
    const __m512 inverse = _mm512_set1_ps(1.0f / sqrtf(variance + NORM_EPSILON));
    for (int c = 0; c < hidden; c += LANES) {
        const __m512 y = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + c), mean), inverse);
        _mm512_storeu_ps(x + c, _mm512_fmadd_ps(y, _mm512_loadu_ps(bias[1] + c),
                                                _mm512_loadu_ps(bias[2] + c)));
    }
}

KERNEL static void norm_rows(int hidden, const float *const *bias, int rows, const float *sums,
                             float *x)
{
    for (int i = 0; i < rows; i++)
        if (hidden == 128) /* the paper's: the loops unroll */
            norm_row(128, bias, sums + i * 128, x + i * 128);
        else
            norm_row(hidden, bias, sums + (ptrdiff_t)i * hidden, x + (ptrdiff_t)i * hidden);
}

/* ---- all layers ---- */

/* One block over a group's rows; room->x is its input, then its output. */
KERNEL static void forward_layer(const Job *job, int layer, const Group *group, const Room *room)
{
    const Call *call = job->call;
    const int h = (int)call->hidden, f = (int)call->wide, n = group->tokens;
    const float *const *weights = call->weights + layer * PARAMETERS;
    const Right *maps = job->maps + layer * MAPS;

    const Store mixed = {weights[MIX_BIAS], room->wide, 3 * h};
    gemm_finish(rows_of(room->x, h), maps[0], n, 3 * h, h, store_affine, &mixed);
    for (int u = group->first; u < group->last; u++) {
        const User *user = &job->plan.users[u];
        const int64_t row = user->row - group->row;
        attend(call, room->wide + row * 3 * h, user->tokens, room->seen + row * h, room);
    }
    gemm_store(rows_of(room->seen, h), maps[1], n, h, h, room->sums, h, false);
    norm_rows(h, weights + OUT_BIAS, n, room->sums, room->x);

    const Store wide = {weights[WIDEN_BIAS], room->wide, f};
    gemm_finish(rows_of(room->x, h), maps[2], n, f, h, store_gelu, &wide);
    gemm_store(rows_of(room->wide, f), maps[3], n, h, f, room->sums, h, false);
    norm_rows(h, weights + NARROW_BIAS, n, room->sums, room->x);
}

KERNEL static void forward_part(int part, void *data)
{
    const Job *job = data;
    const Call *call = job->call;
    const int64_t h = call->hidden;
    const Room *room = &job->rooms[part];
    for (int first = job->plan.starts[part]; first < job->plan.starts[part + 1];) {
        const Group group = group_from(&job->plan, part, first);
        for (int u = group.first; u < group.last; u++) {
            const User *user = &job->plan.users[u];
            memcpy(room->x + (user->row - group.row) * h, call->tokens + user->first * h,
                   (size_t)(user->tokens * h * 4));
        }
        for (int layer = 0; layer < call->layers; layer++)
            forward_layer(job, layer, &group, room);
        for (int u = group.first; u < group.last; u++) {
            const User *user = &job->plan.users[u];
            memcpy(call->out + user->first * h, room->x + (user->row - group.row) * h,
                   (size_t)(user->tokens * h * 4));
        }
        first = group.last;
    }
}

/* ---- what Python calls ---- */

/* How many bytes of room a call needs. Its own pointers, but for lengths, are not read. */
void userbert_forward_memory(const Call *call, int64_t *room)
{
    Memory of_room = {0};
    const Job job = open_job(call, &of_room);
    free(job.arrays);
    *room = (int64_t)of_room.next + 64;
}

/* Fill call->out. At least one user. */
void userbert_forward(const Call *call)
{
    Memory room = aligned(call->room);
    Job job = open_job(call, &room);
    run_parts(call->fork, (int)call->threads, (int)call->layers * MAPS, pack_map, &job);
    run_parts(call->fork, job.plan.parts, job.plan.parts, forward_part, &job);
    free(job.arrays);
}
