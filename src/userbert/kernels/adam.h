/* One step of Adam, as in PyTorch. rows.c and softmax.c use it; kernels/rows.py fills AdamStep. */
#ifndef USERBERT_ADAM_H
#define USERBERT_ADAM_H

#include "gemm.h"

typedef struct {
    float rate;                       /* learning rate / (1 - b1^t) */
    float root;                       /* 1 / √(1 - b2^t): bias correction of √square */
    float mean_weight, square_weight; /* 1 - b1, 1 - b2: weights of the new gradient */
    float square_decay, epsilon;      /* b2, ε */
} AdamStep;

/* Updates `count` weights and Adam's moments of them in place. */
HEADER KERNEL void adam_step(AdamStep step, int64_t count, const float *gradient, float *weight,
                             float *mean, float *square)
{
    const __m512 rate = _mm512_set1_ps(step.rate), root = _mm512_set1_ps(step.root);
    const __m512 mean_weight = _mm512_set1_ps(step.mean_weight);
    const __m512 square_weight = _mm512_set1_ps(step.square_weight);
    const __m512 square_decay = _mm512_set1_ps(step.square_decay);
    const __m512 epsilon = _mm512_set1_ps(step.epsilon);
    for (int64_t i = 0; i < count; i += LANES) {
        const __mmask16 lanes = first_lanes((int)(count - i));
        const __m512 g = _mm512_maskz_loadu_ps(lanes, gradient + i);
        __m512 m = _mm512_maskz_loadu_ps(lanes, mean + i);
        __m512 v = _mm512_maskz_loadu_ps(lanes, square + i);
        m = _mm512_fmadd_ps(_mm512_sub_ps(g, m), mean_weight, m);
        v = _mm512_fmadd_ps(_mm512_mul_ps(g, g), square_weight, _mm512_mul_ps(v, square_decay));
        const __m512 size = _mm512_fmadd_ps(_mm512_sqrt_ps(v), root, epsilon);
        const __m512 w = _mm512_maskz_loadu_ps(lanes, weight + i);
        _mm512_mask_storeu_ps(mean + i, lanes, m);
        _mm512_mask_storeu_ps(square + i, lanes, v);
        _mm512_mask_storeu_ps(weight + i, lanes, _mm512_fnmadd_ps(rate, _mm512_div_ps(m, size), w));
    }
}

#endif
