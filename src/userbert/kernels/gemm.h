/* Matrix products of bf16 numbers, summed in float32: C (m, n) = A (m, k) B (k, n).
 *
 * In: operands of *pairs*: two values adjacent along k in one 32-bit word, the first in the lower
 * half. If k is odd, the last pair's upper half is zero. Out: float32, stored, added, or passed by
 * tiles to a function that finishes them (bias, activation, rounding). All kernels use it.
 *
 * An operand is an address and two strides, in words:
 *   Left   A, pair p of row i      at  pairs[i * row + p * step]
 *   Right  B, pair p of column j   at  pairs[j / 64 * panel + p * step + j % 64]
 * so that a product can read the output of another:
 *   bf16 rows (m, k), k even       Left  {rows, k / 2, 1}; from round_rows()
 *   pairs of rows (k / 2, m)       Left  {pairs, 1, m}, Right {pairs, m, 64}; from pair_rows(),
 *                                  for products along the rows, such as gradients of weights
 *   panels (n / 64, k / 2, 64)     Right {pairs, 64, 64 * (k / 2)}, for operands that are read
 *                                  often; pack_right() makes them from (k, n), pack_transposed()
 *                                  from (n, k)
 * Reading a Right loads full vectors of 16 columns, so its last panel must be readable up to a
 * multiple of 16. Columns past n are ignored.
 *
 *   gemm_store(a, b, m, n, pairs, c, stride, add)    C (m, n), row stride `stride`; add: C += A B
 *   gemm_finish(a, b, m, n, pairs, finish, job)      calls finish(job, tile, row, rows, column,
 *                                  columns) once per tile of C: at most 12 rows from `row`, at
 *                                  most 64 columns from `column`; the tile's row stride is 64
 *
 * An element of C is summed in the same order, however rows are split over calls.
 * A function that uses this must be marked KERNEL, see bf16.h.
 */
#ifndef USERBERT_GEMM_H
#define USERBERT_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "bf16.h"

enum { PANEL = 64, MAX_ROWS = 12 };

typedef struct {
    const uint32_t *pairs;
    ptrdiff_t row, step;
} Left;

typedef struct {
    const uint32_t *pairs;
    ptrdiff_t step, panel;
} Right;

typedef void (*Finish)(const void *job, const float *tile, int row, int rows, int column,
                       int columns);

ALWAYS_INLINE int min_int(int a, int b)
{
    return a < b ? a : b;
}

ALWAYS_INLINE int divide_up(int a, int b)
{
    return (a + b - 1) / b;
}

/* The lanes of the first `count` of 16 columns: all if count ≥ 16, none if count ≤ 0. */
ALWAYS_INLINE KERNEL __mmask16 first_lanes(int count)
{
    return (__mmask16)((1u << (count < 0 ? 0 : min_int(count, LANES))) - 1);
}

/* ---- products ---- */

/* Arguments that all tiles of a panel share. */
typedef struct {
    ptrdiff_t row, step;    /* strides of the Left */
    ptrdiff_t right_step;
    int pairs;
    ptrdiff_t stride;       /* stride of C's rows */
    __mmask16 last;         /* lanes of the last vector */
    bool add;
} Product;

/* One tile of C, rows × 16 · vectors. The sums stay in registers during the loop over k. */
ALWAYS_INLINE KERNEL void tile(const int rows, const int vectors, const uint32_t *a,
                               const uint32_t *b, float *c, const Product *product)
{
    const ptrdiff_t row = product->row, stride = product->stride;
    const __mmask16 last = product->last;
    __m512 sum[MAX_ROWS][4];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            sum[i][v] = _mm512_setzero_ps();
    if (product->add)
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                sum[i][v] = _mm512_maskz_loadu_ps(v == vectors - 1 ? last : 0xffff,
                                                  c + i * stride + v * LANES);
    for (int p = 0; p < product->pairs; p++) {
#pragma GCC unroll 2
        for (int pass = 0; pass < PASSES; pass++) {
            /* Load B again in the second pass: registers hold the sums and one pass's factors. */
            __asm__ volatile("" ::: "memory");
            Factors right[4];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                right[v] = factors(_mm512_loadu_si512(b + v * LANES), pass);
#pragma GCC unroll 12
            for (int i = 0; i < rows; i++) {
                const Factors left = factors(_mm512_set1_epi32((int)a[i * row]), pass);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++)
                    sum[i][v] = add_products(sum[i][v], left, right[v]);
            }
        }
        a += product->step;
        b += product->right_step;
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            if (v < vectors - 1)
                _mm512_storeu_ps(c + i * stride + v * LANES, sum[i][v]);
            else
                _mm512_mask_storeu_ps(c + i * stride + v * LANES, last, sum[i][v]);
}

typedef void (*Tile)(const uint32_t *a, const uint32_t *b, float *c, const Product *product);

#define TILE(R, V) \
    HEADER KERNEL void tile_##R##_##V(const uint32_t *a, const uint32_t *b, float *c, \
                                      const Product *product) \
    { \
        tile(R, V, a, b, c, product); \
    }
/* 24 sums fill the registers and hide the latency: 6 rows of 4 vectors, or 12 rows of 2. */
TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1)
TILE(7, 1) TILE(8, 1) TILE(9, 1) TILE(10, 1) TILE(11, 1) TILE(12, 1)
TILE(1, 2) TILE(2, 2) TILE(3, 2) TILE(4, 2) TILE(5, 2) TILE(6, 2)
TILE(7, 2) TILE(8, 2) TILE(9, 2) TILE(10, 2) TILE(11, 2) TILE(12, 2)
TILE(1, 3) TILE(2, 3) TILE(3, 3) TILE(4, 3) TILE(5, 3) TILE(6, 3)
TILE(1, 4) TILE(2, 4) TILE(3, 4) TILE(4, 4) TILE(5, 4) TILE(6, 4)
#undef TILE

/* Indexed by vectors - 1 and rows - 1. */
static const Tile TILES[4][MAX_ROWS] = {
    {tile_1_1, tile_2_1, tile_3_1, tile_4_1, tile_5_1, tile_6_1, tile_7_1, tile_8_1, tile_9_1,
     tile_10_1, tile_11_1, tile_12_1},
    {tile_1_2, tile_2_2, tile_3_2, tile_4_2, tile_5_2, tile_6_2, tile_7_2, tile_8_2, tile_9_2,
     tile_10_2, tile_11_2, tile_12_2},
    {tile_1_3, tile_2_3, tile_3_3, tile_4_3, tile_5_3, tile_6_3},
    {tile_1_4, tile_2_4, tile_3_4, tile_4_4, tile_5_4, tile_6_4},
};

/* Prefetches `rows` rows of `bytes` bytes for writing. The processor does not predict rows that are
 * a stride apart. */
ALWAYS_INLINE KERNEL void fetch_rows(const void *first, ptrdiff_t stride, int rows, int bytes)
{
    for (int i = 0; i < rows; i++)
        for (int line = 0; line < bytes; line += 64)
            __builtin_prefetch((const char *)first + i * stride + line, 1);
}

/* One panel of C, at most 64 columns: stored in c, or passed by tiles to `finish` if c is NULL. */
ALWAYS_INLINE KERNEL void multiply_panel(Left a, Right b, int m, int column, int columns, int pairs,
                                         float *c, ptrdiff_t stride, bool add, Finish finish,
                                         const void *job)
{
    _Alignas(64) float piece[MAX_ROWS * PANEL];
    const int vectors = divide_up(columns, LANES);
    const uint32_t *right = b.pairs + column / PANEL * b.panel;
    const Product product = {
        a.row, a.step, b.step, pairs, c ? stride : PANEL,
        c ? first_lanes(columns - (vectors - 1) * LANES) : 0xffff, add};
    /* Blocks of about equal height: a tile of a single row could not hide the latency. */
    const int blocks = divide_up(m, vectors > 2 ? 6 : MAX_ROWS);
    if (blocks == 0)
        return;
    const int height = m / blocks, taller = m % blocks;
    for (int block = 0, row = 0; block < blocks; block++) {
        const int rows = height + (block < taller);
        const Tile compute = TILES[vectors - 1][rows - 1];
        const uint32_t *left = a.pairs + row * a.row;
        if (c != NULL) {
            float *to = c + row * stride + column;
            if (add)
                fetch_rows(to + rows * stride, 4 * stride, rows, 4 * columns);
            compute(left, right, to, &product);
        } else {
            compute(left, right, piece, &product);
            finish(job, piece, row, rows, column, columns);
        }
        row += rows;
    }
}

HEADER KERNEL void gemm_store(Left a, Right b, int m, int n, int pairs, float *c, ptrdiff_t stride,
                              bool add)
{
    for (int column = 0; column < n; column += PANEL)
        multiply_panel(a, b, m, column, min_int(PANEL, n - column), pairs, c, stride, add, NULL,
                       NULL);
}

HEADER KERNEL void gemm_finish(Left a, Right b, int m, int n, int pairs, Finish finish,
                               const void *job)
{
    for (int column = 0; column < n; column += PANEL)
        multiply_panel(a, b, m, column, min_int(PANEL, n - column), pairs, NULL, 0, false, finish,
                       job);
}

/* ---- rounding and packing ---- */

/* Rounds 16 columns of two rows to pairs, `first` in the lower halves. */
ALWAYS_INLINE KERNEL __m512i pair_up(__m512 first, __m512 second)
{
    /* Word c is made of columns c and c + 16 of the 32 rounded ones. */
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9,
                                           24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1,
                                           16, 0);
    return _mm512_permutexvar_epi16(order, round_32(first, second));
}

/* Rounds rows (m, k) to bf16 rows of `to_stride` words, with zeros after column k. */
HEADER KERNEL void round_rows(const float *from, ptrdiff_t from_stride, int m, int k, uint32_t *to,
                              ptrdiff_t to_stride)
{
    const int columns = 2 * (int)to_stride;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < columns; j += LANES) {
            const __m512 row = _mm512_maskz_loadu_ps(first_lanes(k - j),
                                                     from + i * from_stride + j);
            _mm256_mask_storeu_epi16(to + i * to_stride + j / 2, first_lanes(columns - j),
                                     round_16(row));
        }
}

/* Rounds (k, n) to pairs of rows, written to the Right operand `b`. Columns from n to a multiple of
 * 16 become zeros. With step n (a multiple of 16) and panel 64, the result is (k / 2, n). */
HEADER KERNEL void pack_right(const float *from, ptrdiff_t stride, int k, int n, Right b)
{
    for (int p = 0; p < divide_up(k, 2); p++) {
        const float *row = from + 2 * p * stride;
        for (int j = 0; j < n; j += LANES) {
            const __mmask16 lanes = first_lanes(n - j);
            const __m512 first = _mm512_maskz_loadu_ps(lanes, row + j);
            const __m512 second = 2 * p + 1 < k ? _mm512_maskz_loadu_ps(lanes, row + stride + j)
                                                : _mm512_setzero_ps();
            _mm512_storeu_si512((uint32_t *)b.pairs + j / PANEL * b.panel + p * b.step + j % PANEL,
                                pair_up(first, second));
        }
    }
}

/* Pairs bf16 rows (m, n), n a multiple of 16, stride in words, into (m / 2 rounded up, n) words. */
HEADER KERNEL void pair_rows(const uint32_t *from, ptrdiff_t stride, int m, int n, uint32_t *to)
{
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40,
                                         8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int p = 0; p < divide_up(m, 2); p++)
        for (int j = 0; j < n; j += 2 * LANES) {
            const __mmask16 lanes = first_lanes((n - j) / 2);
            const uint32_t *row = from + 2 * p * stride + j / 2;
            const __m512i first = _mm512_maskz_loadu_epi32(lanes, row);
            const __m512i second =
                _mm512_maskz_loadu_epi32(2 * p + 1 < m ? lanes : 0, row + stride);
            uint32_t *words = to + (ptrdiff_t)p * n + j;
            _mm512_storeu_si512(words, _mm512_permutex2var_epi16(first, low, second));
            _mm512_mask_storeu_epi32(words + LANES, first_lanes(n - j - LANES),
                                     _mm512_permutex2var_epi16(first, high, second));
        }
}

/* Transposes 16 × 16 words in registers. */
ALWAYS_INLINE KERNEL void transpose_words(__m512i r[16])
{
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* Transposes words (n, pairs) to a Right operand; columns from n to a multiple of 16 are zero. */
HEADER KERNEL void transpose_right(const uint32_t *from, ptrdiff_t stride, int pairs, int n,
                                   Right b)
{
    for (int j = 0; j < n; j += LANES)
        for (int p = 0; p < pairs; p += LANES) {
            __m512i words[LANES];
            const __mmask16 lanes = first_lanes(pairs - p);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                words[i] = _mm512_maskz_loadu_epi32(j + i < n ? lanes : 0,
                                                    from + (j + i) * stride + p);
            transpose_words(words);
            uint32_t *to = (uint32_t *)b.pairs + j / PANEL * b.panel + p * b.step + j % PANEL;
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                if (p + i < pairs)
                    _mm512_storeu_si512(to + i * b.step, words[i]);
        }
}

/* Rounds W (n, k), k a multiple of 32, to the Right operand of its transpose, for C = A Wᵀ. */
HEADER KERNEL void pack_transposed(const float *from, ptrdiff_t stride, int n, int k, Right b)
{
    for (int j = 0; j < n; j += LANES)
        for (int p = 0; p < k / 2; p += LANES) {
            __m512i words[LANES];
            const float *block = from + j * stride + 2 * p;
            fetch_rows(block + 4 * LANES, 4 * stride, min_int(LANES, n - j), 8 * LANES);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) {
                const __mmask16 lanes = j + i < n ? 0xffff : 0;
                const float *row = block + i * stride;
                words[i] = round_32(_mm512_maskz_loadu_ps(lanes, row),
                                    _mm512_maskz_loadu_ps(lanes, row + LANES));
            }
            transpose_words(words);
            uint32_t *to = (uint32_t *)b.pairs + j / PANEL * b.panel + p * b.step + j % PANEL;
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++)
                _mm512_storeu_si512(to + i * b.step, words[i]);
        }
}

#endif
