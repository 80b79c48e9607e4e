/* Functions of 16 float32 numbers: powers of 2, GELU and its derivative, dropout masks.
 *
 * Relative error of powers: 2e-7; absolute error of GELU: 2e-7. All kernels but rows.c use it.
 */
#ifndef USERBERT_VECTORS_H
#define USERBERT_VECTORS_H

#include "bf16.h"

/* 2^x; 0 where it underflows. e^x is power_of_2(x · LOG2_E). */
#define LOG2_E 1.44269504f
ALWAYS_INLINE KERNEL __m512 power_of_2(__m512 x)
{
    const __m512 integer = _mm512_roundscale_ps(x, 0), fraction = _mm512_sub_ps(x, integer);
    /* Polynomial fit of 2^fraction on [-0.5, 0.5], accurate to 2e-7. */
    __m512 power = _mm512_set1_ps(0.00132186722f);
    power = _mm512_fmadd_ps(power, fraction, _mm512_set1_ps(0.00967169832f));
    power = _mm512_fmadd_ps(power, fraction, _mm512_set1_ps(0.0555089302f));
    power = _mm512_fmadd_ps(power, fraction, _mm512_set1_ps(0.24022238f));
    power = _mm512_fmadd_ps(power, fraction, _mm512_set1_ps(0.693146884f));
    power = _mm512_fmadd_ps(power, fraction, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(power, integer);
}

/* GELU(x) = x Φ(x) with the exact Φ, and its derivative Φ(x) + x φ(x).
 * The tail 1 - Φ(|x|) is formula 7.1.26 of Abramowitz and Stegun; its error is at most 1e-7. */
ALWAYS_INLINE KERNEL __m512 gelu(__m512 x, __m512 *derivative)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 magnitude = _mm512_abs_ps(x);
    const __m512 gaussian =
        power_of_2(_mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-0.5f * LOG2_E)));
    const __m512 denominator = _mm512_fmadd_ps(magnitude, _mm512_set1_ps(0.231641888f), one);
    __m512 t = _mm512_rcp14_ps(denominator);
    t = _mm512_mul_ps(t, _mm512_fnmadd_ps(t, denominator, _mm512_set1_ps(2.0f)));
    __m512 tail = _mm512_set1_ps(0.530702715f);
    tail = _mm512_fmadd_ps(tail, t, _mm512_set1_ps(-0.7265760135f));
    tail = _mm512_fmadd_ps(tail, t, _mm512_set1_ps(0.7107068705f));
    tail = _mm512_fmadd_ps(tail, t, _mm512_set1_ps(-0.142248368f));
    tail = _mm512_fmadd_ps(tail, t, _mm512_set1_ps(0.127414796f));
    tail = _mm512_mul_ps(_mm512_mul_ps(tail, t), gaussian);
    const __mmask16 positive = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
    const __m512 phi = _mm512_mask_sub_ps(tail, positive, one, tail);
    const __m512 slope = _mm512_mul_ps(x, _mm512_set1_ps(0.398942280f));
    *derivative = _mm512_fmadd_ps(slope, gaussian, phi);
    return _mm512_mul_ps(x, phi);
}

/* ---- dropout; model/dropout.py defines the masks ---- */

typedef struct {
    uint32_t threshold; /* dropout probability in 1/65,536ths */
    float scale;        /* factor of the values that are not dropped */
} Dropout;

/* Finalizer of MurmurHash3. */
ALWAYS_INLINE KERNEL __m512i murmur_finalizer(__m512i h)
{
    h = _mm512_xor_si512(h, _mm512_srli_epi32(h, 16));
    h = _mm512_mullo_epi32(h, _mm512_set1_epi32((int)0x85EBCA6B));
    h = _mm512_xor_si512(h, _mm512_srli_epi32(h, 13));
    h = _mm512_mullo_epi32(h, _mm512_set1_epi32((int)0xC2B2AE35));
    return _mm512_xor_si512(h, _mm512_srli_epi32(h, 16));
}

/* Masks of values to keep: `first` for columns c … c + 15, `second` for those half a row later. */
ALWAYS_INLINE KERNEL void keep_masks(Dropout dropout, int32_t key, uint32_t site, int c,
                                     __mmask16 *first, __mmask16 *second)
{
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i column = _mm512_mullo_epi32(_mm512_add_epi32(lanes, _mm512_set1_epi32(c)),
                                              _mm512_set1_epi32((int)0x85EBCA6B));
    const __m512i start = _mm512_set1_epi32((int)((uint32_t)key ^ (site * 0x9E3779B9u)));
    const __m512i h = murmur_finalizer(_mm512_add_epi32(start, column));
    const __m512i threshold = _mm512_set1_epi32((int)dropout.threshold);
    *first = _mm512_cmpge_epu32_mask(_mm512_and_si512(h, _mm512_set1_epi32(0xffff)), threshold);
    *second = _mm512_cmpge_epu32_mask(_mm512_srli_epi32(h, 16), threshold);
}

#endif
