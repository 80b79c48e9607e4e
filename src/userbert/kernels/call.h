/* Arguments of an encoder call: the structure that kernels/encoder.py fills.
 *
 * encoder.c computes in bf16, forward and backward. forward.c computes in float32, forward only; it
 * reads only the sizes, lengths, tokens, weights, out and scratch.
 *
 * Shapes: B users, T tokens of all users, H hidden, F feed-forward, A heads.
 */
#ifndef USERBERT_CALL_H
#define USERBERT_CALL_H

#include <stdint.h>

#include "parallel.h"
#include "plan.h"

/* A block's parameters, in the order of `parameters()` in PyTorch; weights are (out, in). OUT maps
 * the attention's context; FC1 and FC2 are the feed-forward maps. */
enum {
    QKV, QKV_BIAS, OUT, OUT_BIAS, GAIN_1, SHIFT_1, FC1, FC1_BIAS, FC2, FC2_BIAS, GAIN_2, SHIFT_2,
    PARAMETERS
};

/* A block's linear maps. */
enum { MAPS = 4 };
static const int MAP[MAPS] = {QKV, OUT, FC1, FC2};

typedef struct {
    Parallel parallel;
    int64_t users, layers, hidden, heads, feed_forward, threads;
    int64_t dropout_threshold; /* as in vectors.h */
    float dropout_scale;
    int32_t training;            /* whether a backward pass will follow */
    const int64_t *lengths;
    const float *tokens;
    const int32_t *keys;         /* keys of dropout: (T,), or NULL */
    const float *const *weights; /* (layers · PARAMETERS,) */
    float *out;                  /* (T, H) */
    const float *out_gradient;   /* (T, H) */
    float *token_gradient;       /* (T, H) */
    float *gradients;            /* gradients of all parameters, one after the other */
    void *kept;                  /* for the backward pass; see userbert_encoder_memory() */
    void *scratch;
} Call;

/* Writes the sizes (out, in) of a map, an index into MAP. */
static inline void map_shape(const Call *call, int map, int *out, int *in)
{
    const int h = (int)call->hidden, f = (int)call->feed_forward;
    *out = map == 0 ? 3 * h : map == 2 ? f : h;
    *in = map == 3 ? f : h;
}

/* Memory that starts at the first multiple of 64 bytes from `base` on. */
static inline Memory aligned(void *base)
{
    return (Memory){((uintptr_t)base + 63) / 64 * 64};
}

#endif
