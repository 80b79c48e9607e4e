/* One step of Adam, as PyTorch takes it. rows.c and softmax.c use it; kernels/rows.py fills it. */
#ifndef USERBERT_ADAM_H
#define USERBERT_ADAM_H

#include "gemm.h"

typedef struct {
    float rate;                     /* of the bias-corrected mean */
    float root;                     /* 1 / √(1 - b2^t): corrects the root of the square */
    float mean_less, square_less;   /* 1 - b1, 1 - b2 */
    float square_keep, tiny;        /* b2, ε */
} AdamStep;

/* Move `count` weights, and what Adam remembers of them, in place. */
HEADER KERNEL void adam_step(AdamStep step, int64_t count, const float *gradient, float *weight,
                             float *mean, float *square)
{
    const __m512 rate = _mm512_set1_ps(step.rate), root = _mm512_set1_ps(step.root);
    const __m512 mean_less = _mm512_set1_ps(step.mean_less);
    const __m512 square_less = _mm512_set1_ps(step.square_less);
    const __m512 square_keep = _mm512_set1_ps(step.square_keep);
    const __m512 tiny = _mm512_set1_ps(step.tiny);
    for (int64_t i = 0; i < count; i += LANES) {
        const __mmask16 lanes = first_lanes((int)(count - i));
        const __m512 g = _mm512_maskz_loadu_ps(lanes, gradient + i);
        __m512 m = _mm512_maskz_loadu_ps(lanes, mean + i);
        __m512 v = _mm512_maskz_loadu_ps(lanes, square + i);
        m = _mm512_fmadd_ps(_mm512_sub_ps(g, m), mean_less, m);
        v = _mm512_fmadd_ps(_mm512_mul_ps(g, g), square_less, _mm512_mul_ps(v, square_keep));
        const __m512 size = _mm512_fmadd_ps(_mm512_sqrt_ps(v), root, tiny);
        const __m512 w = _mm512_maskz_loadu_ps(lanes, weight + i);
        _mm512_mask_storeu_ps(mean + i, lanes, m);
        _mm512_mask_storeu_ps(square + i, lanes, v);
        _mm512_mask_storeu_ps(weight + i, lanes, _mm512_fnmadd_ps(rate, _mm512_div_ps(m, size), w));
    }
}

#endif
