/* The encoder of model/encoder.py, forward and backward, for all users of a batch in one call.
 *
 * In: tokens (T, H) of many users, one after the other, how many each has (B,), and the weights of
 * every block in float32. Out: (T, H); backwards, the gradients of tokens and weights, float32.
 * Products are of bf16 numbers, summed in float32; all else is float32. There is no padding: every
 * user's rows pass through all layers on one thread, in groups that stay in the cache.
 * kernels/encoder.py calls it.
 *
 * Letters: B users, T tokens of all users, n tokens of a group, H hidden, F feed-forward, A heads.
 */
#include "attention.h"
#include "gemm.h"
#include "layout.h"
#include "norm.h"
#include "parallel.h"
#include "vectors.h"

/* ---- weights ---- */

/* Pack one linear map: its transpose for the way forward, itself for a way back. */
KERNEL static void pack_map(int number, void *data)
{
    const Job *job = data;
    const Call *call = job->call;
    const int map = number % MAPS;
    const float *weight = call->weights[number / MAPS * PARAMETERS + MAP[map]];
    int out, in;
    map_shape(call, map, &out, &in);
    pack_transposed(weight, in, out, in, job->forward[number]);
    if (call->training)
        pack_right(weight, in, out, in, job->back[number]);
}

static Norm norm_of(const Call *call, int layer, int which)
{
    const float *const *weights = call->weights + layer * PARAMETERS;
    const int bias = which ? NARROW_BIAS : OUT_BIAS, gain = which ? GAIN_2 : GAIN_1;
    return (Norm){(int)call->hidden,
                  {(uint32_t)call->threshold, call->scale},
                  (uint32_t)(2 * layer + 1 + which),
                  weights[bias], weights[gain], weights[gain + 1]};
}

/* ---- forward ---- */

/* What a product's tiles become: bf16 rows, after a bias and maybe GELU. */
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
            const __m512 bent = gelu(_mm512_add_ps(_mm512_loadu_ps(tile + i * PANEL + j),
                                                   _mm512_loadu_ps(affine->bias + column + j)),
                                     &slope);
            store_bf16(affine->to + at, bent);
            if (affine->slope)
                store_bf16(affine->slope + at, slope);
        }
}

static Left rows_of(const uint16_t *rows, int64_t columns)
{
    return (Left){(const uint32_t *)rows, columns / 2, 1};
}

/* Attention of each of a group's users. */
static Attention attention_of(const Call *call, const Kept *kept, const User *user, int64_t row)
{
    return (Attention){user->tokens, (int)call->heads, (int)(call->hidden / call->heads),
                       kept->mixed + (user->row - row) * 3 * call->hidden,
                       kept->softmax + (user->row - row) * call->heads};
}

/* One block over a group's rows; room->x and room->rounded are its input, then its output. */
KERNEL static void forward_layer(const Job *job, int layer, const Group *group, const Kept *kept,
                                 const Room *room)
{
    const Call *call = job->call;
    const int h = (int)call->hidden, f = (int)call->wide, n = group->tokens;
    const float *const *weights = call->weights + layer * PARAMETERS;
    const Right *right = job->forward + layer * MAPS;
    const Norm norms[2] = {norm_of(call, layer, 0), norm_of(call, layer, 1)};

    const Affine mixed = {weights[MIX_BIAS], kept->mixed, NULL, 3 * h};
    gemm_finish(rows_of(room->rounded, h), right[0], n, 3 * h, h / 2, store_affine, &mixed);
    for (int u = group->first; u < group->last; u++) {
        const User *user = &job->plan.users[u];
        const Attention attention = attention_of(call, kept, user, group->row);
        attend(&attention, kept->seen + (user->row - group->row) * h, &room->attention);
    }
    gemm_store(rows_of(kept->seen, h), right[1], n, h, h / 2, room->sums, h, false);
    norm_rows(&norms[0], n, room->sums, room->keys, room->x, room->rounded, kept->hat[0],
              kept->inverse[0]);

    const Affine wide = {weights[WIDEN_BIAS], kept->wide, kept->slope, f};
    gemm_finish(rows_of(room->rounded, h), right[2], n, f, h / 2, store_gelu, &wide);
    gemm_store(rows_of(kept->wide, f), right[3], n, h, f / 2, room->sums, h, false);
    norm_rows(&norms[1], n, room->sums, room->keys, room->x, room->rounded, kept->hat[1],
              kept->inverse[1]);
}

/* Collect a group's rows of the caller's (T, columns) numbers of 4 bytes, or put them back. */
static void gather(const Job *job, const Group *group, const void *from, int64_t columns, void *to)
{
    for (int u = group->first; u < group->last; u++) {
        const User *user = &job->plan.users[u];
        memcpy((char *)to + (user->row - group->row) * columns * 4,
               (const char *)from + user->first * columns * 4, (size_t)(user->tokens * columns * 4));
    }
}

static void scatter(const Job *job, const Group *group, const float *from, int64_t columns,
                    float *to)
{
    for (int u = group->first; u < group->last; u++) {
        const User *user = &job->plan.users[u];
        memcpy(to + user->first * columns, from + (user->row - group->row) * columns,
               (size_t)(user->tokens * columns * 4));
    }
}

KERNEL static void forward_part(int part, void *data)
{
    const Job *job = data;
    const Call *call = job->call;
    const int h = (int)call->hidden;
    const Room *room = &job->rooms[part];
    for (int first = job->plan.starts[part]; first < job->plan.starts[part + 1];) {
        const Group group = group_from(&job->plan, part, first);
        gather(job, &group, call->tokens, h, room->x);
        if (call->threshold)
            gather(job, &group, call->keys, 1, room->keys);
        round_rows(room->x, h, group.tokens, h, (uint32_t *)room->rounded, h / 2);
        for (int layer = 0; layer < call->layers; layer++) {
            const Kept kept =
                call->training ? kept_from(call, &job->kept[layer], group.row) : room->kept;
            forward_layer(job, layer, &group, &kept, room);
        }
        scatter(job, &group, room->x, h, call->out);
        first = group.last;
    }
}

/* ---- backward ---- */

/* Gradients of what GELU gave become those of what it got, bf16, and their sums the bias's. */
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

/* Add the sums of pairs' columns (n / 2, columns) to (columns,). */
KERNEL static void add_columns(const uint32_t *pairs, int count, int columns, float *to)
{
    const __m512i ones = _mm512_set1_epi16(0x3f80);
    for (int j = 0; j < columns; j += LANES) {
        __m512 sum = _mm512_loadu_ps(to + j);
        for (int p = 0; p < count; p++)
            for (int turn = 0; turn < TURNS; turn++)
                sum = add_products(sum, factors(_mm512_loadu_si512(pairs + p * columns + j), turn),
                                   factors(ones, turn));
        _mm512_storeu_ps(to + j, sum);
    }
}

/* A weight's gradient (out, in) += outᵀ in, over the pairs of a group's rows. */
KERNEL static void weight_gradient(const uint32_t *out_pairs, int out, const uint32_t *in_pairs,
                                   int in, int tokens, float *to, bool add)
{
    gemm_store((Left){out_pairs, 1, out}, (Right){in_pairs, in, PANEL}, out, in,
               divide_up(tokens, 2), to, in, add);
}

/* The way back through the feed-forward half; room->x is the gradient of its output, then input. */
KERNEL static void backward_wide(const Job *job, int layer, const Group *group, const Kept *kept,
                                 const Room *room, float *const *to, bool add)
{
    const Call *call = job->call;
    const int h = (int)call->hidden, f = (int)call->wide, n = group->tokens;
    const Right *right = job->back + layer * MAPS;
    const Norm norms[2] = {norm_of(call, layer, 0), norm_of(call, layer, 1)};

    const NormGradients last = {to[NARROW_BIAS], to[GAIN_2], to[SHIFT_2]};
    norm_rows_backward(&norms[1], n, kept->hat[1], kept->inverse[1], room->keys, room->x,
                       room->rounded, &last);
    const Slope slope = {kept->slope, room->wide, to[WIDEN_BIAS], f};
    gemm_finish(rows_of(room->rounded, h), right[3], n, f, h / 2, store_slope, &slope);
    pair_rows((const uint32_t *)room->rounded, h / 2, n, h, room->pairs);
    pair_rows((const uint32_t *)kept->wide, f / 2, n, f, room->wide_pairs[0]);
    weight_gradient(room->pairs, h, room->wide_pairs[0], f, n, to[NARROW], add);

    pair_rows((const uint32_t *)room->wide, f / 2, n, f, room->wide_pairs[0]);
    pair_normed(&norms[0], n, kept->hat[0], room->pairs);
    weight_gradient(room->wide_pairs[0], f, room->pairs, h, n, to[WIDEN], add);
    gemm_store(rows_of(room->wide, f), right[2], n, h, f / 2, room->x, h, true);
}

/* The way back through the attention half; room->pairs is to hold the block's input, as pairs. */
KERNEL static void backward_mixed(const Job *job, int layer, const Group *group, const Kept *kept,
                                  const Room *room, float *const *to, bool add)
{
    const Call *call = job->call;
    const int h = (int)call->hidden, n = group->tokens;
    const Right *right = job->back + layer * MAPS;
    const Norm norm = norm_of(call, layer, 0);

    const NormGradients first = {to[OUT_BIAS], to[GAIN_1], to[SHIFT_1]};
    norm_rows_backward(&norm, n, kept->hat[0], kept->inverse[0], room->keys, room->x,
                       room->rounded, &first);
    pair_rows((const uint32_t *)room->rounded, h / 2, n, h, room->wide_pairs[0]);
    pair_rows((const uint32_t *)kept->seen, h / 2, n, h, room->wide_pairs[1]);
    weight_gradient(room->wide_pairs[0], h, room->wide_pairs[1], h, n, to[OUT], add);

    const Affine seen = {NULL, room->seen, NULL, h};
    gemm_finish(rows_of(room->rounded, h), right[1], n, h, h / 2, store_rounded, &seen);
    for (int u = group->first; u < group->last; u++) {
        const User *user = &job->plan.users[u];
        const int64_t row = user->row - group->row;
        const Attention attention = attention_of(call, kept, user, group->row);
        attend_backward(&attention, room->seen + row * h, room->wide + row * 3 * h,
                        &room->attention);
    }
    pair_rows((const uint32_t *)room->wide, 3 * h / 2, n, 3 * h, room->wide_pairs[0]);
    add_columns(room->wide_pairs[0], divide_up(n, 2), 3 * h, to[MIX_BIAS]);
    weight_gradient(room->wide_pairs[0], 3 * h, room->pairs, h, n, to[MIX], add);
    gemm_store(rows_of(room->wide, 3 * h), right[0], n, h, 3 * h / 2, room->x, h, true);
}

/* The pairs of a block's input rows: the block before formed them, or the caller gave them. */
KERNEL static void pair_input(const Job *job, int layer, const Group *group, const Room *room)
{
    const Call *call = job->call;
    const int h = (int)call->hidden;
    if (layer > 0) {
        const Norm norm = norm_of(call, layer - 1, 1);
        const Kept before = kept_from(call, &job->kept[layer - 1], group->row);
        pair_normed(&norm, group->tokens, before.hat[1], room->pairs);
    } else {
        gather(job, group, call->tokens, h, room->sums);
        pack_right(room->sums, h, group->tokens, h, (Right){room->pairs, h, PANEL});
    }
}

/* Zeros for the gradients that rows add to: of all but the maps, whose first products store. */
static void clear_sums(const Call *call, float *gradients)
{
    for (int layer = 0; layer < call->layers; layer++)
        for (int i = 0; i < PARAMETERS; i++)
            if (i != MIX && i != OUT && i != WIDEN && i != NARROW)
                memset(gradients + parameter_offset(call, layer, i), 0,
                       (size_t)parameter_size(call, i) * 4);
}

KERNEL static void backward_part(int part, void *data)
{
    const Job *job = data;
    const Call *call = job->call;
    const int h = (int)call->hidden;
    const Room *room = &job->rooms[part];
    clear_sums(call, room->gradients);
    bool add = false;
    for (int first = job->plan.starts[part]; first < job->plan.starts[part + 1];) {
        const Group group = group_from(&job->plan, part, first);
        gather(job, &group, call->out_gradient, h, room->x);
        if (call->threshold)
            gather(job, &group, call->keys, 1, room->keys);
        for (int layer = (int)call->layers - 1; layer >= 0; layer--) {
            const Kept kept = kept_from(call, &job->kept[layer], group.row);
            float *to[PARAMETERS];
            for (int i = 0; i < PARAMETERS; i++)
                to[i] = room->gradients + parameter_offset(call, layer, i);
            backward_wide(job, layer, &group, &kept, room, to, add);
            pair_input(job, layer, &group, room);
            backward_mixed(job, layer, &group, &kept, room, to, add);
        }
        scatter(job, &group, room->x, h, call->token_gradient);
        add = true;
        first = group.last;
    }
}

/* Add all parts' gradients up, a share of the numbers a part, always in the same order. */
KERNEL static void add_gradients(int part, void *data)
{
    const Job *job = data;
    const int64_t share = (job->parameters / job->plan.parts + 63) / 64 * 64;
    const int64_t begin = part * share;
    const int64_t end = begin + share < job->parameters ? begin + share : job->parameters;
    float *to = job->rooms[0].gradients;
    for (int64_t i = begin; i < end; i += LANES) {
        const __mmask16 lanes = first_lanes(end - i < LANES ? (int)(end - i) : LANES);
        __m512 sum = _mm512_maskz_loadu_ps(lanes, to + i);
        for (int p = 1; p < job->plan.parts; p++)
            sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, job->rooms[p].gradients + i));
        _mm512_mask_storeu_ps(to + i, lanes, sum);
    }
}

/* ---- what Python calls ---- */

int userbert_can_run(void)
{
    return cpu_can_run();
}

/* The SHA-256 of the sources that this was built from; setup.py says it. */
const char *userbert_sources(void)
{
    return USERBERT_SOURCES;
}

/* How many bytes a call needs: `kept` from forward to backward (0 without training), `room` in
 * either. The call's own pointers, but for lengths, are not read. */
void userbert_encoder_memory(const Call *call, int64_t *kept, int64_t *room)
{
    Memory of_kept = {0}, of_room = {0};
    const Job job = open_job(call, call->training, &of_kept, &of_room);
    free(job.arrays);
    *kept = (int64_t)of_kept.next + (call->training ? 64 : 0);
    *room = (int64_t)of_room.next + 64;
}

/* Fill call->out; with call->training also call->kept. At least one user. */
void userbert_encoder_forward(const Call *call)
{
    Memory kept = aligned(call->kept), room = aligned(call->room);
    Job job = open_job(call, false, &kept, &room);
    run_parts(call->fork, (int)call->threads, (int)call->layers * MAPS, pack_map, &job);
    run_parts(call->fork, job.plan.parts, job.plan.parts, forward_part, &job);
    free(job.arrays);
}

/* Fill call->token_gradient and call->gradients from call->out_gradient and what was kept. */
void userbert_encoder_backward(const Call *call)
{
    Memory kept = aligned(call->kept), room = aligned(call->room);
    Job job = open_job(call, true, &kept, &room);
    run_parts(call->fork, job.plan.parts, job.plan.parts, backward_part, &job);
    if (job.plan.parts > 1)
        run_parts(call->fork, job.plan.parts, job.plan.parts, add_gradients, &job);
    free(job.arrays);
}
