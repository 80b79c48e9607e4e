/* Self-attention of one user, forward and backward; each token attends to all the user's tokens.
 *
 * In: bf16 rows of queries, keys and values (L, 3, A, D). Out: the context, bf16 rows (L, A, D); in
 * the backward pass the gradients of queries, keys and values (L, 3, A, D). Scores and softmax are
 * float32; the backward pass recomputes them from each row's maximum and sum. encoder.c uses it.
 *
 * Shapes: L tokens of the user, A heads, D width of a head, H = A D; S is L up to a multiple of 16.
 */
#ifndef USERBERT_ATTENTION_H
#define USERBERT_ATTENTION_H

#include <math.h>

#include "gemm.h"
#include "vectors.h"

/* Rows of scores computed together. Even, because the backward pass works on pairs of rows. */
enum { SCORE_ROWS = 24 };

/* Softmax of a row: 2^(scale · score - max) · inverse_sum, where scale is LOG2_E / √D. */
typedef struct {
    float max, inverse_sum;
} Softmax;

/* Scratch memory for one head of the longest user; take_attention() in layout.h allocates it. */
typedef struct {
    uint32_t *keys, *values;                /* transposed: Right panels (D, L) */
    uint32_t *key_pairs, *value_pairs;      /* (L / 2, D) */
    uint32_t *query_pairs, *context_pairs;  /* (L / 2, D) */
    float *scores, *weight_gradients;       /* (SCORE_ROWS, S) */
    uint32_t *rounded;                      /* bf16 (SCORE_ROWS, S) */
    uint32_t *weight_pairs, *score_pairs;   /* (L / 2, S) */
} AttentionScratch;

typedef struct {
    int tokens, heads, width; /* L, A, D */
    const uint16_t *qkv;      /* queries, keys, values: (L, 3, A, D) */
    Softmax *softmax;         /* (L, A) */
} Attention;

/* Destination of one head's result: bf16 rows, each multiplied by a factor. */
typedef struct {
    uint16_t *to;
    ptrdiff_t stride;
    const Softmax *softmax; /* a row's factor is its inverse_sum, `heads` apart; or NULL */
    int heads;
    float factor;           /* factor of all rows where softmax is NULL */
} HeadStore;

KERNEL static void store_head(const void *job, const float *tile, int row, int rows, int column,
                              int columns)
{
    const HeadStore *store = job;
    for (int i = 0; i < rows; i++) {
        const float factor = store->softmax
                                 ? store->softmax[(row + i) * store->heads].inverse_sum
                                 : store->factor;
        for (int j = 0; j < columns; j += LANES)
            store_bf16(store->to + (row + i) * store->stride + column + j,
                       _mm512_mul_ps(_mm512_loadu_ps(tile + i * PANEL + j),
                                     _mm512_set1_ps(factor)));
    }
}

/* First row of a head's queries (part 0), keys (1) or values (2), in 32-bit words. */
ALWAYS_INLINE const uint32_t *head_words(const Attention *a, int part, int head)
{
    return (const uint32_t *)(a->qkv + (part * a->heads + head) * a->width);
}

/* Masks columns L to S of scores (rows, S): their softmax weight becomes zero. */
ALWAYS_INLINE KERNEL void mask_padding(float *scores, int rows, int tokens, int padded)
{
    const __mmask16 beyond = (__mmask16)~first_lanes(tokens - (padded - LANES));
    for (int i = 0; i < rows; i++)
        _mm512_mask_storeu_ps(scores + (i + 1) * padded - LANES, beyond, _mm512_set1_ps(-1e30f));
}

/* Writes the powers of scores (rows, S) as bf16, and each row's Softmax to `softmax`. */
ALWAYS_INLINE KERNEL void softmax_rows(const float *scores, int rows, int padded, float scale,
                                       uint16_t *rounded, Softmax *softmax, int heads)
{
    /* All maxima first, so that no row's sum waits for its own maximum. */
    for (int i = 0; i < rows; i++) {
        const float *row = scores + i * padded;
        __m512 max = _mm512_loadu_ps(row);
        for (int j = LANES; j < padded; j += LANES)
            max = _mm512_max_ps(max, _mm512_loadu_ps(row + j));
        softmax[i * heads].max = _mm512_reduce_max_ps(max) * scale;
    }
    for (int i = 0; i < rows; i++) {
        const __m512 max = _mm512_set1_ps(softmax[i * heads].max);
        __m512 sum = _mm512_setzero_ps();
        for (int j = 0; j < padded; j += LANES) {
            const __m512 score = _mm512_loadu_ps(scores + i * padded + j);
            const __m512 power =
                power_of_2(_mm512_fmsub_ps(score, _mm512_set1_ps(scale), max));
            sum = _mm512_add_ps(sum, power);
            store_bf16(rounded + i * padded + j, power);
        }
        softmax[i * heads].inverse_sum = 1.0f / _mm512_reduce_add_ps(sum);
    }
}

/* Fills `context` (L, A, D) and, for the backward pass, a->softmax (L, A). */
KERNEL static void attend(const Attention *a, uint16_t *context, const AttentionScratch *scratch)
{
    const int tokens = a->tokens, hidden = a->heads * a->width, pairs = divide_up(tokens, 2);
    const int padded = divide_up(tokens, LANES) * LANES, words = a->width / 2;
    const ptrdiff_t stride = 3 * hidden / 2;
    const float scale = LOG2_E / sqrtf((float)a->width);
    const Right keys = {scratch->keys, PANEL, (ptrdiff_t)PANEL * words};
    const Right values = {scratch->value_pairs, a->width, PANEL};
    for (int head = 0; head < a->heads; head++) {
        transpose_right(head_words(a, 1, head), stride, words, tokens, keys);
        pair_rows(head_words(a, 2, head), stride, tokens, a->width, scratch->value_pairs);
        for (int row = 0; row < tokens; row += SCORE_ROWS) {
            const int rows = min_int(SCORE_ROWS, tokens - row);
            const Left queries = {head_words(a, 0, head) + row * stride, stride, 1};
            Softmax *softmax = a->softmax + row * a->heads + head;
            gemm_store(queries, keys, rows, padded, words, scratch->scores, padded, false);
            mask_padding(scratch->scores, rows, tokens, padded);
            softmax_rows(scratch->scores, rows, padded, scale, (uint16_t *)scratch->rounded,
                         softmax, a->heads);
            const HeadStore store = {context + row * hidden + head * a->width, hidden, softmax,
                                     a->heads, 0};
            gemm_finish((Left){scratch->rounded, padded / 2, 1}, values, rows, a->width, pairs,
                        store_head, &store);
        }
    }
}

/* Replaces rows of scores by their softmax P, and writes each row's sum of P ∘ dP to `sums`. */
ALWAYS_INLINE KERNEL void recompute_weights(float *scores, const float *gradients, int rows,
                                            int padded, float scale, const Softmax *softmax,
                                            int heads, float *sums)
{
    for (int i = 0; i < rows; i++) {
        const __m512 max = _mm512_set1_ps(softmax[i * heads].max);
        const __m512 inverse_sum = _mm512_set1_ps(softmax[i * heads].inverse_sum);
        __m512 sum = _mm512_setzero_ps();
        for (int j = i * padded; j < (i + 1) * padded; j += LANES) {
            const __m512 score = _mm512_loadu_ps(scores + j);
            const __m512 power =
                power_of_2(_mm512_fmsub_ps(score, _mm512_set1_ps(scale), max));
            const __m512 weight = _mm512_mul_ps(power, inverse_sum);
            sum = _mm512_fmadd_ps(weight, _mm512_loadu_ps(gradients + j), sum);
            _mm512_storeu_ps(scores + j, weight);
        }
        sums[i] = _mm512_reduce_add_ps(sum);
    }
}

/* Computes the gradients of two rows of scores, dS = P ∘ (dP - sum). Writes them as bf16 rows and
 * as pairs, and P as pairs. Without a second row (`both` false), its half of each pair is zero. */
ALWAYS_INLINE KERNEL void differentiate_rows(const float *weights, const float *gradients,
                                             const float *sums, bool both, int padded,
                                             uint16_t *rounded, uint32_t *weight_pairs,
                                             uint32_t *score_pairs)
{
    const __mmask16 second = both ? 0xffff : 0;
    for (int j = 0; j < padded; j += LANES) {
        const __m512 p0 = _mm512_loadu_ps(weights + j);
        const __m512 p1 = _mm512_maskz_loadu_ps(second, weights + padded + j);
        const __m512 g0 = _mm512_loadu_ps(gradients + j);
        const __m512 g1 = _mm512_maskz_loadu_ps(second, gradients + padded + j);
        const __m512 s0 = _mm512_mul_ps(p0, _mm512_sub_ps(g0, _mm512_set1_ps(sums[0])));
        const __m512 s1 = _mm512_mul_ps(p1, _mm512_sub_ps(g1, _mm512_set1_ps(sums[1])));
        store_bf16(rounded + j, s0);
        store_bf16(rounded + padded + j, s1);
        _mm512_storeu_si512(weight_pairs + j, pair_up(p0, p1));
        _mm512_storeu_si512(score_pairs + j, pair_up(s0, s1));
    }
}

/* Fills one head's weight and score pairs, block by block, and its queries' gradients. */
KERNEL static void differentiate_scores(const Attention *a, int head,
                                        const uint16_t *context_gradient, uint16_t *gradient,
                                        const AttentionScratch *scratch)
{
    const int tokens = a->tokens, hidden = a->heads * a->width, words = a->width / 2;
    const int padded = divide_up(tokens, LANES) * LANES, pairs = divide_up(tokens, 2);
    const ptrdiff_t stride = 3 * hidden / 2, panel = (ptrdiff_t)PANEL * words;
    const float scale = 1.0f / sqrtf((float)a->width);
    const uint32_t *context = (const uint32_t *)(context_gradient + head * a->width);
    for (int row = 0; row < tokens; row += SCORE_ROWS) {
        const int rows = min_int(SCORE_ROWS, tokens - row);
        gemm_store((Left){head_words(a, 0, head) + row * stride, stride, 1},
                   (Right){scratch->keys, PANEL, panel}, rows, padded, words, scratch->scores,
                   padded, false);
        gemm_store((Left){context + row * hidden / 2, hidden / 2, 1},
                   (Right){scratch->values, PANEL, panel}, rows, padded, words,
                   scratch->weight_gradients, padded, false);
        float sums[SCORE_ROWS + 1] = {0};
        mask_padding(scratch->scores, rows, tokens, padded);
        recompute_weights(scratch->scores, scratch->weight_gradients, rows, padded, scale * LOG2_E,
                          a->softmax + row * a->heads + head, a->heads, sums);
        for (int i = 0; i < rows; i += 2) {
            const ptrdiff_t pair = (ptrdiff_t)(row + i) / 2 * padded;
            differentiate_rows(scratch->scores + i * padded, scratch->weight_gradients + i * padded,
                               sums + i, i + 1 < rows, padded,
                               (uint16_t *)scratch->rounded + i * padded,
                               scratch->weight_pairs + pair, scratch->score_pairs + pair);
        }
        const HeadStore store = {gradient + row * 3 * hidden + head * a->width, 3 * hidden, NULL, 0,
                                 scale};
        gemm_finish((Left){scratch->rounded, padded / 2, 1},
                    (Right){scratch->key_pairs, a->width, PANEL}, rows, a->width, pairs, store_head,
                    &store);
    }
}

/* Fills the gradient (L, 3, A, D) of a->qkv from the context's gradient (L, A, D), both bf16. */
KERNEL static void attend_backward(const Attention *a, const uint16_t *context_gradient,
                                   uint16_t *gradient, const AttentionScratch *scratch)
{
    const int tokens = a->tokens, width = a->width, hidden = a->heads * width, words = width / 2;
    const int padded = divide_up(tokens, LANES) * LANES, pairs = divide_up(tokens, 2);
    const ptrdiff_t stride = 3 * hidden / 2, panel = (ptrdiff_t)PANEL * words;
    for (int head = 0; head < a->heads; head++) {
        const uint32_t *keys = head_words(a, 1, head), *values = head_words(a, 2, head);
        transpose_right(keys, stride, words, tokens, (Right){scratch->keys, PANEL, panel});
        transpose_right(values, stride, words, tokens, (Right){scratch->values, PANEL, panel});
        pair_rows(keys, stride, tokens, width, scratch->key_pairs);
        pair_rows(head_words(a, 0, head), stride, tokens, width, scratch->query_pairs);
        pair_rows((const uint32_t *)(context_gradient + head * width), hidden / 2, tokens, width,
                  scratch->context_pairs);
        differentiate_scores(a, head, context_gradient, gradient, scratch);
        const HeadStore to_keys = {gradient + hidden + head * width, 3 * hidden, NULL, 0,
                                   1.0f / sqrtf((float)width)};
        gemm_finish((Left){scratch->score_pairs, 1, padded},
                    (Right){scratch->query_pairs, width, PANEL}, tokens, width, pairs, store_head,
                    &to_keys);
        const HeadStore to_values = {gradient + 2 * hidden + head * width, 3 * hidden, NULL, 0, 1};
        gemm_finish((Left){scratch->weight_pairs, 1, padded},
                    (Right){scratch->context_pairs, width, PANEL}, tokens, width, pairs, store_head,
                    &to_values);
    }
}

#endif
