/* bf16 numbers, and the instruction sets that the kernels use.
 *
 * The library is built twice. With USERBERT_BF16, the processor's bf16 instructions multiply and
 * round. Without it, AVX-512 does so in two passes: the product of a pair is two float32 products,
 * and sums differ in their last bits. __init__.py loads the first build that the processor can run.
 *
 * A file that defines FLOAT32_WORDS before including this gets float32 products: a 32-bit word is
 * then one float32 number instead of a pair of bf16 numbers. The same loops run over both.
 *
 * A function that uses vectors must be marked KERNEL and run only if cpu_can_run().
 */
#ifndef USERBERT_BF16_H
#define USERBERT_BF16_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))
/* For functions in headers: no file uses all of them. */
#define HEADER static __attribute__((unused))

#if USERBERT_BF16
#define KERNEL __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,prfchw")))
#else
#define KERNEL __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prfchw")))
#endif

enum { LANES = 16 };

HEADER bool cpu_can_run(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           (!USERBERT_BF16 || __builtin_cpu_supports("avx512bf16"));
}

/* PASSES is the number of multiplications that a vector of 16 words takes. */
#if FLOAT32_WORDS

enum { PASSES = 1 };
typedef __m512 Factors;

ALWAYS_INLINE KERNEL Factors factors(__m512i words, int pass)
{
    (void)pass;
    return (Factors)words;
}

ALWAYS_INLINE KERNEL __m512 add_products(__m512 sum, Factors left, Factors right)
{
    return _mm512_fmadd_ps(left, right, sum);
}

#elif USERBERT_BF16

enum { PASSES = 1 };
typedef __m512bh Factors;

ALWAYS_INLINE KERNEL Factors factors(__m512i pairs, int pass)
{
    (void)pass;
    return (Factors)pairs;
}

/* sum + the products of both halves. */
ALWAYS_INLINE KERNEL __m512 add_products(__m512 sum, Factors left, Factors right)
{
    return _mm512_dpbf16_ps(sum, left, right);
}

#else

enum { PASSES = 2 };
typedef __m512 Factors;

/* Pass 0 returns the lower halves as float32, pass 1 the upper halves. */
ALWAYS_INLINE KERNEL Factors factors(__m512i pairs, int pass)
{
    return (Factors)(pass ? _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000))
                          : _mm512_slli_epi32(pairs, 16));
}

ALWAYS_INLINE KERNEL __m512 add_products(__m512 sum, Factors left, Factors right)
{
    return _mm512_fmadd_ps(left, right, sum);
}

#endif

#if USERBERT_BF16

/* 16 numbers rounded to bf16, ties to even. */
ALWAYS_INLINE KERNEL __m256i round_16(__m512 x)
{
    return (__m256i)_mm512_cvtneps_pbh(x);
}

/* 32 numbers rounded to bf16, the first 16 in the lower half. */
ALWAYS_INLINE KERNEL __m512i round_32(__m512 first, __m512 second)
{
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}

#else

/* Words whose upper halves are the rounded numbers. NaN appears only if something went wrong; all
 * NaNs but those with the largest payloads stay NaN. */
ALWAYS_INLINE KERNEL __m512i rounded_words(__m512 x)
{
    const __m512i word = (__m512i)x;
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(word, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(word, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
}

ALWAYS_INLINE KERNEL __m256i round_16(__m512 x)
{
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded_words(x), 16));
}

ALWAYS_INLINE KERNEL __m512i round_32(__m512 first, __m512 second)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(round_16(first)), round_16(second), 1);
}

#endif

ALWAYS_INLINE KERNEL __m512 load_bf16(const uint16_t *from)
{
    return (__m512)_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
}

ALWAYS_INLINE KERNEL void store_bf16(uint16_t *to, __m512 x)
{
    _mm256_storeu_si256((__m256i *)to, round_16(x));
}

#endif
