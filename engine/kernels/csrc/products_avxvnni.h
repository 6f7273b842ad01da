/* Products of 8-bit integers in one instruction (AVX-VNNI: Alder Lake, Zen 5 and later). */
#pragma once

#define BYTE_WORDS 1

/* Without a prefix, assemblers write the instruction as AVX-512 has it, with the same arithmetic:
 * so a processor that has AVX-512 alone can test all that is here. */
#ifdef __AVXVNNI__
#define VPDPBUSD "%{vex%} vpdpbusd %2, %1, %0"
#else
#define VPDPBUSD "vpdpbusd %2, %1, %0"
#endif

/* Inline assembly: around the intrinsic, GCC 12 moves sums from register to register. */
static inline __m256i add_half_products(__m256i sums, __m256i bytes, __m256i signed_bytes) {
    __asm__(VPDPBUSD : "+x"(sums) : "x"(bytes), "x"(signed_bytes));
    return sums;
}
static inline ints add_products(ints sums, ints bytes, ints signed_bytes) {
    return (ints){
        add_half_products(sums.low, bytes.low, signed_bytes.low),
        add_half_products(sums.high, bytes.high, signed_bytes.high)};
}

static inline void put_bytes(quad *words, int32_t bytes) {
    *words = bytes;
}

static inline __attribute__((always_inline)) void add_tile_products(
    ints sums[][TILE_VECTORS], const int rows, const quad *x, long stride, const void *columns,
    long panel) {
    (void)panel;
    const ints y = load_ints(columns);
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        const __m256i bytes = _mm256_set1_epi32(x[r * stride]);
        ints *sum = &sums[r][0];
        sum->low = add_half_products(sum->low, bytes, y.low);
        sum->high = add_half_products(sum->high, bytes, y.high);
    }
}
