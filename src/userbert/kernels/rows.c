/* Adam on the rows of a table that a batch reads; training/row_adam.py derives the method.
 *
 * In: weights (R, E) with Adam's moments, the last step applied to each row, and the batch's rows
 * (U,). All are updated in place: a row first applies its missed steps in closed form, then a step
 * along its gradient if there is one. A table may have two weights whose rows are read together,
 * such as a layer's weights and biases.
 *
 * Shapes: R rows of a table, U rows of a batch, E width.
 */
#include <math.h>

#include "adam.h"
#include "gemm.h"
#include "parallel.h"

enum { WEIGHTS = 2, PART_ROWS = 256 };

typedef struct {
    Parallel parallel;
    int64_t threads, rows, weights, steps;
    int64_t widths[WEIGHTS];
    float *weight[WEIGHTS], *mean[WEIGHTS], *square[WEIGHTS];
    const float *gradient[WEIGHTS]; /* (U, E); NULL: only apply the missed steps */
    int32_t *current;               /* (R,): the last step applied to each row */
    const int64_t *row;             /* (U,), distinct */
    const double *travel, *epsilon; /* (steps + 1,): Tails in row_adam.py */
    const double *powers;           /* (4, power_count): powers of the ratios and decays below */
    int64_t power_count;
    double travel_ratio, epsilon_ratio, mean_decay, square_decay, adam_epsilon, learning_rate;
    AdamStep next;
} Call;

/* Effect of missed steps: a weight moves by -travel · mean / (√square + epsilon); the moments are
 * multiplied by `mean` and `square`. */
typedef struct {
    float travel, epsilon, mean, square;
} CatchUp;

/* Returns the effect of the steps after step `since`. */
static CatchUp catch_up_of(const Call *call, int32_t since)
{
    const int64_t steps = call->steps - since;
    double power[4] = {call->travel_ratio, call->epsilon_ratio, call->mean_decay,
                       call->square_decay};
    for (int n = 0; n < 4; n++)
        power[n] = steps < call->power_count ? call->powers[n * call->power_count + steps]
                                       : pow(power[n], (double)steps);
    const double travel = call->travel[since] - power[0] * call->travel[call->steps];
    const double epsilon = call->epsilon[since] - power[1] * call->epsilon[call->steps];
    return (CatchUp){
        .travel = (float)(call->learning_rate * travel),
        .epsilon = (float)(call->adam_epsilon * epsilon / travel),
        .mean = (float)power[2],
        .square = (float)power[3],
    };
}

static KERNEL void apply_catch_up(const CatchUp *catch_up, int64_t width, float *weight,
                                  float *mean, float *square)
{
    for (int64_t i = 0; i < width; i += LANES) {
        const __mmask16 lanes = first_lanes((int)(width - i));
        const __m512 m = _mm512_maskz_loadu_ps(lanes, mean + i);
        const __m512 v = _mm512_maskz_loadu_ps(lanes, square + i);
        const __m512 size = _mm512_add_ps(_mm512_sqrt_ps(v), _mm512_set1_ps(catch_up->epsilon));
        const __m512 w = _mm512_maskz_loadu_ps(lanes, weight + i);
        const __m512 moved = _mm512_fnmadd_ps(_mm512_div_ps(m, size),
                                              _mm512_set1_ps(catch_up->travel), w);
        _mm512_mask_storeu_ps(weight + i, lanes, moved);
        _mm512_mask_storeu_ps(mean + i, lanes, _mm512_mul_ps(m, _mm512_set1_ps(catch_up->mean)));
        _mm512_mask_storeu_ps(square + i, lanes,
                              _mm512_mul_ps(v, _mm512_set1_ps(catch_up->square)));
    }
}

static KERNEL void update_part(int part, void *job)
{
    const Call *call = job;
    const int64_t end = call->rows < (part + 1) * PART_ROWS ? call->rows
                                                            : (part + 1) * (int64_t)PART_ROWS;
    for (int64_t u = part * (int64_t)PART_ROWS; u < end; u++) {
        const int64_t row = call->row[u];
        const bool behind = call->current[row] < call->steps;
        const CatchUp catch_up = behind ? catch_up_of(call, call->current[row]) : (CatchUp){0};
        for (int64_t n = 0; n < call->weights; n++) {
            const int64_t width = call->widths[n], at = row * width;
            float *weight = call->weight[n] + at, *mean = call->mean[n] + at;
            float *square = call->square[n] + at;
            if (behind)
                apply_catch_up(&catch_up, width, weight, mean, square);
            if (call->gradient[n])
                adam_step(call->next, width, call->gradient[n] + u * width, weight, mean, square);
        }
        call->current[row] = (int32_t)call->steps + (call->gradient[0] ? 1 : 0);
    }
}

void userbert_rows_update(Call *call)
{
    const int parts = (int)((call->rows + PART_ROWS - 1) / PART_ROWS);
    run_parts(call->parallel, (int)call->threads, parts, update_part, call);
}
