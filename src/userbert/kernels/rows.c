/* Adam on the rows of a table that a batch read (training/row_adam.py says how).
 *
 * In: weights (R, E) with what Adam remembers of them, the step that each row is up to date with,
 * and the batch's rows (U,). A row makes up in closed form for the steps that it missed, and takes
 * a step along its gradient if there is one; all in place. A table may have two weights that are
 * read by the same rows, such as a layer's weights and its biases.
 *
 * Letters: R rows of a table, U rows of a batch, E width.
 */
#include <math.h>

#include "adam.h"
#include "gemm.h"
#include "parallel.h"

enum { WEIGHTS = 2, FEW = 256 };

typedef struct {
    Fork fork;
    int64_t threads, rows, weights, steps;
    int64_t widths[WEIGHTS];
    float *weight[WEIGHTS], *mean[WEIGHTS], *square[WEIGHTS];
    const float *gradient[WEIGHTS]; /* (U, E); NULL: make up for missed steps alone */
    int32_t *current;               /* (R,) */
    const int64_t *row;             /* (U,), each once */
    const double *travel, *epsilon; /* (steps + 1,): the tails of row_adam.py */
    const double *powers;           /* (4, known) of the ratios and decays below, from 0 on */
    int64_t known;
    double travel_ratio, epsilon_ratio, mean_decay, square_decay, tiny, learning_rate;
    AdamStep next;
} Call;

/* How far a row goes, and what is left of its mean and square, after the steps it missed. */
typedef struct {
    float travel, epsilon, mean, square;
} Missed;

static Missed missed(const Call *call, int32_t since)
{
    const int64_t steps = call->steps - since;
    double power[4] = {call->travel_ratio, call->epsilon_ratio, call->mean_decay,
                       call->square_decay};
    for (int n = 0; n < 4; n++)
        power[n] = steps < call->known ? call->powers[n * call->known + steps]
                                       : pow(power[n], (double)steps);
    const double travel = call->travel[since] - power[0] * call->travel[call->steps];
    const double epsilon = call->epsilon[since] - power[1] * call->epsilon[call->steps];
    return (Missed){
        .travel = (float)(call->learning_rate * travel),
        .epsilon = (float)(call->tiny * epsilon / travel),
        .mean = (float)power[2],
        .square = (float)power[3],
    };
}

static KERNEL void catch_up(const Missed *missed, int64_t width, float *weight, float *mean,
                            float *square)
{
    for (int64_t i = 0; i < width; i += LANES) {
        const __mmask16 lanes = first_lanes((int)(width - i));
        const __m512 m = _mm512_maskz_loadu_ps(lanes, mean + i);
        const __m512 v = _mm512_maskz_loadu_ps(lanes, square + i);
        const __m512 size = _mm512_add_ps(_mm512_sqrt_ps(v), _mm512_set1_ps(missed->epsilon));
        const __m512 w = _mm512_maskz_loadu_ps(lanes, weight + i);
        const __m512 moved = _mm512_fnmadd_ps(_mm512_div_ps(m, size),
                                              _mm512_set1_ps(missed->travel), w);
        _mm512_mask_storeu_ps(weight + i, lanes, moved);
        _mm512_mask_storeu_ps(mean + i, lanes, _mm512_mul_ps(m, _mm512_set1_ps(missed->mean)));
        _mm512_mask_storeu_ps(square + i, lanes,
                              _mm512_mul_ps(v, _mm512_set1_ps(missed->square)));
    }
}

static KERNEL void update_few(int part, void *job)
{
    const Call *call = job;
    const int64_t end = call->rows < (part + 1) * FEW ? call->rows : (part + 1) * (int64_t)FEW;
    for (int64_t u = part * (int64_t)FEW; u < end; u++) {
        const int64_t row = call->row[u];
        const bool behind = call->current[row] < call->steps;
        const Missed while_away = behind ? missed(call, call->current[row]) : (Missed){0};
        for (int64_t n = 0; n < call->weights; n++) {
            const int64_t width = call->widths[n], at = row * width;
            float *weight = call->weight[n] + at, *mean = call->mean[n] + at;
            float *square = call->square[n] + at;
            if (behind)
                catch_up(&while_away, width, weight, mean, square);
            if (call->gradient[n])
                adam_step(call->next, width, call->gradient[n] + u * width, weight, mean, square);
        }
        call->current[row] = (int32_t)call->steps + (call->gradient[0] ? 1 : 0);
    }
}

void userbert_rows_update(Call *call)
{
    run_parts(call->fork, (int)call->threads, (int)((call->rows + FEW - 1) / FEW), update_few, call);
}
