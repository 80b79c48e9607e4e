/* What a call of the encoder is told: the structure that kernels/encoder.py fills.
 *
 * encoder.c answers in bf16, forward and backward; forward.c in float32, forward alone, and reads
 * no more of it than the sizes, lengths, tokens, weights and where results and room are.
 *
 * Letters: B users, T tokens of all users, H hidden, F feed-forward, A heads.
 */
#ifndef USERBERT_CALL_H
#define USERBERT_CALL_H

#include <stdint.h>

#include "parallel.h"
#include "plan.h"

/* A block's parameters, in the order of its `parameters()`; weights are (out, in). */
enum {
    MIX, MIX_BIAS, OUT, OUT_BIAS, GAIN_1, SHIFT_1, WIDEN, WIDEN_BIAS, NARROW, NARROW_BIAS, GAIN_2,
    SHIFT_2, PARAMETERS
};

/* A block's linear maps. */
enum { MAPS = 4 };
static const int MAP[MAPS] = {MIX, OUT, WIDEN, NARROW};

typedef struct {
    Fork fork;
    int64_t users, layers, hidden, heads, wide, threads;
    int64_t threshold; /* dropout, as in vectors.h */
    float scale;
    int32_t training; /* whether a backward pass will follow */
    const int64_t *lengths;
    const float *tokens;
    const int32_t *keys;         /* (T,), or NULL without dropout */
    const float *const *weights; /* (layers · PARAMETERS,) */
    float *out;                  /* (T, H) */
    const float *out_gradient;   /* (T, H) */
    float *token_gradient;       /* (T, H) */
    float *gradients;            /* of all parameters, one after the other */
    void *kept;                  /* what the backward pass needs; see userbert_encoder_memory() */
    void *room;
} Call;

/* The (out, in) of a map. */
static inline void map_shape(const Call *call, int map, int *out, int *in)
{
    const int h = (int)call->hidden, f = (int)call->wide;
    *out = map == 0 ? 3 * h : map == 2 ? f : h;
    *in = map == 3 ? f : h;
}

/* Memory from an address on. */
static inline Memory aligned(void *base)
{
    return (Memory){((uintptr_t)base + 63) / 64 * 64};
}

#endif
