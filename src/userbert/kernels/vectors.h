/* Functions of 16 float32 numbers: powers of 2, GELU and its derivative, dropout.
 * encoder.c and softmax.c use it.
 *
 * Powers are accurate to 2e-7 of their value, GELU to 2e-7. KERNEL functions, see bf16.h.
 */
#ifndef USERBERT_VECTORS_H
#define USERBERT_VECTORS_H

#include "bf16.h"

/* 2^x; 0 where that is too small for a float32. e^x is power_of_2(x · LOG2_E). */
#define LOG2_E 1.44269504f
ALWAYS_INLINE KERNEL __m512 power_of_2(__m512 x)
{
    const __m512 whole = _mm512_roundscale_ps(x, 0), part = _mm512_sub_ps(x, whole);
    /* 2^part, part in [-0.5, 0.5], fitted there to 2e-7. */
    __m512 power = _mm512_set1_ps(0.00132186722f);
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.00967169832f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.0555089302f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.24022238f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.693146884f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(power, whole);
}

/* GELU(x) = x Φ(x) with the exact Φ, and its derivative Φ(x) + x φ(x).
 * The tail 1 - Φ(|x|) is Abramowitz and Stegun's 7.1.26, off by at most 1e-7. */
ALWAYS_INLINE KERNEL __m512 gelu(__m512 x, __m512 *derivative)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 size = _mm512_abs_ps(x);
    const __m512 bell =
        power_of_2(_mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-0.5f * LOG2_E)));
    const __m512 below = _mm512_fmadd_ps(size, _mm512_set1_ps(0.231641888f), one);
    __m512 t = _mm512_rcp14_ps(below);
    t = _mm512_mul_ps(t, _mm512_fnmadd_ps(t, below, _mm512_set1_ps(2.0f)));
    __m512 tail = _mm512_set1_ps(0.530702715f);
    tail = _mm512_fmadd_ps(tail, t, _mm512_set1_ps(-0.7265760135f));
    tail = _mm512_fmadd_ps(tail, t, _mm512_set1_ps(0.7107068705f));
    tail = _mm512_fmadd_ps(tail, t, _mm512_set1_ps(-0.142248368f));
    tail = _mm512_fmadd_ps(tail, t, _mm512_set1_ps(0.127414796f));
    tail = _mm512_mul_ps(_mm512_mul_ps(tail, t), bell);
    const __mmask16 positive = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
    const __m512 phi = _mm512_mask_sub_ps(tail, positive, one, tail);
    const __m512 slope = _mm512_mul_ps(x, _mm512_set1_ps(0.398942280f));
    *derivative = _mm512_fmadd_ps(slope, bell, phi);
    return _mm512_mul_ps(x, phi);
}

/* ---- dropout; model/dropout.py says what is dropped ---- */

typedef struct {
    uint32_t threshold; /* of 65,536; 0: none is dropped */
    float scale;        /* of what is kept */
} Dropout;

/* The finaliser of MurmurHash3. */
ALWAYS_INLINE KERNEL __m512i mix(__m512i h)
{
    h = _mm512_xor_si512(h, _mm512_srli_epi32(h, 16));
    h = _mm512_mullo_epi32(h, _mm512_set1_epi32((int)0x85EBCA6B));
    h = _mm512_xor_si512(h, _mm512_srli_epi32(h, 13));
    h = _mm512_mullo_epi32(h, _mm512_set1_epi32((int)0xC2B2AE35));
    return _mm512_xor_si512(h, _mm512_srli_epi32(h, 16));
}

/* Which of columns c … c + 15 are kept, and which of those half a row after them. */
ALWAYS_INLINE KERNEL void kept(Dropout dropout, int32_t key, uint32_t site, int c,
                               __mmask16 *first, __mmask16 *second)
{
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i column = _mm512_mullo_epi32(_mm512_add_epi32(lanes, _mm512_set1_epi32(c)),
                                              _mm512_set1_epi32((int)0x85EBCA6B));
    const __m512i start = _mm512_set1_epi32((int)((uint32_t)key ^ (site * 0x9E3779B9u)));
    const __m512i h = mix(_mm512_add_epi32(start, column));
    const __m512i threshold = _mm512_set1_epi32((int)dropout.threshold);
    *first = _mm512_cmpge_epu32_mask(_mm512_and_si512(h, _mm512_set1_epi32(0xffff)), threshold);
    *second = _mm512_cmpge_epu32_mask(_mm512_srli_epi32(h, 16), threshold);
}

#endif
