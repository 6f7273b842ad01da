/* bfloat16 multiplied as floats, for processors with AVX-512 and without its products of bfloat16
 * (Cascade Lake, Ice Lake). A tile of activations holds them as floats, so that nothing is unpacked
 * twice; `store_pairs` leaves floats as they are. */
#pragma once

#define PAIR_WORDS 2

/* The upper half of each float, rounded to nearest, ties to even; a NaN stays a NaN. */
static inline __m256i words_of(floats x) {
    const ints whole = _mm512_castps_si512(x);
    const ints odd = _mm512_and_si512(_mm512_srli_epi32(whole, 16), _mm512_set1_epi32(1));
    const ints half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const ints rounded = _mm512_srli_epi32(_mm512_add_epi32(whole, half), 16);
    const ints quiet = _mm512_set1_epi32(0x7fc0);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan_lanes(x), quiet));
}
static inline ints to_bfloat16(floats first, floats second) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(words_of(first)), words_of(second), 1);
}
static inline void store_bfloat16(void *to, floats x) {
    _mm256_storeu_si256(to, words_of(x));
}
static inline void store_bfloat16_within(void *to, lanes mask, floats x) {
    _mm256_mask_storeu_epi16(to, mask, words_of(x));
}

/* The first bfloat16 of each pair as a float, and the second. */
static inline floats first_of_pairs(ints x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
}
static inline floats second_of_pairs(ints x) {
    return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000)));
}
static inline floats add_pairs(floats sums, ints a, ints b) {
    sums = _mm512_fmadd_ps(first_of_pairs(a), first_of_pairs(b), sums);
    return _mm512_fmadd_ps(second_of_pairs(a), second_of_pairs(b), sums);
}

static inline void put_pair(quad *words, int32_t pair) {
    words[0] = (int32_t)((uint32_t)pair << 16);
    words[1] = pair & (int32_t)0xffff0000;
}
static inline void store_pairs(quad *words, floats first, floats second) {
    store_ps((float *)words, first);
    store_ps((float *)words + 16, second);
}

static inline __attribute__((always_inline)) void add_tile_pairs(
    floats sums[][TILE_VECTORS], const int rows, const quad *x, long stride, const void *columns,
    long panel) {
    floats first[TILE_VECTORS], second[TILE_VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < TILE_VECTORS; v++) {
        const ints y = load_ints((const char *)columns + v * panel);
        first[v] = first_of_pairs(y);
        second[v] = second_of_pairs(y);
    }
    add_tile_floats(sums, rows, (const float *)x, stride, first);
    add_tile_floats(sums, rows, (const float *)x + 1, stride, second);
}
