/* Products of 8-bit integers via 16 bits, because AVX2's own saturate. */
#pragma once

#define BYTE_WORDS 2

/* The even and the odd bytes; products of two neighbours are added. */
static inline __m256i add_half_products(__m256i sums, __m256i bytes, __m256i signed_bytes) {
    const __m256i even = _mm256_and_si256(bytes, _mm256_set1_epi16(0xff));
    const __m256i odd = _mm256_srli_epi16(bytes, 8);
    const __m256i signed_even = _mm256_srai_epi16(_mm256_slli_epi16(signed_bytes, 8), 8);
    const __m256i signed_odd = _mm256_srai_epi16(signed_bytes, 8);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(even, signed_even));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(odd, signed_odd));
}
static inline ints add_products(ints sums, ints bytes, ints signed_bytes) {
    return (ints){
        add_half_products(sums.low, bytes.low, signed_bytes.low),
        add_half_products(sums.high, bytes.high, signed_bytes.high)};
}

static inline void put_bytes(quad *words, int32_t bytes) {
    words[0] = bytes & 0x00ff00ff;
    words[1] = bytes >> 8 & 0x00ff00ff;
}

/* Inline assembly: around the intrinsics, GCC 12 moves sums from register to register, and there are
 * too few registers for that. */
static inline __m256i add_word_product(__m256i sums, __m256i a, __m256i b) {
    const __m256i product = _mm256_madd_epi16(a, b);
    __asm__("vpaddd %1, %0, %0" : "+x"(sums) : "x"(product));
    return sums;
}

/* Multiplies one word of each row with its part of a vector of columns. In this order, sums and
 * operands just fit into the registers. */
static inline __attribute__((always_inline)) void add_word_products(
    ints sums[][TILE_VECTORS], const int rows, const quad *x, long stride, ints y) {
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        const __m256i words = _mm256_set1_epi32(x[r * stride]);
        ints *sum = &sums[r][0];
        sum->low = add_word_product(sum->low, words, y.low);
        sum->high = add_word_product(sum->high, words, y.high);
    }
}
static inline __attribute__((always_inline)) void add_tile_products(
    ints sums[][TILE_VECTORS], const int rows, const quad *x, long stride, const void *columns,
    long panel) {
    (void)panel;
    const ints y = load_ints(columns);
    const ints even = {
        _mm256_srai_epi16(_mm256_slli_epi16(y.low, 8), 8),
        _mm256_srai_epi16(_mm256_slli_epi16(y.high, 8), 8)};
    add_word_products(sums, rows, x, stride, even);
    const ints odd = {_mm256_srai_epi16(y.low, 8), _mm256_srai_epi16(y.high, 8)};
    add_word_products(sums, rows, x + 1, stride, odd);
}
