/* Logits: recomputed exactly where they decide, reduced to the greatest, its index, and the
 * log-sum-exp of all, or to the k greatest. */
#include <math.h>

#include "simd.h"

#define NONE (-INFINITY)
#define DEVIATIONS 8.0f /* 5.7 of the difference of two logits: one in 10^8 errs by more */

/* The greatest of `width` values, the index of the first that equals it, and log(sum of e^value). If
 * all are -inf: -inf, 0, -inf. A NaN among them makes the sum a NaN. */
static void reduce_row(
    const float *x, long width, float *greatest, int64_t *where, float *log_sum) {
    floats most = set1_ps(NONE), total = set1_ps(0.0f);
    for (long j = 0; j < width; j += LANES) {
        const lanes mask = lanes_within(j, width);
        most = max_ps(most, load_within(mask, x + j, NONE));
    }
    const float top = reduce_max_ps(most);
    *greatest = *log_sum = top;
    *where = 0;
    if (top == NONE) return;
    const floats shift = set1_ps(top * LOG2_E);
    long found = -1;
    unsigned unordered = 0;
    for (long j = 0; j < width; j += LANES) {
        const lanes mask = lanes_within(j, width);
        const floats v = load_within(mask, x + j, NONE);
        const floats power = fmsub_ps(v, set1_ps(LOG2_E), shift);
        total = add_ps(total, exp2_ps(power));
        unordered |= nan_bits(v);
        const unsigned equal = equal_bits(v, set1_ps(top));
        if (found < 0 && equal) found = j + __builtin_ctz(equal);
    }
    *where = found < 0 ? 0 : found;
    *log_sum = unordered ? NAN : top + logf(reduce_add_ps(total));
}

/* Reduces rows of (n, width) float32, `stride` apart -> (n,) each. */
int murmur_reduce_logits(
    const float *x, long n, long width, long stride, float *greatest, int64_t *where,
    float *log_sum, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < n; row++)
        reduce_row(x + row * stride, width, greatest + row, where + row, log_sum + row);
    return 0;
}

/* The k greatest of `width` values, of equals the first, in descending order; `width` is at least k.
 * A NaN is never among them, but where there are fewer other values. */
static void top_of_row(const float *x, long width, long k, float *values, int64_t *where) {
    long n = 0;
    for (long j = 0; j < width; j += LANES) {
        const lanes mask = lanes_within(j, width);
        const floats v = load_within(mask, x + j, NONE);
        unsigned found = at_least_bits(mask, v, set1_ps(n < k ? NONE : values[k - 1]));
        for (; found; found &= found - 1) {
            const long id = j + __builtin_ctz(found);
            if (n == k && !(x[id] > values[k - 1])) continue;
            long at = n < k ? n++ : k - 1;
            for (; at > 0 && values[at - 1] < x[id]; at--) {
                values[at] = values[at - 1];
                where[at] = where[at - 1];
            }
            values[at] = x[id];
            where[at] = id;
        }
    }
    for (; n < k; n++) {
        values[n] = NAN;
        where[n] = 0;
    }
}

/* The k greatest of each row of (n, width) float32 -> (n, k) each. */
int murmur_top_logits(
    const float *x, long n, long width, long k, float *values, int64_t *where, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < n; row++)
        top_of_row(x + row * width, width, k, values + row * k, where + row * k);
    return 0;
}

/* Dot product of bfloat16 vectors; `depth` is a multiple of 32. */
static float dot(const bfloat16 *x, const bfloat16 *y, long depth) {
    floats sum = set1_ps(0.0f);
    for (long k = 0; k < depth; k += 2 * LANES)
        sum = add_pairs(sum, load_ints(x + k), load_ints(y + k));
    return reduce_add_ps(sum);
}

static float greatest_of(const float *x, long width) {
    floats most = set1_ps(NONE);
    for (long j = 0; j < width; j += LANES) {
        const lanes mask = lanes_within(j, width);
        most = max_ps(most, load_within(mask, x + j, NONE));
    }
    return reduce_max_ps(most);
}

/* An output layer whose logits were computed in 8 bits, and its bfloat16 weights. */
typedef struct {
    const bfloat16 *weight;  /* (width, depth) */
    const int64_t *excluded; /* (n_excluded): ids before the tail that are never chosen */
    long depth, width, tail, n_excluded;
    float norm; /* the greatest norm of an id's weight vector */
    float step; /* the greatest step in which an id's weights were quantised */
} Output;

/* How far apart the 8-bit values of equal logits may lie. Rounding to steps has a standard error of
 * step / sqrt(12), and these errors add up in quadrature. */
static float margin(const bfloat16 *x, const Output *output) {
    floats most = set1_ps(0.0f);
    for (long k = 0; k < output->depth; k += LANES)
        most = max_ps(most, abs_ps(from_bfloat16(x + k)));
    const float step = reduce_max_ps(most) / 127.0f;
    const float squares = step * step * output->norm * output->norm +
                          output->step * output->step * dot(x, x, output->depth);
    return DEVIATIONS * sqrtf(squares / 12.0f);
}

/* Recomputes all logits before the tail that may be the greatest of those that can be chosen. */
static void refine_greatest(const bfloat16 *x, const Output *output, float *logits) {
    float kept[output->n_excluded + 1];
    for (long i = 0; i < output->n_excluded; i++) {
        kept[i] = logits[output->excluded[i]];
        logits[output->excluded[i]] = NONE;
    }
    const float least = greatest_of(logits, output->tail) - margin(x, output);
    for (long i = 0; i < output->n_excluded; i++) logits[output->excluded[i]] = kept[i];
    for (long j = 0; j < output->tail; j += LANES) {
        const lanes mask = lanes_within(j, output->tail);
        const floats v = load_within(mask, logits + j, 0.0f);
        unsigned found = at_least_bits(mask, v, set1_ps(least));
        for (; found; found &= found - 1) {
            const long id = j + __builtin_ctz(found);
            logits[id] = dot(x, output->weight + id * output->depth, output->depth);
        }
    }
}

/* Logits (n, width) of rows x, (n, depth): recomputed in bfloat16 from the tail on, and before it
 * wherever one may be the greatest. */
int murmur_refine_logits(
    const bfloat16 *x, long n, const Output *output, float *logits, int threads) {
    const long depth = output->depth, width = output->width;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static) nowait
        for (long id = output->tail; id < width; id++)
            for (long row = 0; row < n; row++)
                logits[row * width + id] = dot(x + row * depth, output->weight + id * depth, depth);
#pragma omp for schedule(static)
        for (long row = 0; row < n; row++)
            refine_greatest(x + row * depth, output, logits + row * width);
    }
    return 0;
}
