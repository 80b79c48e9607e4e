/* Residual connection and norm, y = LayerNorm(x + dropout(sums + bias)), forward and backward.
 *
 * In: float32 rows (n, H), H a multiple of 64. encoder.c uses it after attention and feed-forward.
 */
#ifndef USERBERT_NORM_H
#define USERBERT_NORM_H

#include <math.h>

#include "gemm.h"
#include "vectors.h"

static const float NORM_EPSILON = 1e-12f; /* as in model/encoder.py */

typedef struct {
    int hidden;
    Dropout dropout;
    uint32_t site;
    const float *bias, *gain, *shift; /* (H,) */
} Norm;

/* One row: writes y to `x`, y as bf16 to `rounded`, and y before gain and shift to `normalized`.
 * Returns 1 / σ. */
ALWAYS_INLINE KERNEL float norm_row(const int hidden, const Norm *norm, const float *sums,
                                    int32_t key, float *x, uint16_t *rounded, float *normalized)
{
    const int half = hidden / 2;
    const __m512 scale = _mm512_set1_ps(norm->dropout.scale);
    __m512 total = _mm512_setzero_ps();
    for (int c = 0; c < half; c += LANES) {
        __m512 first = _mm512_add_ps(_mm512_loadu_ps(sums + c), _mm512_loadu_ps(norm->bias + c));
        __m512 second = _mm512_add_ps(_mm512_loadu_ps(sums + half + c),
                                      _mm512_loadu_ps(norm->bias + half + c));
        if (norm->dropout.threshold) {
            __mmask16 keep[2];
            keep_masks(norm->dropout, key, norm->site, c, &keep[0], &keep[1]);
            first = _mm512_maskz_mul_ps(keep[0], first, scale);
            second = _mm512_maskz_mul_ps(keep[1], second, scale);
        }
        first = _mm512_add_ps(first, _mm512_loadu_ps(x + c));
        second = _mm512_add_ps(second, _mm512_loadu_ps(x + half + c));
        _mm512_storeu_ps(x + c, first);
        _mm512_storeu_ps(x + half + c, second);
        total = _mm512_add_ps(total, _mm512_add_ps(first, second));
    }
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(total) / (float)hidden);
    __m512 squares = _mm512_setzero_ps();
    for (int c = 0; c < hidden; c += LANES) {
        const __m512 centered = _mm512_sub_ps(_mm512_loadu_ps(x + c), mean);
        squares = _mm512_fmadd_ps(centered, centered, squares);
    }
    const float variance = _mm512_reduce_add_ps(squares) / (float)hidden;
    const float inverse_std = 1.0f / sqrtf(variance + NORM_EPSILON);
    for (int c = 0; c < hidden; c += LANES) {
        const __m512 y = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + c), mean),
                                       _mm512_set1_ps(inverse_std));
        const __m512 full = _mm512_fmadd_ps(y, _mm512_loadu_ps(norm->gain + c),
                                            _mm512_loadu_ps(norm->shift + c));
        _mm512_storeu_ps(normalized + c, y);
        _mm512_storeu_ps(x + c, full);
        store_bf16(rounded + c, full);
    }
    return inverse_std;
}

/* Normalizes `rows` rows; keys (n,) may be NULL without dropout. */
KERNEL static void norm_rows(const Norm *norm, int rows, const float *sums, const int32_t *keys,
                             float *x, uint16_t *rounded, float *normalized, float *inverse_std)
{
    const ptrdiff_t hidden = norm->hidden;
    for (int i = 0; i < rows; i++) {
        const int32_t key = norm->dropout.threshold ? keys[i] : 0;
        float *const row = x + i * hidden;
        if (hidden == 128) /* the paper's size, constant so that the loops unroll */
            inverse_std[i] = norm_row(128, norm, sums + i * hidden, key, row, rounded + i * hidden,
                                      normalized + i * hidden);
        else
            inverse_std[i] = norm_row((int)hidden, norm, sums + i * hidden, key, row,
                                      rounded + i * hidden, normalized + i * hidden);
    }
}

/* Gradients (H,) of the parameters; every row adds to them. */
typedef struct {
    float *bias, *gain, *shift;
} NormGradients;

/* One row: replaces the gradient of y in `gradient` by that of x, and writes the gradient of the
 * sums to `rounded` as bf16. */
ALWAYS_INLINE KERNEL void norm_row_backward(const int hidden, const Norm *norm,
                                            const float *normalized, float inverse_std, int32_t key,
                                            float *gradient, uint16_t *rounded,
                                            const NormGradients *to)
{
    const int half = hidden / 2;
    __m512 sum = _mm512_setzero_ps(), dot = _mm512_setzero_ps();
    for (int c = 0; c < hidden; c += LANES) {
        const __m512 g = _mm512_loadu_ps(gradient + c), h = _mm512_loadu_ps(normalized + c);
        const __m512 scaled = _mm512_mul_ps(g, _mm512_loadu_ps(norm->gain + c));
        sum = _mm512_add_ps(sum, scaled);
        dot = _mm512_fmadd_ps(scaled, h, dot);
        _mm512_storeu_ps(to->shift + c, _mm512_add_ps(_mm512_loadu_ps(to->shift + c), g));
        _mm512_storeu_ps(to->gain + c, _mm512_fmadd_ps(g, h, _mm512_loadu_ps(to->gain + c)));
    }
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)hidden);
    const __m512 mean_dot = _mm512_set1_ps(_mm512_reduce_add_ps(dot) / (float)hidden);
    for (int c = 0; c < half; c += LANES) {
        __mmask16 keep[2] = {0xffff, 0xffff};
        if (norm->dropout.threshold)
            keep_masks(norm->dropout, key, norm->site, c, &keep[0], &keep[1]);
        for (int part = 0; part < 2; part++) {
            const int at = c + part * half;
            const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(gradient + at),
                                                _mm512_loadu_ps(norm->gain + at));
            const __m512 centered = _mm512_fnmadd_ps(_mm512_loadu_ps(normalized + at), mean_dot,
                                                     _mm512_sub_ps(scaled, mean));
            const __m512 to_x = _mm512_mul_ps(centered, _mm512_set1_ps(inverse_std));
            const __m512 to_sums =
                _mm512_maskz_mul_ps(keep[part], to_x, _mm512_set1_ps(norm->dropout.scale));
            _mm512_storeu_ps(gradient + at, to_x);
            store_bf16(rounded + at, to_sums);
            _mm512_storeu_ps(to->bias + at, _mm512_add_ps(_mm512_loadu_ps(to->bias + at), to_sums));
        }
    }
}

/* Backward pass of norm_rows(). */
KERNEL static void norm_rows_backward(const Norm *norm, int rows, const float *normalized,
                                      const float *inverse_std, const int32_t *keys,
                                      float *gradient, uint16_t *rounded, const NormGradients *to)
{
    const ptrdiff_t hidden = norm->hidden;
    for (int i = 0; i < rows; i++) {
        const int32_t key = norm->dropout.threshold ? keys[i] : 0;
        if (hidden == 128)
            norm_row_backward(128, norm, normalized + i * hidden, inverse_std[i], key,
                              gradient + i * hidden, rounded + i * hidden, to);
        else
            norm_row_backward((int)hidden, norm, normalized + i * hidden, inverse_std[i], key,
                              gradient + i * hidden, rounded + i * hidden, to);
    }
}

/* Recomputes y from its normalized rows, as pairs of rows (n / 2, H). */
KERNEL static void pair_normed(const Norm *norm, int rows, const float *normalized, uint32_t *pairs)
{
    const ptrdiff_t hidden = norm->hidden;
    for (int i = 0; i < rows; i += 2)
        for (int c = 0; c < hidden; c += LANES) {
            const __m512 gain = _mm512_loadu_ps(norm->gain + c);
            const __m512 shift = _mm512_loadu_ps(norm->shift + c);
            const float *row = normalized + i * hidden + c;
            const __m512 first = _mm512_fmadd_ps(_mm512_loadu_ps(row), gain, shift);
            const __m512 second =
                i + 1 < rows ? _mm512_fmadd_ps(_mm512_loadu_ps(row + hidden), gain, shift)
                             : _mm512_setzero_ps();
            _mm512_storeu_si512(pairs + i / 2 * hidden + c, pair_up(first, second));
        }
}

#endif
