/* bf16 numbers, and the instructions that every kernel may use.
 *
 * The library is built twice. With USERBERT_BF16 products and rounding are the processor's own;
 * without, AVX-512 alone does the same in two turns: a product of pairs is two of float32, and
 * sums differ in their last bits. __init__.py takes the first that the processor can run.
 *
 * A file that says FLOAT32_WORDS before gets products of float32 instead: a word is then one number
 * and not a pair. The same loops run over either.
 *
 * A function that uses vectors must be marked KERNEL and run only if cpu_can_run().
 */
#ifndef USERBERT_BF16_H
#define USERBERT_BF16_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))
/* A header's functions: each file uses some of them. */
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

/* 16 words, two neighbours each or one number, are multiplied in so many turns. */
#if FLOAT32_WORDS

enum { TURNS = 1 };
typedef __m512 Factors;

ALWAYS_INLINE KERNEL Factors factors(__m512i words, int turn)
{
    (void)turn;
    return (Factors)words;
}

ALWAYS_INLINE KERNEL __m512 add_products(__m512 sum, Factors left, Factors right)
{
    return _mm512_fmadd_ps(left, right, sum);
}

#elif USERBERT_BF16

enum { TURNS = 1 };
typedef __m512bh Factors;

ALWAYS_INLINE KERNEL Factors factors(__m512i pairs, int turn)
{
    (void)turn;
    return (Factors)pairs;
}

/* sum + the products of either half. */
ALWAYS_INLINE KERNEL __m512 add_products(__m512 sum, Factors left, Factors right)
{
    return _mm512_dpbf16_ps(sum, left, right);
}

#else

enum { TURNS = 2 };
typedef __m512 Factors;

/* The lower halves as float32 in the first turn, the upper ones in the second. */
ALWAYS_INLINE KERNEL Factors factors(__m512i pairs, int turn)
{
    return (Factors)(turn ? _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000))
                          : _mm512_slli_epi32(pairs, 16));
}

ALWAYS_INLINE KERNEL __m512 add_products(__m512 sum, Factors left, Factors right)
{
    return _mm512_fmadd_ps(left, right, sum);
}

#endif

#if USERBERT_BF16

/* 16 numbers rounded to bf16, halves to even. */
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

/* Words whose upper halves are the rounded numbers. No kernel's numbers are NaN but by a fault,
 * and all but the widest NaN stay so. */
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
