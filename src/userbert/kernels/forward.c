/* The encoder of model/encoder.py in float32, forward only; one call per batch of users.
 *
 * In: tokens (T, H) of all users, one user after the other; tokens per user (B,); the weights of
 * every block. Out: tokens (T, H). Users are not padded: a user's rows pass through all
 * layers on one thread, in groups that fit the cache. Nothing is rounded, so results equal
 * PyTorch's except for the order of sums. kernels/encoder.py calls it if no gradient is needed.
 *
 * Shapes: B users, T tokens of all users, n tokens of a group, H hidden, F feed-forward, A heads,
 * L tokens of a user, D width of a head, S is L up to a multiple of 16.
 */
#define FLOAT32_WORDS 1

#include <math.h>

#include "call.h"
#include "gemm.h"
#include "vectors.h"

enum { SCORE_ROWS = 24 };
static const float NORM_EPSILON = 1e-12f; /* as in model/encoder.py */

/* One thread's scratch memory, for the rows of a group. */
typedef struct {
    float *x, *context, *sums; /* (n, H) */
    float *wide;               /* (n, max(F, 3H)): queries, keys and values; then GELU's output */
    uint32_t *keys;            /* transposed: a Right operand (D, L) */
    float *scores;             /* (SCORE_ROWS, S) */
} Scratch;

typedef struct {
    const Call *call;
    Plan plan;
    Scratch *buffers; /* (parts,): scratch memory of each thread */
    Right *maps;      /* (layers, MAPS): the weights, packed */
    void *arrays;     /* memory of the arrays above */
} Job;

/* ---- memory ---- */

static Scratch take_scratch(const Call *call, const Plan *plan, Memory *memory)
{
    const int64_t rows = max_group_tokens(plan), h = call->hidden;
    const int64_t padded = (int64_t)divide_up(plan->longest, PANEL) * PANEL;
    Scratch scratch;
    scratch.x = take(memory, rows * h * 4);
    scratch.context = take(memory, rows * h * 4);
    scratch.sums = take(memory, rows * h * 4);
    scratch.wide = take(memory,
                        rows * (call->feed_forward > 3 * h ? call->feed_forward : 3 * h) * 4);
    scratch.keys = take(memory, padded * (h / call->heads) * 4);
    scratch.scores = take(memory, SCORE_ROWS * padded * 4);
    return scratch;
}

/* Plans a call and allocates its arrays from `scratch`, which advances to their end. */
static Job open_job(const Call *call, Memory *scratch)
{
    const int users = (int)call->users, maps = (int)call->layers * MAPS;
    const int parts = (int)(call->threads < users ? call->threads : users);
    Job job = {.call = call};
    Memory arrays = {0};
    /* The first round counts the bytes, the second allocates. */
    for (int counted = 0; counted < 2; counted++) {
        User *const user_array = take(&arrays, users * (int64_t)sizeof(User));
        int *const starts = take(&arrays, (parts + 1) * (int64_t)sizeof(int));
        double *const work = take(&arrays, parts * (int64_t)sizeof(double));
        job.buffers = take(&arrays, parts * (int64_t)sizeof(Scratch));
        job.maps = take(&arrays, maps * (int64_t)sizeof(Right));
        if (!counted) {
            job.arrays = malloc(arrays.next);
            if (job.arrays == NULL)
                abort();
            arrays.next = (uintptr_t)job.arrays;
        } else {
            job.plan = make_plan(call->lengths, users, parts, user_array, starts, work);
        }
    }
    for (int p = 0; p < parts; p++)
        job.buffers[p] = take_scratch(call, &job.plan, scratch);
    for (int number = 0; number < maps; number++) {
        int out, in;
        map_shape(call, number % MAPS, &out, &in);
        job.maps[number] =
            (Right){take(scratch, (int64_t)in * out * 4), PANEL, (ptrdiff_t)in * PANEL};
    }
    return job;
}

/* Packs the transpose of one linear map into panels. */
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

/* Destination of a product's tiles. `by` holds a bias per column, or a factor per row. */
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
            const __m512 activated = gelu(_mm512_add_ps(_mm512_loadu_ps(tile + i * PANEL + j),
                                                        _mm512_loadu_ps(store->by + column + j)),
                                          &slope);
            _mm512_storeu_ps(store->to + (row + i) * store->stride + column + j, activated);
        }
}

KERNEL static void store_scaled(const void *job, const float *tile, int row, int rows, int column,
                                int columns)
{
    const Store *store = job;
    for (int i = 0; i < rows; i++) {
        const __m512 factor = _mm512_set1_ps(store->by[row + i]);
        for (int j = 0; j < columns; j += LANES)
            _mm512_storeu_ps(store->to + (row + i) * store->stride + column + j,
                             _mm512_mul_ps(_mm512_loadu_ps(tile + i * PANEL + j), factor));
    }
}

/* Replaces scores (rows, S) by 2^(scale · score - max), with 0 from column L on. */
ALWAYS_INLINE KERNEL void softmax_rows(float *scores, int rows, int tokens, int padded, float scale,
                                       float *inverse_sums)
{
    const __mmask16 present = first_lanes(tokens - (padded - LANES));
    for (int i = 0; i < rows; i++) {
        float *row = scores + i * padded, *last = row + padded - LANES;
        _mm512_mask_storeu_ps(last, (__mmask16)~present, _mm512_set1_ps(-1e30f));
        __m512 max = _mm512_loadu_ps(row), sum = _mm512_setzero_ps();
        for (int j = LANES; j < padded; j += LANES)
            max = _mm512_max_ps(max, _mm512_loadu_ps(row + j));
        const __m512 scaled_max = _mm512_set1_ps(_mm512_reduce_max_ps(max) * scale);
        for (int j = 0; j < padded; j += LANES) {
            const __m512 power = power_of_2(
                _mm512_fmsub_ps(_mm512_loadu_ps(row + j), _mm512_set1_ps(scale), scaled_max));
            sum = _mm512_add_ps(sum, power);
            _mm512_storeu_ps(row + j, power);
        }
        inverse_sums[i] = 1.0f / _mm512_reduce_add_ps(sum);
    }
}

/* Attention of one user: from queries, keys and values (L, 3, A, D) to the context (L, A, D). */
KERNEL static void attend(const Call *call, const float *qkv, int tokens, float *context,
                          const Scratch *scratch)
{
    const int h = (int)call->hidden, heads = (int)call->heads, width = h / heads;
    const int padded = divide_up(tokens, LANES) * LANES;
    const float scale = LOG2_E / sqrtf((float)width);
    const Right keys = {scratch->keys, PANEL, (ptrdiff_t)PANEL * width};
    float inverse_sums[SCORE_ROWS];
    for (int head = 0; head < heads; head++) {
        const float *own = qkv + head * width;
        transpose_right((const uint32_t *)own + h, 3 * h, width, tokens, keys);
        const Right values = {(const uint32_t *)own + 2 * h, 3 * h, PANEL};
        for (int row = 0; row < tokens; row += SCORE_ROWS) {
            const int rows = min_int(SCORE_ROWS, tokens - row);
            gemm_store(rows_of(own + row * 3 * h, 3 * h), keys, rows, padded, width,
                       scratch->scores, padded, false);
            softmax_rows(scratch->scores, rows, tokens, padded, scale, inverse_sums);
            const Store store = {inverse_sums, context + row * h + head * width, h};
            gemm_finish(rows_of(scratch->scores, padded), values, rows, width, tokens, store_scaled,
                        &store);
        }
    }
}

/* x = LayerNorm(x + sums + bias). `bias` points to three parameters: bias, gain and shift. */
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
        const __m512 centered = _mm512_sub_ps(_mm512_loadu_ps(x + c), mean);
        squares = _mm512_fmadd_ps(centered, centered, squares);
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
        if (hidden == 128) /* the paper's size, constant so that the loops unroll */
            norm_row(128, bias, sums + i * 128, x + i * 128);
        else
            norm_row(hidden, bias, sums + (ptrdiff_t)i * hidden, x + (ptrdiff_t)i * hidden);
}

/* ---- all layers ---- */

/* Runs one block on a group's rows. scratch->x holds its input, then its output. */
KERNEL static void forward_layer(const Job *job, int layer, const Group *group,
                                 const Scratch *scratch)
{
    const Call *call = job->call;
    const int h = (int)call->hidden, f = (int)call->feed_forward, n = group->tokens;
    const float *const *weights = call->weights + layer * PARAMETERS;
    const Right *maps = job->maps + layer * MAPS;

    const Store qkv = {weights[QKV_BIAS], scratch->wide, 3 * h};
    gemm_finish(rows_of(scratch->x, h), maps[0], n, 3 * h, h, store_affine, &qkv);
    for (int u = group->first; u < group->last; u++) {
        const User *user = &job->plan.users[u];
        const int64_t row = user->row - group->row;
        attend(call, scratch->wide + row * 3 * h, user->tokens, scratch->context + row * h,
               scratch);
    }
    gemm_store(rows_of(scratch->context, h), maps[1], n, h, h, scratch->sums, h, false);
    norm_rows(h, weights + OUT_BIAS, n, scratch->sums, scratch->x);

    const Store fc1 = {weights[FC1_BIAS], scratch->wide, f};
    gemm_finish(rows_of(scratch->x, h), maps[2], n, f, h, store_gelu, &fc1);
    gemm_store(rows_of(scratch->wide, f), maps[3], n, h, f, scratch->sums, h, false);
    norm_rows(h, weights + FC2_BIAS, n, scratch->sums, scratch->x);
}

KERNEL static void forward_part(int part, void *data)
{
    const Job *job = data;
    const Call *call = job->call;
    const int64_t h = call->hidden;
    const Scratch *scratch = &job->buffers[part];
    for (int first = job->plan.starts[part]; first < job->plan.starts[part + 1];) {
        const Group group = group_from(&job->plan, part, first);
        for (int u = group.first; u < group.last; u++) {
            const User *user = &job->plan.users[u];
            memcpy(scratch->x + (user->row - group.row) * h, call->tokens + user->first * h,
                   (size_t)(user->tokens * h * 4));
        }
        for (int layer = 0; layer < call->layers; layer++)
            forward_layer(job, layer, &group, scratch);
        for (int u = group.first; u < group.last; u++) {
            const User *user = &job->plan.users[u];
            memcpy(call->out + user->first * h, scratch->x + (user->row - group.row) * h,
                   (size_t)(user->tokens * h * 4));
        }
        first = group.last;
    }
}

/* ---- functions called by Python ---- */

/* Bytes of scratch memory that a call needs. Of its pointers only lengths is read. */
void userbert_forward_memory(const Call *call, int64_t *scratch)
{
    Memory scratch_end = {0};
    const Job job = open_job(call, &scratch_end);
    free(job.arrays);
    *scratch = (int64_t)scratch_end.next + 64;
}

/* Fills call->out. Needs at least one user. */
void userbert_forward(const Call *call)
{
    Memory scratch = aligned(call->scratch);
    Job job = open_job(call, &scratch);
    run_parts(call->parallel, (int)call->threads, (int)call->layers * MAPS, pack_map, &job);
    run_parts(call->parallel, job.plan.parts, job.plan.parts, forward_part, &job);
    free(job.arrays);
}
