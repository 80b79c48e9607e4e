/* The loss of model/softmax.py: a linear layer, a softmax over many ids, sets of right answers.
 *
 * In: word vectors (M, H), weights (V, H) and biases (V,) in float32, and pairs (word, id, weight): the
 * weights of word m's set sum to counts[m]. Forward: the logarithms of the sums under the softmaxes and the weights
 * that a word expects, Σ p W. Backward: the gradients of weights and biases, either written out, or
 * taken at once as a step of Adam: then they never leave the cache.
 *
 * Ids go by in chunks: their weights are read once a pass. A chunk's logits are never kept; the
 * shares exp(z - top) are, in bf16, as the backward pass multiplies them again. `top` is a little
 * more than the greatest logit that a word has met so far, so that it seldom changes. Products are
 * of bf16 numbers, summed in float32; all else is float32. Chunks are parted in a fixed way, so
 * results do not depend on the number of threads.
 *
 * Letters: M words, H hidden, V ids, C chunks.
 */
#include <math.h>

#include "adam.h"
#include "gemm.h"
#include "parallel.h"
#include "vectors.h"

enum { CHUNK = 128, WORDS = 384, PARTS = 16 };

/* Above the greatest logit so far, so that few later ones exceed it. */
static const float MARGIN = 4.0f;

typedef struct {
    Fork fork;
    int64_t words, ids, hidden, threads;
    const float *vectors, *weight, *bias;
    const int64_t *pair_words, *pair_ids; /* (P,), ascending in ids */
    const float *pair_weights; /* (P,); of the backward pass alone */
    int64_t pairs;
    const float *shifts;      /* (V,): in `bias`, but not for words that hold the id; NULL: none */
    uint32_t *shares;         /* (C, M / 2 rounded up, CHUNK) pairs of words */
    float *tops;              /* (C, M) */
    float *log_sums;          /* (M,) */
    float *expected;          /* (M, H) */
    /* Backward alone. */
    const float *counts;      /* (M,) */
    float gradient;           /* of the loss */
    float *to_weight, *to_bias; /* gradients; NULL: take a step of Adam instead */
    float *weight_mean, *weight_square, *bias_mean, *bias_square;
    AdamStep step;
    float *room;
} Call;

/* What a part of the chunks adds up. */
typedef struct {
    float *top, *sum;   /* (M,) */
    float *expected;    /* (M, H) */
    float *weights;     /* two operands of a chunk's weights, or its gradients: (CHUNK, H) words */
    float *logits;      /* (WORDS, CHUNK), and shares in bf16; before, a chunk's rounded weights */
    float *rounded;     /* the vectors as pairs, by row or by two rows */
} Room;

static int64_t up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static int64_t logits_size(int64_t hidden)
{
    const int64_t logits = WORDS * CHUNK * 3 / 2, rounded = CHUNK * (hidden / 2);
    return logits > rounded ? logits : rounded;
}

static int64_t room_size(int64_t words, int64_t hidden)
{
    const int64_t even = up(words, 2);
    return 2 * up(words, LANES) + words * hidden + CHUNK * hidden + logits_size(hidden) +
           up(even + 1, LANES) + CHUNK + even * hidden + even / 2 * hidden;
}

static Room room_of(const Call *call, int part)
{
    float *at = call->room + part * room_size(call->words, call->hidden);
    Room room = {.top = at};
    room.sum = at += up(call->words, LANES);
    room.expected = at += up(call->words, LANES);
    room.weights = at += call->words * call->hidden;
    room.logits = at += CHUNK * call->hidden;
    room.rounded = at + logits_size(call->hidden);
    return room;
}

/* Floats of room that a call needs. */
int64_t userbert_softmax_room(int64_t words, int64_t hidden)
{
    return PARTS * room_size(words, hidden);
}

/* As many for any number of threads. */
static int parts_of(const Call *call)
{
    return smaller(PARTS, divide_up((int)call->ids, CHUNK));
}

static int first_chunk(const Call *call, int part)
{
    return (int)(divide_up((int)call->ids, CHUNK) * (int64_t)part / parts_of(call));
}

/* The first pair whose id is not before `id`. */
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

/* Undo the shifts of ids in the words that hold them, in a block's logits of a chunk. */
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

/* Make place above a greater logit: what was summed up below the old top becomes less. */
static KERNEL void raise_top(const Room *room, int word, int hidden, float top)
{
    const float less = expf(room->top[word] - top);
    room->top[word] = top;
    room->sum[word] *= less;
    float *expected = room->expected + (ptrdiff_t)word * hidden;
    for (int j = 0; j < hidden; j += LANES)
        _mm512_storeu_ps(expected + j,
                         _mm512_mul_ps(_mm512_loadu_ps(expected + j), _mm512_set1_ps(less)));
}

/* A word's logits without bias → its shares, rounded; columns past the last id have none. */
static KERNEL void to_shares(const Room *room, int word, int hidden, const float *logits,
                             const float *bias, int ids, uint16_t *shares)
{
    __m512 z[CHUNK / LANES];
    __m512 most = _mm512_set1_ps(-INFINITY);
#pragma GCC unroll 8
    for (int v = 0; v < CHUNK / LANES; v++) {
        const __mmask16 lanes = first_lanes(ids - v * LANES);
        z[v] = _mm512_mask_add_ps(_mm512_set1_ps(-INFINITY), lanes,
                                  _mm512_loadu_ps(logits + v * LANES),
                                  _mm512_maskz_loadu_ps(lanes, bias + v * LANES));
        most = _mm512_max_ps(most, z[v]);
    }
    const float greatest = _mm512_reduce_max_ps(most);
    if (greatest > room->top[word])
        raise_top(room, word, hidden, greatest + MARGIN);
    const __m512 top = _mm512_set1_ps(room->top[word]);
    __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int v = 0; v < CHUNK / LANES; v++) {
        const __mmask16 lanes = first_lanes(ids - v * LANES);
        const __m512 share = _mm512_maskz_mov_ps(lanes, power_of_2(
            _mm512_mul_ps(_mm512_sub_ps(z[v], top), _mm512_set1_ps(1.44269504f))));
        store_bf16(shares + v * LANES, share);
        /* What is multiplied later shall add up to one. */
        sum = _mm512_add_ps(sum, load_bf16(shares + v * LANES));
    }
    room->sum[word] += _mm512_reduce_add_ps(sum);
}

static KERNEL void forward_part(int part, void *job)
{
    const Call *call = job;
    const int words = (int)call->words, hidden = (int)call->hidden;
    const Room room = room_of(call, part);
    for (int m = 0; m < words; m++) {
        room.top[m] = -INFINITY;
        room.sum[m] = 0;
    }
    memset(room.expected, 0, sizeof(float) * (size_t)words * (size_t)hidden);
    uint32_t *rows = (uint32_t *)room.rounded;
    round_rows(call->vectors, hidden, words, hidden, rows, hidden / 2);
    /* The same weights, paired along H for the logits and along ids for what is expected. */
    const Right by_hidden = {(uint32_t *)room.weights, PANEL, (ptrdiff_t)PANEL * (hidden / 2)};
    const Right by_id = {by_hidden.pairs + CHUNK * (hidden / 2), hidden, PANEL};
    uint16_t *shares = (uint16_t *)(room.logits + WORDS * CHUNK);
    uint32_t *rounded = (uint32_t *)room.logits; /* before the logits are there */
    for (int chunk = first_chunk(call, part); chunk < first_chunk(call, part + 1); chunk++) {
        const int first = chunk * CHUNK, ids = smaller(CHUNK, (int)call->ids - first);
        const float *weight = call->weight + (ptrdiff_t)first * hidden;
        /* Once through the weights in order, as memory likes it; the rest is in the cache. */
        round_rows(weight, hidden, ids, hidden, rounded, hidden / 2);
        transpose_right(rounded, hidden / 2, hidden / 2, ids, by_hidden);
        pair_rows(rounded, hidden / 2, ids, hidden, (uint32_t *)by_id.pairs);
        uint32_t *kept = call->shares + (ptrdiff_t)chunk * divide_up(words, 2) * CHUNK;
        for (int m = 0; m < words; m += WORDS) {
            const int count = smaller(WORDS, words - m);
            const Left left = {rows + (ptrdiff_t)m * (hidden / 2), hidden / 2, 1};
            gemm_store(left, by_hidden, count, (int)up(ids, LANES), hidden / 2, room.logits, CHUNK,
                       false);
            if (call->shifts != NULL)
                unshift(call, first, ids, m, count, room.logits);
            for (int i = 0; i < count; i++)
                to_shares(&room, m + i, hidden, room.logits + (ptrdiff_t)i * CHUNK,
                          call->bias + first, ids, shares + (ptrdiff_t)i * CHUNK);
            const Left share_rows = {(uint32_t *)shares, CHUNK / 2, 1};
            gemm_store(share_rows, by_id, count, hidden, divide_up(ids, 2),
                       room.expected + (ptrdiff_t)m * hidden, hidden, true);
            if (call->shares != NULL)
                pair_rows((uint32_t *)shares, CHUNK / 2, count, CHUNK, kept + m / 2 * CHUNK);
        }
        if (call->tops != NULL)
            memcpy(call->tops + (ptrdiff_t)chunk * words, room.top,
                   sizeof(float) * (size_t)words);
    }
}

/* Add the parts up: log_sums and expected, the latter as a mean over the shares. */
static KERNEL void merge(const Call *call)
{
    const int words = (int)call->words, hidden = (int)call->hidden;
    for (int m = 0; m < words; m++) {
        float top = -INFINITY, sum = 0, less[PARTS];
        for (int part = 0; part < parts_of(call); part++)
            top = fmaxf(top, room_of(call, part).top[m]);
        for (int part = 0; part < parts_of(call); part++) {
            less[part] = expf(room_of(call, part).top[m] - top);
            sum += room_of(call, part).sum[m] * less[part];
        }
        call->log_sums[m] = top + logf(sum);
        for (int j = 0; j < hidden; j += LANES) {
            __m512 all = _mm512_setzero_ps();
            for (int part = 0; part < parts_of(call); part++)
                all = _mm512_fmadd_ps(
                    _mm512_loadu_ps(room_of(call, part).expected + (ptrdiff_t)m * hidden + j),
                    _mm512_set1_ps(less[part] / sum), all);
            _mm512_storeu_ps(call->expected + (ptrdiff_t)m * hidden + j, all);
        }
    }
}

void userbert_softmax_forward(Call *call)
{
    run_parts(call->fork, (int)call->threads, parts_of(call), forward_part, call);
    merge(call);
}

/* ---- backward ---- */

/* How much of a word's share each word's gradient is: d loss / d z = scale · exp(z - top). */
static void scales_of(const Call *call, int chunk, float *scale)
{
    const float *tops = call->tops + (ptrdiff_t)chunk * call->words;
    for (int m = 0; m < call->words; m++)
        scale[m] = call->gradient * call->counts[m] * expf(tops[m] - call->log_sums[m]);
    scale[call->words] = 0; /* the second of the last pair */
}

/* The scaled vectors, as pairs of rows: (M / 2 rounded up, H). */
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

/* A chunk's gradients of biases: Σ scale · share over the words. */
static KERNEL void bias_gradients(const Call *call, const uint32_t *shares, const float *scale,
                                  float *to_bias)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    for (int v = 0; v < CHUNK; v += LANES) {
        __m512 sum = _mm512_setzero_ps();
        for (int p = 0; p < divide_up((int)call->words, 2); p++) {
            const __m512i pair = _mm512_loadu_si512(shares + p * CHUNK + v);
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
    const int words = (int)call->words, hidden = (int)call->hidden, even = (int)up(words, 2);
    const Room room = room_of(call, part);
    float *scale = room.rounded, *last = NULL;
    float *bias_room = scale + up(even + 1, LANES);
    float *scaled = bias_room + CHUNK;
    const Right vectors = {(uint32_t *)(scaled + (ptrdiff_t)even * hidden), hidden, PANEL};
    for (int chunk = first_chunk(call, part); chunk < first_chunk(call, part + 1); chunk++) {
        float *tops = call->tops + (ptrdiff_t)chunk * words;
        if (last == NULL || memcmp(last, tops, sizeof(float) * (size_t)words) != 0) {
            scales_of(call, chunk, scale);
            scale_vectors(call, scale, scaled, vectors);
            last = tops;
        }
        const int first = chunk * CHUNK, ids = smaller(CHUNK, (int)call->ids - first);
        const uint32_t *shares = call->shares + (ptrdiff_t)chunk * (even / 2) * CHUNK;
        const ptrdiff_t at = (ptrdiff_t)first * hidden;
        float *to_weight = call->to_weight ? call->to_weight + at : room.weights;
        const Left left = {shares, 1, CHUNK};
        gemm_store(left, vectors, ids, hidden, even / 2, to_weight, hidden, false);
        bias_gradients(call, shares, scale, bias_room);
        const int64_t end = first_pair(call, first + ids);
        for (int64_t pair = first_pair(call, first); pair < end; pair++) {
            const int64_t id = call->pair_ids[pair] - first;
            const float *vector = call->vectors + call->pair_words[pair] * hidden;
            const float own = call->gradient * call->pair_weights[pair];
            for (int j = 0; j < hidden; j++)
                to_weight[id * hidden + j] -= own * vector[j];
            bias_room[id] -= own;
        }
        if (call->to_weight) {
            memcpy(call->to_bias + first, bias_room, sizeof(float) * (size_t)ids);
        } else {
            adam_step(call->step, (int64_t)ids * hidden, to_weight, (float *)call->weight + at,
                      call->weight_mean + at, call->weight_square + at);
            adam_step(call->step, ids, bias_room, (float *)call->bias + first,
                      call->bias_mean + first, call->bias_square + first);
        }
    }
}

void userbert_softmax_backward(Call *call)
{
    run_parts(call->fork, (int)call->threads, parts_of(call), backward_part, call);
}
