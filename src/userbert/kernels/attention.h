/* Self-attention of one user: every token sees all of the user's tokens. encoder.c uses it.
 *
 * In: bf16 rows of queries, keys and values side by side (L, 3, A, D). Out: what was seen, bf16
 * rows (L, A, D); backwards the gradients of all three, in their places. Scores and softmax are
 * float32 and are formed again in the backward pass from each row's greatest and sum.
 *
 * Letters: L tokens of the user, A heads, D width of a head, H = A D; S is L up to a multiple of 16.
 */
#ifndef USERBERT_ATTENTION_H
#define USERBERT_ATTENTION_H

#include <math.h>

#include "gemm.h"
#include "vectors.h"

/* Rows of scores that are worked on at once: even, so that rows pair up. */
enum { SCORE_ROWS = 24 };

/* A row's softmax: 2^(scale · score - greatest) · share, where scale is LOG2_E / √D. */
typedef struct {
    float greatest, share;
} Softmax;

/* Room for one head of the longest user, in the order of attention_bytes(). */
typedef struct {
    uint32_t *keys, *values;                       /* transposed: Right panels (D, L) */
    uint32_t *key_pairs, *value_pairs;             /* (L / 2, D) */
    uint32_t *query_pairs, *seen_pairs;            /* (L / 2, D) */
    float *scores, *weight_gradients;              /* (SCORE_ROWS, S) */
    uint32_t *rounded;                             /* bf16 (SCORE_ROWS, S) */
    uint32_t *weight_pairs, *score_pairs;          /* (L / 2, S) */
} AttentionRoom;

typedef struct {
    int tokens, heads, width; /* L, A, D */
    const uint16_t *mixed;    /* queries, keys, values: (L, 3, A, D) */
    Softmax *softmax;         /* (L, A) */
} Attention;

/* Where one head's result goes: bf16 rows, each times a factor of its own or of all. */
typedef struct {
    uint16_t *to;
    ptrdiff_t stride;
    const Softmax *softmax; /* by row, `heads` apart; NULL: factor for all */
    int heads;
    float factor;
} HeadStore;

KERNEL static void store_head(const void *job, const float *tile, int row, int rows, int column,
                              int columns)
{
    const HeadStore *store = job;
    for (int i = 0; i < rows; i++) {
        const float share = store->softmax ? store->softmax[(row + i) * store->heads].share
                                           : store->factor;
        for (int j = 0; j < columns; j += LANES)
            store_bf16(store->to + (row + i) * store->stride + column + j,
                       _mm512_mul_ps(_mm512_loadu_ps(tile + i * PANEL + j), _mm512_set1_ps(share)));
    }
}

/* Words of part 0 (queries), 1 (keys) or 2 (values) of a head's first row. */
ALWAYS_INLINE const uint32_t *head_words(const Attention *a, int part, int head)
{
    return (const uint32_t *)(a->mixed + (part * a->heads + head) * a->width);
}

/* Of rows of scores (rows, S) only L are real: let the others be so low that they weigh nothing. */
ALWAYS_INLINE KERNEL void close_rows(float *scores, int rows, int tokens, int padded)
{
    const __mmask16 beyond = (__mmask16)~first_lanes(tokens - (padded - LANES));
    for (int i = 0; i < rows; i++)
        _mm512_mask_storeu_ps(scores + (i + 1) * padded - LANES, beyond, _mm512_set1_ps(-1e30f));
}

/* Softmax of rows of scores (rows, S): 2^(…) rounded to bf16; their sums stay aside. */
ALWAYS_INLINE KERNEL void soften_rows(const float *scores, int rows, int padded, float scale,
                                      uint16_t *rounded, Softmax *softmax, int heads)
{
    /* All greatest first: the rows' sums then wait for nothing. */
    for (int i = 0; i < rows; i++) {
        const float *row = scores + i * padded;
        __m512 greatest = _mm512_loadu_ps(row);
        for (int j = LANES; j < padded; j += LANES)
            greatest = _mm512_max_ps(greatest, _mm512_loadu_ps(row + j));
        softmax[i * heads].greatest = _mm512_reduce_max_ps(greatest) * scale;
    }
    for (int i = 0; i < rows; i++) {
        const __m512 greatest = _mm512_set1_ps(softmax[i * heads].greatest);
        __m512 sum = _mm512_setzero_ps();
        for (int j = 0; j < padded; j += LANES) {
            const __m512 score = _mm512_loadu_ps(scores + i * padded + j);
            const __m512 power =
                power_of_2(_mm512_fmsub_ps(score, _mm512_set1_ps(scale), greatest));
            sum = _mm512_add_ps(sum, power);
            store_bf16(rounded + i * padded + j, power);
        }
        softmax[i * heads].share = 1.0f / _mm512_reduce_add_ps(sum);
    }
}

/* Fill seen (L, A, D) and, for the way back, softmax (L, A). */
KERNEL static void attend(const Attention *a, uint16_t *seen, const AttentionRoom *room)
{
    const int tokens = a->tokens, hidden = a->heads * a->width, pairs = divide_up(tokens, 2);
    const int padded = divide_up(tokens, LANES) * LANES, words = a->width / 2;
    const ptrdiff_t stride = 3 * hidden / 2;
    const float scale = LOG2_E / sqrtf((float)a->width);
    const Right keys = {room->keys, PANEL, (ptrdiff_t)PANEL * words};
    const Right values = {room->value_pairs, a->width, PANEL};
    for (int head = 0; head < a->heads; head++) {
        transpose_right(head_words(a, 1, head), stride, words, tokens, keys);
        pair_rows(head_words(a, 2, head), stride, tokens, a->width, room->value_pairs);
        for (int row = 0; row < tokens; row += SCORE_ROWS) {
            const int rows = smaller(SCORE_ROWS, tokens - row);
            const Left queries = {head_words(a, 0, head) + row * stride, stride, 1};
            Softmax *softmax = a->softmax + row * a->heads + head;
            gemm_store(queries, keys, rows, padded, words, room->scores, padded, false);
            close_rows(room->scores, rows, tokens, padded);
            soften_rows(room->scores, rows, padded, scale, (uint16_t *)room->rounded, softmax,
                        a->heads);
            const HeadStore store = {seen + row * hidden + head * a->width, hidden, softmax,
                                     a->heads, 0};
            gemm_finish((Left){room->rounded, padded / 2, 1}, values, rows, a->width, pairs,
                        store_head, &store);
        }
    }
}

/* Rows of weights P from their scores, in place, and each row's sum of P ∘ dP. */
ALWAYS_INLINE KERNEL void weigh_rows(float *scores, const float *gradients, int rows, int padded,
                                     float scale, const Softmax *softmax, int heads, float *sums)
{
    for (int i = 0; i < rows; i++) {
        const __m512 greatest = _mm512_set1_ps(softmax[i * heads].greatest);
        const __m512 share = _mm512_set1_ps(softmax[i * heads].share);
        __m512 sum = _mm512_setzero_ps();
        for (int j = i * padded; j < (i + 1) * padded; j += LANES) {
            const __m512 score = _mm512_loadu_ps(scores + j);
            const __m512 power =
                power_of_2(_mm512_fmsub_ps(score, _mm512_set1_ps(scale), greatest));
            const __m512 weight = _mm512_mul_ps(power, share);
            sum = _mm512_fmadd_ps(weight, _mm512_loadu_ps(gradients + j), sum);
            _mm512_storeu_ps(scores + j, weight);
        }
        sums[i] = _mm512_reduce_add_ps(sum);
    }
}

/* Scores' gradients dS = P ∘ (dP - sum) of two rows, each alone and both, and P, as pairs. Without
 * a second row its half of the pairs is zero. */
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

/* One head's gradients of weights and scores, block by block; and the queries' gradients. */
KERNEL static void differentiate_scores(const Attention *a, int head, const uint16_t *seen_gradient,
                                        uint16_t *gradient, const AttentionRoom *room)
{
    const int tokens = a->tokens, hidden = a->heads * a->width, words = a->width / 2;
    const int padded = divide_up(tokens, LANES) * LANES, pairs = divide_up(tokens, 2);
    const ptrdiff_t stride = 3 * hidden / 2, panel = (ptrdiff_t)PANEL * words;
    const float scale = 1.0f / sqrtf((float)a->width);
    const uint32_t *seen = (const uint32_t *)(seen_gradient + head * a->width);
    for (int row = 0; row < tokens; row += SCORE_ROWS) {
        const int rows = smaller(SCORE_ROWS, tokens - row);
        gemm_store((Left){head_words(a, 0, head) + row * stride, stride, 1},
                   (Right){room->keys, PANEL, panel}, rows, padded, words, room->scores, padded,
                   false);
        gemm_store((Left){seen + row * hidden / 2, hidden / 2, 1},
                   (Right){room->values, PANEL, panel}, rows, padded, words,
                   room->weight_gradients, padded, false);
        float sums[SCORE_ROWS + 1] = {0};
        close_rows(room->scores, rows, tokens, padded);
        weigh_rows(room->scores, room->weight_gradients, rows, padded, scale * LOG2_E,
                   a->softmax + row * a->heads + head, a->heads, sums);
        for (int i = 0; i < rows; i += 2) {
            const ptrdiff_t pair = (ptrdiff_t)(row + i) / 2 * padded;
            differentiate_rows(room->scores + i * padded, room->weight_gradients + i * padded,
                               sums + i, i + 1 < rows, padded,
                               (uint16_t *)room->rounded + i * padded, room->weight_pairs + pair,
                               room->score_pairs + pair);
        }
        const HeadStore store = {gradient + row * 3 * hidden + head * a->width, 3 * hidden, NULL, 0,
                                 scale};
        gemm_finish((Left){room->rounded, padded / 2, 1}, (Right){room->key_pairs, a->width, PANEL},
                    rows, a->width, pairs, store_head, &store);
    }
}

/* From seen's gradient (L, A, D), bf16, fill the gradient (L, 3, A, D) of what came in, bf16. */
KERNEL static void attend_backward(const Attention *a, const uint16_t *seen_gradient,
                                   uint16_t *gradient, const AttentionRoom *room)
{
    const int tokens = a->tokens, width = a->width, hidden = a->heads * width, words = width / 2;
    const int padded = divide_up(tokens, LANES) * LANES, pairs = divide_up(tokens, 2);
    const ptrdiff_t stride = 3 * hidden / 2, panel = (ptrdiff_t)PANEL * words;
    for (int head = 0; head < a->heads; head++) {
        const uint32_t *keys = head_words(a, 1, head), *values = head_words(a, 2, head);
        transpose_right(keys, stride, words, tokens, (Right){room->keys, PANEL, panel});
        transpose_right(values, stride, words, tokens, (Right){room->values, PANEL, panel});
        pair_rows(keys, stride, tokens, width, room->key_pairs);
        pair_rows(head_words(a, 0, head), stride, tokens, width, room->query_pairs);
        pair_rows((const uint32_t *)(seen_gradient + head * width), hidden / 2, tokens, width,
                  room->seen_pairs);
        differentiate_scores(a, head, seen_gradient, gradient, room);
        const HeadStore to_keys = {gradient + hidden + head * width, 3 * hidden, NULL, 0,
                                   1.0f / sqrtf((float)width)};
        gemm_finish((Left){room->score_pairs, 1, padded}, (Right){room->query_pairs, width, PANEL},
                    tokens, width, pairs, store_head, &to_keys);
        const HeadStore to_values = {gradient + 2 * hidden + head * width, 3 * hidden, NULL, 0, 1};
        gemm_finish((Left){room->weight_pairs, 1, padded}, (Right){room->seen_pairs, width, PANEL},
                    tokens, width, pairs, store_head, &to_values);
    }
}

#endif
