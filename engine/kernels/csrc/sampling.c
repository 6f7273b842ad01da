/* The greatest of some logits, where it stands, and the sum of them all. */
#include <math.h>

#include "simd.h"

#define NONE (-INFINITY)

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
