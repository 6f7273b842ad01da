/* Shared by the kernels: vectors of 16 floats, in whatever registers the processor has.
 *
 * A row's result never depends on the rows beside it: every sum has one order, whatever the number
 * of rows or threads. */
#pragma once

#include <stdint.h>

typedef uint16_t __attribute__((may_alias)) bfloat16;
typedef int32_t __attribute__((may_alias)) quad; /* four bytes, or two bfloat16 */

#ifdef __AVX512VNNI__
#include "vectors_avx512.h"
#else
#include "vectors_avx2.h"
#endif

#define ABI 5 /* changes with any signature or layout; `native_builds.py` knows it too */
#define LANES 16
#define HEAD_DIM 64 /* in every Whisper model */
#define QUADS (HEAD_DIM / 4)
#define TILE_COLUMNS (TILE_VECTORS * LANES)
#define BLOCK_ROWS \
    (BLOCK_TILES * TILE_ROWS) /* share a panel of weights while it is in a near cache */

#define EIGHTH 0.125f                  /* 1 / sqrt(64) */
#define MAX_LENGTH 1536                /* the most keys that attention can attend to */
#define FRAME_STEP (2 * LANES)         /* an encoder's frames are padded to a multiple */
#define SCORE_STRIDE (MAX_LENGTH + 32) /* rows a multiple of 4096 bytes apart evict each other */
#define LEAST 1e-30f                   /* replaces the greatest value of a row of zeros */
#define NOTHING -3e38f                 /* a score whose softmax weight is zero */

/* The words of a tile's rows: those of a row are `step` words apart, and rows `row` words. */
typedef struct {
    const quad *first;
    long row, step;
} Words;

/* Where in a tile row `row`'s words of step `step` of `steps` begin, which are `words` each. */
static inline long place_in_tile(long row, long step, long steps, long words) {
    return (ROW_MAJOR ? row * steps + step : step * TILE_ROWS + row) * words;
}
static inline Words words_of_tile(const quad *tile, long steps, long words) {
    return (Words){tile, place_in_tile(1, 0, steps, words), place_in_tile(0, 1, steps, words)};
}

#ifdef AMX
#include "tiles_amx.h"
#else
static inline void begin_tiles(void) {}
static inline void end_tiles(void) {}

/* `add_tile_products` of all `steps` of a tile; columns of a step are `column_step` bytes apart. */
static inline __attribute__((always_inline)) void multiply_bytes(
    ints sums[][TILE_VECTORS], const int rows, Words x, const void *columns, long column_step,
    long panel, long steps) {
    for (long k = 0; k < steps; k++)
        add_tile_products(
            sums, rows, x.first + k * x.step, x.row, (const char *)columns + k * column_step,
            panel);
}
/* The same with two bfloat16 a step. */
static inline __attribute__((always_inline)) void multiply_pairs(
    floats sums[][TILE_VECTORS], const int rows, Words x, const void *columns, long column_step,
    long panel, long steps) {
    for (long k = 0; k < steps; k++)
        add_tile_pairs(
            sums, rows, x.first + k * x.step, x.row, (const char *)columns + k * column_step,
            panel);
}
#endif

/* Products of `depth` floats of each row, `step` floats apart and rows `row`, and of the columns in
 * panels of 16, which are `panel` floats apart; `column_step` floats lie between the steps of one. */
static inline __attribute__((always_inline)) void multiply_floats(
    floats sums[][TILE_VECTORS], const int rows, const float *x, long row, long step,
    const float *columns, long column_step, long panel, long depth) {
    for (long k = 0; k < depth; k++) {
        floats y[TILE_VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < TILE_VECTORS; v++)
            y[v] = load_ps(columns + k * column_step + v * panel);
        add_tile_floats(sums, rows, x + k * step, row, y);
    }
}

static inline long round_up(long value, long step) {
    return (value + step - 1) / step * step;
}

static inline long smaller(long a, long b) {
    return a < b ? a : b;
}

#define LOG2_E 1.44269504f

/* The greatest of `length` scores. Those after them, up to a multiple of 16, `padded`, become ones
 * whose softmax weight is zero. */
static inline float greatest_score(float *scores, long length, long padded) {
    for (long j = length; j < padded; j++) scores[j] = NOTHING;
    floats greatest = load_ps(scores);
    for (long j = LANES; j < padded; j += LANES) greatest = max_ps(greatest, load_ps(scores + j));
    return reduce_max_ps(greatest);
}

/* 2^x with an error of 1e-7, for x up to 126; x below -126 is treated as -126. */
static inline floats exp2_ps(floats x) {
    x = max_ps(x, set1_ps(-126.0f));
    const floats n = round_ps(x);
    const floats r = sub_ps(x, n);
    /* Coefficients minimise the squared relative error over [-1/2, 1/2]. */
    floats p = set1_ps(1.32764578e-3f);
    p = fmadd_ps(p, r, set1_ps(9.67554122e-3f));
    p = fmadd_ps(p, r, set1_ps(5.55071332e-2f));
    p = fmadd_ps(p, r, set1_ps(2.40221197e-1f));
    p = fmadd_ps(p, r, set1_ps(6.93146967e-1f));
    p = fmadd_ps(p, r, set1_ps(1.0f));
    return scale_ps(p, n);
}

/* x/2 (1 + erf(x / sqrt 2)), with erf from Abramowitz and Stegun, 7.1.26 (within 1.5e-7). */
static inline floats gelu_ps(floats x) {
    const floats z = mul_ps(abs_ps(x), set1_ps(0.70710678f));
    const floats one = set1_ps(1.0f);
    const floats t = div_ps(one, fmadd_ps(z, set1_ps(0.3275911f), one));
    floats p = set1_ps(1.061405429f);
    p = fmadd_ps(p, t, set1_ps(-1.453152027f));
    p = fmadd_ps(p, t, set1_ps(1.421413741f));
    p = fmadd_ps(p, t, set1_ps(-0.284496736f));
    p = fmadd_ps(p, t, set1_ps(0.254829592f));
    const floats exponent = mul_ps(mul_ps(z, z), set1_ps(-LOG2_E));
    p = mul_ps(mul_ps(p, t), exp2_ps(exponent));
    /* p is 1 - erf|z|; for a negative x, 1 + erf is p itself. */
    const floats sum = if_negative(x, p, sub_ps(set1_ps(2.0f), p));
    return mul_ps(mul_ps(x, set1_ps(0.5f)), sum);
}

/* A head's 64 values -> signed bytes; returns their scale. */
static inline float quantize_head(const floats *x, int8_t *out) {
    floats greatest = abs_ps(x[0]);
    for (int i = 1; i < 4; i++) greatest = max_ps(greatest, abs_ps(x[i]));
    float top = reduce_max_ps(greatest);
    if (top < LEAST) top = LEAST;
    const floats inverse = set1_ps(127.0f / top);
    for (int i = 0; i < 4; i++) {
        const ints whole = to_ints(mul_ps(x[i], inverse));
        store_signed_bytes(out + i * LANES, whole);
    }
    return top / 127.0f;
}
