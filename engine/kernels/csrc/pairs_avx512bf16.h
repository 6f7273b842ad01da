/* bfloat16 where the processor multiplies it (AVX-512 BF16). `pairs_avx512.h` does the same with
 * products of floats. */
#pragma once

#define PAIR_WORDS 1 /* of a tile for two bfloat16 of a row */

/* Converts 32 floats. */
static inline ints to_bfloat16(floats first, floats second) {
    return (ints)_mm512_cvtne2ps_pbh(second, first);
}
static inline void store_bfloat16(void *to, floats x) {
    _mm256_storeu_si256(to, (__m256i)_mm512_cvtneps_pbh(x));
}
static inline void store_bfloat16_within(void *to, lanes mask, floats x) {
    _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(x));
}

/* Adds to each of 16 sums the products of two bfloat16. */
static inline floats add_pairs(floats sums, ints a, ints b) {
    return _mm512_dpbf16_ps(sums, (__m512bh)a, (__m512bh)b);
}

/* Stores two bfloat16 of a row into its words of a tile. */
static inline void put_pair(quad *words, int32_t pair) {
    *words = pair;
}
/* Stores 32 floats as pairs into 16 words. */
static inline void store_pairs(quad *words, floats first, floats second) {
    store_ints(words, to_bfloat16(first, second));
}

/* As `add_tile_products`, of two bfloat16. */
static inline __attribute__((always_inline)) void add_tile_pairs(
    floats sums[][TILE_VECTORS], const int rows, const quad *x, long stride, const void *columns,
    long panel) {
    ints y[TILE_VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < TILE_VECTORS; v++) y[v] = load_ints((const char *)columns + v * panel);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        const ints pair = set1_epi32(x[r * stride]);
#pragma GCC unroll 2
        for (int v = 0; v < TILE_VECTORS; v++) sums[r][v] = add_pairs(sums[r][v], pair, y[v]);
    }
}
