/* What the kernels share: 512-bit vectors of 16 floats.
 *
 * A row's result never depends on the rows beside it: every sum has one order, whatever the number
 * of rows or of threads. */
#pragma once

#include <immintrin.h>
#include <stdint.h>

#define ABI 1 /* changes with any signature or layout; `native.py` knows it too */
#define LANES 16
#define HEAD_DIM 64 /* of every Whisper model */
#define QUADS (HEAD_DIM / 4)
#define TILE_ROWS 12 /* with two vectors of columns: 24 of the 32 registers are sums */
#define TILE_COLUMNS (2 * LANES)
#define BLOCK_ROWS (4 * TILE_ROWS) /* share a panel of weights while it is in a near cache */

#define EIGHTH 0.125f   /* 1 / sqrt(64) */
#define MAX_LENGTH 1536 /* keys that attention can look at */
#define LEAST 1e-30f    /* stands for the greatest value of a row of zeros */
#define NOTHING -3e38f  /* a score whose weight is none */

typedef uint16_t __attribute__((may_alias)) bfloat16;
typedef int32_t __attribute__((may_alias)) quad; /* four bytes, or two bfloat16 */

static inline long round_up(long value, long step) {
    return (value + step - 1) / step * step;
}

static inline long smaller(long a, long b) {
    return a < b ? a : b;
}

/* Lanes of a vector that starts at `start` of `length` values. */
static inline __mmask16 lanes_within(long start, long length) {
    const long left = length - start;
    return left >= LANES ? (__mmask16)0xffff : left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
}

/* Adds to each of 16 sums the products of four unsigned and four signed bytes. The instruction by
 * name: around its intrinsic GCC 12 moves every sum from register to register. */
static inline __m512i add_products(__m512i sums, __m512i bytes, __m512i signed_bytes) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(bytes), "v"(signed_bytes));
    return sums;
}

#define LOG2_E 1.44269504f

/* 2^x within 1e-7 of it, for x up to 126; below -126 it is as if it were -126. */
static inline __m512 exp2_ps(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-126.0f));
    const __m512 n = _mm512_roundscale_ps(x, 0);
    const __m512 r = _mm512_sub_ps(x, n);
    /* Least squares of the relative error over [-1/2, 1/2]. */
    __m512 p = _mm512_set1_ps(1.32764578e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.67554122e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.55071332e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.40221197e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.93146967e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

/* x/2 (1 + erf(x / sqrt 2)), with erf from Abramowitz and Stegun, 7.1.26 (within 1.5e-7). */
static inline __m512 gelu_ps(__m512 x) {
    const __m512 z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.70710678f));
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), one));
    __m512 p = _mm512_set1_ps(1.061405429f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f));
    const __m512 exponent = _mm512_mul_ps(_mm512_mul_ps(z, z), _mm512_set1_ps(-LOG2_E));
    p = _mm512_mul_ps(_mm512_mul_ps(p, t), exp2_ps(exponent));
    /* p is 1 - erf|z|; of a negative x, 1 + erf is p itself. */
    const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    const __m512 sum = _mm512_mask_sub_ps(p, (__mmask16)~negative, _mm512_set1_ps(2.0f), p);
    return _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(0.5f)), sum);
}

static inline __m512 from_bfloat16(const bfloat16 *x) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* A head's 64 values -> signed bytes; returns their scale. */
static inline float quantize_head(const __m512 *x, int8_t *out) {
    __m512 greatest = _mm512_abs_ps(x[0]);
    for (int i = 1; i < 4; i++) greatest = _mm512_max_ps(greatest, _mm512_abs_ps(x[i]));
    float top = _mm512_reduce_max_ps(greatest);
    if (top < LEAST) top = LEAST;
    const __m512 inverse = _mm512_set1_ps(127.0f / top);
    for (int i = 0; i < 4; i++) {
        const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(x[i], inverse));
        _mm_storeu_si128((__m128i *)(out + i * LANES), _mm512_cvtsepi32_epi8(whole));
    }
    return top / 127.0f;
}
