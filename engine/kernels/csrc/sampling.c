/* Logits: made exact where it counts, and reduced to the greatest, where it stands, and the sum of
 * them all. */
#include <math.h>

#include "simd.h"

#define NONE (-INFINITY)
#define MARGIN 2.0f /* several times as much as two 8-bit logits are wrong by */

/* Of `width` values: the greatest, the first that equals it, and log(sum of e^value). All -inf:
 * -inf, 0, -inf. */
static void reduce_row(
    const float *x, long width, float *greatest, int64_t *where, float *log_sum) {
    __m512 most = _mm512_set1_ps(NONE), total = _mm512_setzero_ps();
    for (long j = 0; j < width; j += LANES) {
        const __mmask16 mask = lanes_within(j, width);
        most = _mm512_mask_max_ps(most, mask, most, _mm512_maskz_loadu_ps(mask, x + j));
    }
    const float top = _mm512_reduce_max_ps(most);
    *greatest = *log_sum = top;
    *where = 0;
    if (top == NONE) return;
    const __m512 shift = _mm512_set1_ps(top * LOG2_E);
    long found = -1;
    for (long j = 0; j < width; j += LANES) {
        const __mmask16 mask = lanes_within(j, width);
        const __m512 v = _mm512_mask_loadu_ps(_mm512_set1_ps(NONE), mask, x + j);
        const __m512 power = _mm512_fmsub_ps(v, _mm512_set1_ps(LOG2_E), shift);
        total = _mm512_add_ps(total, exp2_ps(power));
        const __mmask16 equal = _mm512_cmp_ps_mask(v, _mm512_set1_ps(top), _CMP_EQ_OQ);
        if (found < 0 && equal) found = j + __builtin_ctz(equal);
    }
    *where = found < 0 ? 0 : found;
    *log_sum = top + logf(_mm512_reduce_add_ps(total));
}

/* Rows of (n, width) float32 that lie `stride` apart -> (n,) each. */
int murmur_reduce_logits(
    const float *x, long n, long width, long stride, float *greatest, int64_t *where,
    float *log_sum, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < n; row++)
        reduce_row(x + row * stride, width, greatest + row, where + row, log_sum + row);
    return 0;
}

/* Of bfloat16 vectors; `depth` is a multiple of 32. */
static float dot(const bfloat16 *x, const bfloat16 *y, long depth) {
    __m512 sum = _mm512_setzero_ps();
    for (long k = 0; k < depth; k += 2 * LANES)
        sum = _mm512_dpbf16_ps(
            sum, (__m512bh)_mm512_loadu_si512(x + k), (__m512bh)_mm512_loadu_si512(y + k));
    return _mm512_reduce_add_ps(sum);
}

/* All that may be the greatest. */
static void refine_greatest(
    const bfloat16 *x, const bfloat16 *table, long depth, long width, float *logits) {
    __m512 most = _mm512_set1_ps(NONE);
    for (long j = 0; j < width; j += LANES) {
        const __mmask16 mask = lanes_within(j, width);
        most = _mm512_mask_max_ps(most, mask, most, _mm512_maskz_loadu_ps(mask, logits + j));
    }
    const __m512 least = _mm512_set1_ps(_mm512_reduce_max_ps(most) - MARGIN);
    for (long j = 0; j < width; j += LANES) {
        const __m512 v = _mm512_maskz_loadu_ps(lanes_within(j, width), logits + j);
        unsigned found = lanes_within(j, width) & _mm512_cmp_ps_mask(v, least, _CMP_GE_OQ);
        for (; found; found &= found - 1) {
            const long id = j + __builtin_ctz(found);
            logits[id] = dot(x, table + id * depth, depth);
        }
    }
}

/* Logits (n, width) of rows x, (n, depth), that were computed in 8 bits: compute them again in
 * bfloat16, with the output layer's weights (width, depth), from id `tail` on and wherever one may
 * be the greatest of those before. */
int murmur_refine_logits(
    const bfloat16 *x, long n, long depth, const bfloat16 *table, long width, long tail,
    float *logits, int threads) {
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static) nowait
        for (long id = tail; id < width; id++)
            for (long row = 0; row < n; row++)
                logits[row * width + id] = dot(x + row * depth, table + id * depth, depth);
#pragma omp for schedule(static)
        for (long row = 0; row < n; row++)
            refine_greatest(x + row * depth, table, depth, tail, logits + row * width);
    }
    return 0;
}
