/* The loss of model/softmax.py: linear layer, softmax over many ids, cross-entropy against sets.
 *
 * In: word vectors (M, H), weights (V, H) and biases (V,) in float32, and pairs (word, id, weight);
 * the weights of word m's pairs sum to counts[m]. Forward: the log of the softmax's sum and the
 * expected weights Σ p W of each word. Backward: the gradients of weights and biases, either stored
 * or applied at once as a step of Adam, so that they never leave the cache.
 *
 * Ids are processed in chunks, so each pass reads the weights once. A chunk's logits are not kept.
 * The exponentials exp(z - top) are kept in bf16 for the backward pass. `top` is a little above the
 * largest logit of a word so far, so that it seldom changes. Products are of bf16 numbers, summed
 * in float32; the rest is float32. The split into parts is fixed, so results do not depend on the
 * number of threads.
 *
 * Shapes: M words, H hidden, V ids, C chunks.
 */
#include <math.h>

#include "adam.h"
#include "gemm.h"
#include "parallel.h"
#include "vectors.h"

/* Ids per chunk, words computed together, and most parts of the work. */
enum { CHUNK = 128, BLOCK_WORDS = 384, PARTS = 16 };

/* Distance of `top` from the largest logit so far; later logits seldom exceed it. */
static const float MARGIN = 4.0f;

typedef struct {
    Parallel parallel;
    int64_t words, ids, hidden, threads;
    const float *vectors, *weight, *bias;
    const int64_t *pair_words, *pair_ids; /* (P,), ascending in ids */
    const float *pair_weights; /* (P,); backward only */
    int64_t pairs;
    const float *shifts;      /* (V,): part of `bias` that unshift() removes; or NULL */
    uint32_t *exps;           /* (C, M / 2 rounded up, CHUNK) pairs of words */
    float *tops;              /* (C, M) */
    float *log_sums;          /* (M,) */
    float *expected;          /* (M, H) */
    /* Backward only: */
    const float *counts;      /* (M,) */
    float gradient;           /* gradient of the loss */
    float *to_weight, *to_bias; /* gradients; if NULL, a step of Adam is applied */
    float *weight_mean, *weight_square, *bias_mean, *bias_square;
    AdamStep step;
    float *scratch;
} Call;

/* Sums and buffers of one part of the chunks. */
typedef struct {
    float *top, *sum;   /* (M,) */
    float *expected;    /* (M, H) */
    float *weights;     /* a chunk's weights as two operands, or its gradients: (CHUNK, H) words */
    float *logits;      /* a chunk's rounded weights; then logits (BLOCK_WORDS, CHUNK) and exps */
    float *rounded;     /* the vectors as pairs: along H, or of two rows */
} Scratch;

static int64_t align_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static int64_t logits_size(int64_t hidden)
{
    const int64_t logits = BLOCK_WORDS * CHUNK * 3 / 2, rounded = CHUNK * (hidden / 2);
    return logits > rounded ? logits : rounded;
}

static int64_t scratch_size(int64_t words, int64_t hidden)
{
    const int64_t even_words = align_up(words, 2);
    return 2 * align_up(words, LANES) + words * hidden + CHUNK * hidden + logits_size(hidden) +
           align_up(even_words + 1, LANES) + CHUNK + even_words * hidden + even_words / 2 * hidden;
}

static Scratch scratch_of(const Call *call, int part)
{
    float *at = call->scratch + part * scratch_size(call->words, call->hidden);
    Scratch scratch = {.top = at};
    scratch.sum = at += align_up(call->words, LANES);
    scratch.expected = at += align_up(call->words, LANES);
    scratch.weights = at += call->words * call->hidden;
    scratch.logits = at += CHUNK * call->hidden;
    scratch.rounded = at + logits_size(call->hidden);
    return scratch;
}

/* Floats of scratch memory that a call needs. */
int64_t userbert_softmax_scratch(int64_t words, int64_t hidden)
{
    return PARTS * scratch_size(words, hidden);
}

/* The number of parts; it does not depend on the number of threads. */
static int parts_of(const Call *call)
{
    return min_int(PARTS, divide_up((int)call->ids, CHUNK));
}

static int first_chunk(const Call *call, int part)
{
    return (int)(divide_up((int)call->ids, CHUNK) * (int64_t)part / parts_of(call));
}

/* Index of the first pair whose id is at least `id`. */
static int64_t first_pair(const Call *call, int64_t id)
{
    int64_t low = 0, high = call->pairs;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (call->pair_ids[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* ---- forward ---- */

/* Subtracts the shift of each id from its logits of words that hold the id, in one block. */
static void unshift(const Call *call, int first_id, int ids, int first_word, int words,
                    float *logits)
{
    const int64_t end = first_pair(call, first_id + ids);
    for (int64_t pair = first_pair(call, first_id); pair < end; pair++) {
        const int64_t word = call->pair_words[pair] - first_word, id = call->pair_ids[pair];
        if (word >= 0 && word < words)
            logits[word * CHUNK + id - first_id] -= call->shifts[id];
    }
}

/* Raises a word's top, and scales its sums down to match. */
static KERNEL void raise_top(const Scratch *scratch, int word, int hidden, float top)
{
    const float factor = expf(scratch->top[word] - top);
    scratch->top[word] = top;
    scratch->sum[word] *= factor;
    float *expected = scratch->expected + (ptrdiff_t)word * hidden;
    for (int j = 0; j < hidden; j += LANES)
        _mm512_storeu_ps(expected + j,
                         _mm512_mul_ps(_mm512_loadu_ps(expected + j), _mm512_set1_ps(factor)));
}

/* Turns a word's logits without bias into bf16 exponentials; columns past the last id get zero. */
static KERNEL void to_exps(const Scratch *scratch, int word, int hidden, const float *logits,
                           const float *bias, int ids, uint16_t *exps)
{
    __m512 z[CHUNK / LANES];
    __m512 lane_max = _mm512_set1_ps(-INFINITY);
#pragma GCC unroll 8
    for (int v = 0; v < CHUNK / LANES; v++) {
        const __mmask16 lanes = first_lanes(ids - v * LANES);
        z[v] = _mm512_mask_add_ps(_mm512_set1_ps(-INFINITY), lanes,
                                  _mm512_loadu_ps(logits + v * LANES),
                                  _mm512_maskz_loadu_ps(lanes, bias + v * LANES));
        lane_max = _mm512_max_ps(lane_max, z[v]);
    }
    const float max = _mm512_reduce_max_ps(lane_max);
    if (max > scratch->top[word])
        raise_top(scratch, word, hidden, max + MARGIN);
    const __m512 top = _mm512_set1_ps(scratch->top[word]);
    __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int v = 0; v < CHUNK / LANES; v++) {
        const __mmask16 lanes = first_lanes(ids - v * LANES);
        const __m512 exponential = _mm512_maskz_mov_ps(lanes, power_of_2(
            _mm512_mul_ps(_mm512_sub_ps(z[v], top), _mm512_set1_ps(1.44269504f))));
        store_bf16(exps + v * LANES, exponential);
        /* Sum the rounded values, so that those in the product add up to one. */
        sum = _mm512_add_ps(sum, load_bf16(exps + v * LANES));
    }
    scratch->sum[word] += _mm512_reduce_add_ps(sum);
}

static KERNEL void forward_part(int part, void *job)
{
    const Call *call = job;
    const int words = (int)call->words, hidden = (int)call->hidden;
    const Scratch scratch = scratch_of(call, part);
    for (int m = 0; m < words; m++) {
        scratch.top[m] = -INFINITY;
        scratch.sum[m] = 0;
    }
    memset(scratch.expected, 0, sizeof(float) * (size_t)words * (size_t)hidden);
    uint32_t *rows = (uint32_t *)scratch.rounded;
    round_rows(call->vectors, hidden, words, hidden, rows, hidden / 2);
    /* The weights, paired along H for the logits and along ids for the expected weights. */
    const Right by_hidden = {(uint32_t *)scratch.weights, PANEL, (ptrdiff_t)PANEL * (hidden / 2)};
    const Right by_id = {by_hidden.pairs + CHUNK * (hidden / 2), hidden, PANEL};
    uint16_t *exps = (uint16_t *)(scratch.logits + BLOCK_WORDS * CHUNK);
    uint32_t *rounded = (uint32_t *)scratch.logits; /* overwritten by the logits later */
    for (int chunk = first_chunk(call, part); chunk < first_chunk(call, part + 1); chunk++) {
        const int first = chunk * CHUNK, ids = min_int(CHUNK, (int)call->ids - first);
        const float *weight = call->weight + (ptrdiff_t)first * hidden;
        /* Only this line reads the weights from memory; the lines below read the cache. */
        round_rows(weight, hidden, ids, hidden, rounded, hidden / 2);
        transpose_right(rounded, hidden / 2, hidden / 2, ids, by_hidden);
        pair_rows(rounded, hidden / 2, ids, hidden, (uint32_t *)by_id.pairs);
        uint32_t *chunk_exps = call->exps + (ptrdiff_t)chunk * divide_up(words, 2) * CHUNK;
        for (int m = 0; m < words; m += BLOCK_WORDS) {
            const int count = min_int(BLOCK_WORDS, words - m);
            const Left left = {rows + (ptrdiff_t)m * (hidden / 2), hidden / 2, 1};
            gemm_store(left, by_hidden, count, (int)align_up(ids, LANES), hidden / 2,
                       scratch.logits, CHUNK, false);
            if (call->shifts != NULL)
                unshift(call, first, ids, m, count, scratch.logits);
            for (int i = 0; i < count; i++)
                to_exps(&scratch, m + i, hidden, scratch.logits + (ptrdiff_t)i * CHUNK,
                        call->bias + first, ids, exps + (ptrdiff_t)i * CHUNK);
            const Left exp_rows = {(uint32_t *)exps, CHUNK / 2, 1};
            gemm_store(exp_rows, by_id, count, hidden, divide_up(ids, 2),
                       scratch.expected + (ptrdiff_t)m * hidden, hidden, true);
            if (call->exps != NULL)
                pair_rows((uint32_t *)exps, CHUNK / 2, count, CHUNK, chunk_exps + m / 2 * CHUNK);
        }
        if (call->tops != NULL)
            memcpy(call->tops + (ptrdiff_t)chunk * words, scratch.top,
                   sizeof(float) * (size_t)words);
    }
}

/* Combines the parts: log_sums, and expected as the mean weighted by the exponentials. */
static KERNEL void merge(const Call *call)
{
    const int words = (int)call->words, hidden = (int)call->hidden;
    for (int m = 0; m < words; m++) {
        float top = -INFINITY, sum = 0, factor[PARTS];
        for (int part = 0; part < parts_of(call); part++)
            top = fmaxf(top, scratch_of(call, part).top[m]);
        for (int part = 0; part < parts_of(call); part++) {
            factor[part] = expf(scratch_of(call, part).top[m] - top);
            sum += scratch_of(call, part).sum[m] * factor[part];
        }
        call->log_sums[m] = top + logf(sum);
        for (int j = 0; j < hidden; j += LANES) {
            __m512 all = _mm512_setzero_ps();
            for (int part = 0; part < parts_of(call); part++)
                all = _mm512_fmadd_ps(
                    _mm512_loadu_ps(scratch_of(call, part).expected + (ptrdiff_t)m * hidden + j),
                    _mm512_set1_ps(factor[part] / sum), all);
            _mm512_storeu_ps(call->expected + (ptrdiff_t)m * hidden + j, all);
        }
    }
}

void userbert_softmax_forward(Call *call)
{
    run_parts(call->parallel, (int)call->threads, parts_of(call), forward_part, call);
    merge(call);
}

/* ---- backward ---- */

/* Factor of each word's exponentials in the gradient: d loss / d z = scale · exp(z - top). */
static void gradient_scales(const Call *call, int chunk, float *scale)
{
    const float *tops = call->tops + (ptrdiff_t)chunk * call->words;
    for (int m = 0; m < call->words; m++)
        scale[m] = call->gradient * call->counts[m] * expf(tops[m] - call->log_sums[m]);
    scale[call->words] = 0; /* second half of the last pair */
}

/* Writes the scaled vectors as pairs of rows (M / 2 rounded up, H). */
static KERNEL void scale_vectors(const Call *call, const float *scale, float *scaled,
                                 Right pairs)
{
    const int hidden = (int)call->hidden;
    for (int m = 0; m < call->words; m++)
        for (int j = 0; j < hidden; j += LANES)
            _mm512_storeu_ps(
                scaled + (ptrdiff_t)m * hidden + j,
                _mm512_mul_ps(_mm512_loadu_ps(call->vectors + (ptrdiff_t)m * hidden + j),
                              _mm512_set1_ps(scale[m])));
    pack_right(scaled, hidden, (int)call->words, hidden, pairs);
}

/* Gradients of a chunk's biases: Σ scale · exponential over the words. */
static KERNEL void bias_gradients(const Call *call, const uint32_t *exps, const float *scale,
                                  float *to_bias)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    for (int v = 0; v < CHUNK; v += LANES) {
        __m512 sum = _mm512_setzero_ps();
        for (int p = 0; p < divide_up((int)call->words, 2); p++) {
            const __m512i pair = _mm512_loadu_si512(exps + p * CHUNK + v);
            sum = _mm512_fmadd_ps((__m512)_mm512_slli_epi32(pair, 16),
                                  _mm512_set1_ps(scale[2 * p]), sum);
            sum = _mm512_fmadd_ps((__m512)_mm512_and_si512(pair, upper),
                                  _mm512_set1_ps(scale[2 * p + 1]), sum);
        }
        _mm512_storeu_ps(to_bias + v, sum);
    }
}

static KERNEL void backward_part(int part, void *job)
{
    const Call *call = job;
    const int words = (int)call->words, hidden = (int)call->hidden;
    const int even_words = (int)align_up(words, 2);
    const Scratch scratch = scratch_of(call, part);
    float *scale = scratch.rounded, *scaled_tops = NULL;
    float *bias_gradient = scale + align_up(even_words + 1, LANES);
    float *scaled = bias_gradient + CHUNK;
    const Right vectors = {(uint32_t *)(scaled + (ptrdiff_t)even_words * hidden), hidden, PANEL};
    for (int chunk = first_chunk(call, part); chunk < first_chunk(call, part + 1); chunk++) {
        float *tops = call->tops + (ptrdiff_t)chunk * words;
        if (scaled_tops == NULL || memcmp(scaled_tops, tops, sizeof(float) * (size_t)words) != 0) {
            gradient_scales(call, chunk, scale);
            scale_vectors(call, scale, scaled, vectors);
            scaled_tops = tops;
        }
        const int first = chunk * CHUNK, ids = min_int(CHUNK, (int)call->ids - first);
        const uint32_t *exps = call->exps + (ptrdiff_t)chunk * (even_words / 2) * CHUNK;
        const ptrdiff_t at = (ptrdiff_t)first * hidden;
        float *to_weight = call->to_weight ? call->to_weight + at : scratch.weights;
        const Left left = {exps, 1, CHUNK};
        gemm_store(left, vectors, ids, hidden, even_words / 2, to_weight, hidden, false);
        bias_gradients(call, exps, scale, bias_gradient);
        const int64_t end = first_pair(call, first + ids);
        for (int64_t pair = first_pair(call, first); pair < end; pair++) {
            const int64_t id = call->pair_ids[pair] - first;
            const float *vector = call->vectors + call->pair_words[pair] * hidden;
            const float pair_gradient = call->gradient * call->pair_weights[pair];
            for (int j = 0; j < hidden; j++)
                to_weight[id * hidden + j] -= pair_gradient * vector[j];
            bias_gradient[id] -= pair_gradient;
        }
        if (call->to_weight) {
            memcpy(call->to_bias + first, bias_gradient, sizeof(float) * (size_t)ids);
        } else {
            adam_step(call->step, (int64_t)ids * hidden, to_weight, (float *)call->weight + at,
                      call->weight_mean + at, call->weight_square + at);
            adam_step(call->step, ids, bias_gradient, (float *)call->bias + first,
                      call->bias_mean + first, call->bias_square + first);
        }
    }
}

void userbert_softmax_backward(Call *call)
{
    run_parts(call->parallel, (int)call->threads, parts_of(call), backward_part, call);
}
