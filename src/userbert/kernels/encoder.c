/* The encoder of model/encoder.py in bf16, forward and backward; one call per batch of users.
 *
 * In: tokens (T, H) of all users, one user after the other; tokens per user (B,); all blocks'
 * float32 weights. Out: tokens (T, H); backward, float32 gradients of tokens and weights. Products
 * are of bf16 numbers, summed in float32; the rest is float32. Users are not padded: a user's rows
 * pass through all layers on one thread, in groups that fit the cache. kernels/encoder.py calls it.
 *
 * Shapes: B users, T tokens of all users, n tokens of a group, H hidden, F feed-forward, A heads.
 */
#include "attention.h"
#include "gemm.h"
#include "layout.h"
#include "norm.h"
#include "parallel.h"
#include "vectors.h"

/* ---- weights ---- */

/* Packs a linear map: its transpose for the forward pass, the map itself for the backward pass. */
KERNEL static void pack_map(int number, void *data)
{
    const Job *job = data;
    const Call *call = job->call;
    const int map = number % MAPS;
    const float *weight = call->weights[number / MAPS * PARAMETERS + MAP[map]];
    int out, in;
    map_shape(call, map, &out, &in);
    pack_transposed(weight, in, out, in, job->forward_maps[number]);
    if (call->training)
        pack_right(weight, in, out, in, job->backward_maps[number]);
}

/* The norm after the attention (which = 0) or after the feed-forward maps (1). */
static Norm norm_of(const Call *call, int layer, int which)
{
    const float *const *weights = call->weights + layer * PARAMETERS;
    const int bias = which ? FC2_BIAS : OUT_BIAS, gain = which ? GAIN_2 : GAIN_1;
    return (Norm){(int)call->hidden,
                  {(uint32_t)call->dropout_threshold, call->dropout_scale},
                  (uint32_t)(2 * layer + 1 + which),
                  weights[bias], weights[gain], weights[gain + 1]};
}

/* ---- forward ---- */

/* Destination of a product's tiles: bf16 rows, after bias and perhaps GELU. */
typedef struct {
    const float *bias;
    uint16_t *to, *slope;
    ptrdiff_t stride;
} Affine;

KERNEL static void store_affine(const void *job, const float *tile, int row, int rows, int column,
                                int columns)
{
    const Affine *affine = job;
    const ptrdiff_t next = (row + rows) * affine->stride + column;
    fetch_rows(affine->to + next, 2 * affine->stride, rows, 2 * columns);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j += LANES) {
            const ptrdiff_t at = (row + i) * affine->stride + column + j;
            store_bf16(affine->to + at, _mm512_add_ps(_mm512_loadu_ps(tile + i * PANEL + j),
                                                      _mm512_loadu_ps(affine->bias + column + j)));
        }
}

KERNEL static void store_gelu(const void *job, const float *tile, int row, int rows, int column,
                              int columns)
{
    const Affine *affine = job;
    const ptrdiff_t next = (row + rows) * affine->stride + column;
    fetch_rows(affine->to + next, 2 * affine->stride, rows, 2 * columns);
    if (affine->slope)
        fetch_rows(affine->slope + next, 2 * affine->stride, rows, 2 * columns);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j += LANES) {
            const ptrdiff_t at = (row + i) * affine->stride + column + j;
            __m512 slope;
            const __m512 activated = gelu(_mm512_add_ps(_mm512_loadu_ps(tile + i * PANEL + j),
                                                        _mm512_loadu_ps(affine->bias + column + j)),
                                          &slope);
            store_bf16(affine->to + at, activated);
            if (affine->slope)
                store_bf16(affine->slope + at, slope);
        }
}

static Left rows_of(const uint16_t *rows, int64_t columns)
{
    return (Left){(const uint32_t *)rows, columns / 2, 1};
}

/* Attention of one user; the first row of `kept` is `row`. */
static Attention attention_of(const Call *call, const Kept *kept, const User *user, int64_t row)
{
    return (Attention){user->tokens, (int)call->heads, (int)(call->hidden / call->heads),
                       kept->qkv + (user->row - row) * 3 * call->hidden,
                       kept->softmax + (user->row - row) * call->heads};
}

/* Runs one block on a group's rows. scratch->x and scratch->rounded hold its input, then output. */
KERNEL static void forward_layer(const Job *job, int layer, const Group *group, const Kept *kept,
                                 const Scratch *scratch)
{
    const Call *call = job->call;
    const int h = (int)call->hidden, f = (int)call->feed_forward, n = group->tokens;
    const float *const *weights = call->weights + layer * PARAMETERS;
    const Right *right = job->forward_maps + layer * MAPS;
    const Norm norms[2] = {norm_of(call, layer, 0), norm_of(call, layer, 1)};

    const Affine qkv = {weights[QKV_BIAS], kept->qkv, NULL, 3 * h};
    gemm_finish(rows_of(scratch->rounded, h), right[0], n, 3 * h, h / 2, store_affine, &qkv);
    for (int u = group->first; u < group->last; u++) {
        const User *user = &job->plan.users[u];
        const Attention attention = attention_of(call, kept, user, group->row);
        attend(&attention, kept->context + (user->row - group->row) * h, &scratch->attention);
    }
    gemm_store(rows_of(kept->context, h), right[1], n, h, h / 2, scratch->sums, h, false);
    norm_rows(&norms[0], n, scratch->sums, scratch->keys, scratch->x, scratch->rounded,
              kept->normalized[0], kept->inverse_std[0]);

    const Affine fc1 = {weights[FC1_BIAS], kept->activation, kept->slope, f};
    gemm_finish(rows_of(scratch->rounded, h), right[2], n, f, h / 2, store_gelu, &fc1);
    gemm_store(rows_of(kept->activation, f), right[3], n, h, f / 2, scratch->sums, h, false);
    norm_rows(&norms[1], n, scratch->sums, scratch->keys, scratch->x, scratch->rounded,
              kept->normalized[1], kept->inverse_std[1]);
}

/* Copies a group's rows from the caller's array (T, width) of 4-byte numbers. */
static void gather(const Job *job, const Group *group, const void *from, int64_t width, void *to)
{
    for (int u = group->first; u < group->last; u++) {
        const User *user = &job->plan.users[u];
        memcpy((char *)to + (user->row - group->row) * width * 4,
               (const char *)from + user->first * width * 4, (size_t)(user->tokens * width * 4));
    }
}

/* Copies a group's rows back to the caller's array (T, width). */
static void scatter(const Job *job, const Group *group, const float *from, int64_t width, float *to)
{
    for (int u = group->first; u < group->last; u++) {
        const User *user = &job->plan.users[u];
        memcpy(to + user->first * width, from + (user->row - group->row) * width,
               (size_t)(user->tokens * width * 4));
    }
}

KERNEL static void forward_part(int part, void *data)
{
    const Job *job = data;
    const Call *call = job->call;
    const int h = (int)call->hidden;
    const Scratch *scratch = &job->buffers[part];
    for (int first = job->plan.starts[part]; first < job->plan.starts[part + 1];) {
        const Group group = group_from(&job->plan, part, first);
        gather(job, &group, call->tokens, h, scratch->x);
        if (call->dropout_threshold)
            gather(job, &group, call->keys, 1, scratch->keys);
        round_rows(scratch->x, h, group.tokens, h, (uint32_t *)scratch->rounded, h / 2);
        for (int layer = 0; layer < call->layers; layer++) {
            const Kept kept =
                call->training ? kept_from(call, &job->kept[layer], group.row) : scratch->kept;
            forward_layer(job, layer, &group, &kept, scratch);
        }
        scatter(job, &group, scratch->x, h, call->out);
        first = group.last;
    }
}

/* ---- backward ---- */

/* Destination of GELU's gradients: multiplied by the slope, stored as bf16, summed for the bias. */
typedef struct {
    const uint16_t *slope;
    uint16_t *to;
    float *bias;
    ptrdiff_t stride;
} Slope;

KERNEL static void store_slope(const void *job, const float *tile, int row, int rows, int column,
                               int columns)
{
    const Slope *slope = job;
    fetch_rows(slope->slope + (row + rows) * slope->stride + column, 2 * slope->stride, rows,
               2 * columns);
    for (int j = 0; j < columns; j += LANES) {
        __m512 sum = _mm512_loadu_ps(slope->bias + column + j);
        for (int i = 0; i < rows; i++) {
            const ptrdiff_t at = (row + i) * slope->stride + column + j;
            const __m512 x = _mm512_mul_ps(_mm512_loadu_ps(tile + i * PANEL + j),
                                           load_bf16(slope->slope + at));
            sum = _mm512_add_ps(sum, x);
            store_bf16(slope->to + at, x);
        }
        _mm512_storeu_ps(slope->bias + column + j, sum);
    }
}

KERNEL static void store_rounded(const void *job, const float *tile, int row, int rows, int column,
                                 int columns)
{
    const Affine *affine = job;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j += LANES)
            store_bf16(affine->to + (row + i) * affine->stride + column + j,
                       _mm512_loadu_ps(tile + i * PANEL + j));
}

/* Adds the column sums of pairs (n / 2, columns) to `to` (columns,). */
KERNEL static void add_columns(const uint32_t *pairs, int count, int columns, float *to)
{
    const __m512i ones = _mm512_set1_epi16(0x3f80);
    for (int j = 0; j < columns; j += LANES) {
        __m512 sum = _mm512_loadu_ps(to + j);
        for (int p = 0; p < count; p++)
            for (int pass = 0; pass < PASSES; pass++)
                sum = add_products(sum, factors(_mm512_loadu_si512(pairs + p * columns + j), pass),
                                   factors(ones, pass));
        _mm512_storeu_ps(to + j, sum);
    }
}

/* Gradient (out, in) of a weight = outᵀ in over a group's rows, from pairs; added if `add`. */
KERNEL static void weight_gradient(const uint32_t *out_pairs, int out, const uint32_t *in_pairs,
                                   int in, int tokens, float *to, bool add)
{
    gemm_store((Left){out_pairs, 1, out}, (Right){in_pairs, in, PANEL}, out, in,
               divide_up(tokens, 2), to, in, add);
}

/* Backward pass of the feed-forward half; scratch->x: gradient of its output, then of its input. */
KERNEL static void backward_mlp(const Job *job, int layer, const Group *group, const Kept *kept,
                                const Scratch *scratch, float *const *to, bool add)
{
    const Call *call = job->call;
    const int h = (int)call->hidden, f = (int)call->feed_forward, n = group->tokens;
    const Right *right = job->backward_maps + layer * MAPS;
    const Norm norms[2] = {norm_of(call, layer, 0), norm_of(call, layer, 1)};

    const NormGradients last = {to[FC2_BIAS], to[GAIN_2], to[SHIFT_2]};
    norm_rows_backward(&norms[1], n, kept->normalized[1], kept->inverse_std[1], scratch->keys,
                       scratch->x, scratch->rounded, &last);
    const Slope slope = {kept->slope, scratch->wide, to[FC1_BIAS], f};
    gemm_finish(rows_of(scratch->rounded, h), right[3], n, f, h / 2, store_slope, &slope);
    pair_rows((const uint32_t *)scratch->rounded, h / 2, n, h, scratch->pairs);
    pair_rows((const uint32_t *)kept->activation, f / 2, n, f, scratch->wide_pairs[0]);
    weight_gradient(scratch->pairs, h, scratch->wide_pairs[0], f, n, to[FC2], add);

    pair_rows((const uint32_t *)scratch->wide, f / 2, n, f, scratch->wide_pairs[0]);
    pair_normed(&norms[0], n, kept->normalized[0], scratch->pairs);
    weight_gradient(scratch->wide_pairs[0], f, scratch->pairs, h, n, to[FC1], add);
    gemm_store(rows_of(scratch->wide, f), right[2], n, h, f / 2, scratch->x, h, true);
}

/* Backward pass of the attention half; scratch->pairs must hold the block's input as pairs. */
KERNEL static void backward_attention(const Job *job, int layer, const Group *group,
                                      const Kept *kept, const Scratch *scratch, float *const *to,
                                      bool add)
{
    const Call *call = job->call;
    const int h = (int)call->hidden, n = group->tokens;
    const Right *right = job->backward_maps + layer * MAPS;
    const Norm norm = norm_of(call, layer, 0);

    const NormGradients first = {to[OUT_BIAS], to[GAIN_1], to[SHIFT_1]};
    norm_rows_backward(&norm, n, kept->normalized[0], kept->inverse_std[0], scratch->keys,
                       scratch->x, scratch->rounded, &first);
    pair_rows((const uint32_t *)scratch->rounded, h / 2, n, h, scratch->wide_pairs[0]);
    pair_rows((const uint32_t *)kept->context, h / 2, n, h, scratch->wide_pairs[1]);
    weight_gradient(scratch->wide_pairs[0], h, scratch->wide_pairs[1], h, n, to[OUT], add);

    const Affine context = {NULL, scratch->context, NULL, h};
    gemm_finish(rows_of(scratch->rounded, h), right[1], n, h, h / 2, store_rounded, &context);
    for (int u = group->first; u < group->last; u++) {
        const User *user = &job->plan.users[u];
        const int64_t row = user->row - group->row;
        const Attention attention = attention_of(call, kept, user, group->row);
        attend_backward(&attention, scratch->context + row * h, scratch->wide + row * 3 * h,
                        &scratch->attention);
    }
    pair_rows((const uint32_t *)scratch->wide, 3 * h / 2, n, 3 * h, scratch->wide_pairs[0]);
    add_columns(scratch->wide_pairs[0], divide_up(n, 2), 3 * h, to[QKV_BIAS]);
    weight_gradient(scratch->wide_pairs[0], 3 * h, scratch->pairs, h, n, to[QKV], add);
    gemm_store(rows_of(scratch->wide, 3 * h), right[0], n, h, 3 * h / 2, scratch->x, h, true);
}

/* Fills scratch->pairs with a block's input: the output of the block before, or the tokens. */
KERNEL static void pair_input(const Job *job, int layer, const Group *group, const Scratch *scratch)
{
    const Call *call = job->call;
    const int h = (int)call->hidden;
    if (layer > 0) {
        const Norm norm = norm_of(call, layer - 1, 1);
        const Kept before = kept_from(call, &job->kept[layer - 1], group->row);
        pair_normed(&norm, group->tokens, before.normalized[1], scratch->pairs);
    } else {
        gather(job, group, call->tokens, h, scratch->sums);
        pack_right(scratch->sums, h, group->tokens, h, (Right){scratch->pairs, h, PANEL});
    }
}

/* Zeroes the gradients that are sums over rows; the first product overwrites those of maps. */
static void clear_sums(const Call *call, float *gradients)
{
    for (int layer = 0; layer < call->layers; layer++)
        for (int i = 0; i < PARAMETERS; i++)
            if (i != QKV && i != OUT && i != FC1 && i != FC2)
                memset(gradients + parameter_offset(call, layer, i), 0,
                       (size_t)parameter_size(call, i) * 4);
}

KERNEL static void backward_part(int part, void *data)
{
    const Job *job = data;
    const Call *call = job->call;
    const int h = (int)call->hidden;
    const Scratch *scratch = &job->buffers[part];
    clear_sums(call, scratch->gradients);
    bool add = false;
    for (int first = job->plan.starts[part]; first < job->plan.starts[part + 1];) {
        const Group group = group_from(&job->plan, part, first);
        gather(job, &group, call->out_gradient, h, scratch->x);
        if (call->dropout_threshold)
            gather(job, &group, call->keys, 1, scratch->keys);
        for (int layer = (int)call->layers - 1; layer >= 0; layer--) {
            const Kept kept = kept_from(call, &job->kept[layer], group.row);
            float *to[PARAMETERS];
            for (int i = 0; i < PARAMETERS; i++)
                to[i] = scratch->gradients + parameter_offset(call, layer, i);
            backward_mlp(job, layer, &group, &kept, scratch, to, add);
            pair_input(job, layer, &group, scratch);
            backward_attention(job, layer, &group, &kept, scratch, to, add);
        }
        scatter(job, &group, scratch->x, h, call->token_gradient);
        add = true;
        first = group.last;
    }
}

/* Sums the gradients of all parts, always in the same order. Each call sums one slice. */
KERNEL static void add_gradients(int part, void *data)
{
    const Job *job = data;
    const int64_t slice = (job->parameters / job->plan.parts + 63) / 64 * 64;
    const int64_t begin = part * slice;
    const int64_t end = begin + slice < job->parameters ? begin + slice : job->parameters;
    float *to = job->buffers[0].gradients;
    for (int64_t i = begin; i < end; i += LANES) {
        const __mmask16 lanes = first_lanes(end - i < LANES ? (int)(end - i) : LANES);
        __m512 sum = _mm512_maskz_loadu_ps(lanes, to + i);
        for (int p = 1; p < job->plan.parts; p++)
            sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, job->buffers[p].gradients + i));
        _mm512_mask_storeu_ps(to + i, lanes, sum);
    }
}

/* ---- functions called by Python ---- */

int userbert_can_run(void)
{
    return cpu_can_run();
}

/* SHA-256 of the sources that the library was built from; setup.py defines it. */
const char *userbert_sources(void)
{
    return USERBERT_SOURCES;
}

/* Bytes that a call needs: `kept` from forward to backward (0 without training), `scratch` in each.
 * Of the call's pointers only lengths is read. */
void userbert_encoder_memory(const Call *call, int64_t *kept, int64_t *scratch)
{
    Memory kept_end = {0}, scratch_end = {0};
    const Job job = open_job(call, call->training, &kept_end, &scratch_end);
    free(job.arrays);
    *kept = (int64_t)kept_end.next + (call->training ? 64 : 0);
    *scratch = (int64_t)scratch_end.next + 64;
}

/* Fills call->out, and call->kept if call->training. Needs at least one user. */
void userbert_encoder_forward(const Call *call)
{
    Memory kept = aligned(call->kept), scratch = aligned(call->scratch);
    Job job = open_job(call, false, &kept, &scratch);
    run_parts(call->parallel, (int)call->threads, (int)call->layers * MAPS, pack_map, &job);
    run_parts(call->parallel, job.plan.parts, job.plan.parts, forward_part, &job);
    free(job.arrays);
}

/* Fills call->token_gradient and call->gradients from call->out_gradient and call->kept. */
void userbert_encoder_backward(const Call *call)
{
    Memory kept = aligned(call->kept), scratch = aligned(call->scratch);
    Job job = open_job(call, true, &kept, &scratch);
    run_parts(call->parallel, job.plan.parts, job.plan.parts, backward_part, &job);
    if (job.plan.parts > 1)
        run_parts(call->parallel, job.plan.parts, job.plan.parts, add_gradients, &job);
    free(job.arrays);
}
