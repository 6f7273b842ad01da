/* Vectors of 16 in the 512 bits of AVX-512, with its products of 8-bit integers (VNNI).
 * `vectors_avx2.h` does the same in two halves. */
#pragma once

#include <immintrin.h>

#define TILE_VECTORS 2
#define FLOAT_ROWS 12 /* of a tile of floats; 24 of the 32 registers are sums */
#define FLOAT_PART 4  /* rows that are computed if no more are needed, and twice as many */
#ifdef AMX
#define TILE_ROWS 32 /* by two vectors of columns: four of AMX's eight tiles are sums */
#define TILE_PART 16
#define BLOCK_TILES 2
#define ROW_MAJOR 1
#else
#define TILE_ROWS 12 /* by two vectors of columns: 24 of the 32 registers are sums */
#define TILE_PART 4  /* rows that are computed if no more are needed, and twice as many */
#define BLOCK_TILES 4
#define ROW_MAJOR 0 /* a tile's words lie step by step */
#endif
#define BYTE_WORDS 1 /* of a tile for four bytes of a row; `PAIR_WORDS` are for two bfloat16 */

typedef __m512 floats;   /* 16 float32 */
typedef __m512i ints;    /* 16 int32, 64 bytes or 32 bfloat16 */
typedef __mmask16 lanes; /* a subset of the 16 lanes */

/* The lanes in use of a vector that starts at value `start` of `length`. */
static inline lanes lanes_within(long start, long length) {
    const long left = length - start;
    return left >= 16 ? (lanes)0xffff : left <= 0 ? 0 : (lanes)((1u << left) - 1);
}

static inline floats set1_ps(float x) {
    return _mm512_set1_ps(x);
}
static inline floats load_ps(const void *from) {
    return _mm512_loadu_ps(from);
}
/* Loads some lanes, with `fill` in the others. */
static inline floats load_within(lanes mask, const float *from, float fill) {
    return _mm512_mask_loadu_ps(set1_ps(fill), mask, from);
}
static inline void store_ps(float *to, floats x) {
    _mm512_storeu_ps(to, x);
}
static inline void store_within(float *to, lanes mask, floats x) {
    _mm512_mask_storeu_ps(to, mask, x);
}
static inline floats add_ps(floats a, floats b) {
    return _mm512_add_ps(a, b);
}
static inline floats sub_ps(floats a, floats b) {
    return _mm512_sub_ps(a, b);
}
static inline floats mul_ps(floats a, floats b) {
    return _mm512_mul_ps(a, b);
}
static inline floats div_ps(floats a, floats b) {
    return _mm512_div_ps(a, b);
}
static inline floats max_ps(floats a, floats b) {
    return _mm512_max_ps(a, b);
}
static inline floats abs_ps(floats x) {
    return _mm512_abs_ps(x);
}
static inline floats fmadd_ps(floats a, floats b, floats c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline floats fmsub_ps(floats a, floats b, floats c) {
    return _mm512_fmsub_ps(a, b, c);
}
static inline floats round_ps(floats x) {
    return _mm512_roundscale_ps(x, 0);
}
/* x 2^n, for whole n from -126 to 127. */
static inline floats scale_ps(floats x, floats n) {
    return _mm512_scalef_ps(x, n);
}
/* `a` where x is negative, else `b`. */
static inline floats if_negative(floats x, floats a, floats b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), b, a);
}
static inline float reduce_max_ps(floats x) {
    return _mm512_reduce_max_ps(x);
}
static inline float reduce_add_ps(floats x) {
    return _mm512_reduce_add_ps(x);
}

/* One bit for each lane in which the comparison holds. */
static inline unsigned equal_bits(floats a, floats b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
static inline unsigned at_least_bits(lanes mask, floats a, floats b) {
    return _mm512_mask_cmp_ps_mask(mask, a, b, _CMP_GE_OQ);
}
static inline lanes nan_lanes(floats x) {
    return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
}
static inline unsigned nan_bits(floats x) {
    return nan_lanes(x);
}

static inline ints set1_epi32(int32_t x) {
    return _mm512_set1_epi32(x);
}
static inline ints load_ints(const void *from) {
    return _mm512_loadu_si512(from);
}
static inline void store_ints(void *to, ints x) {
    _mm512_storeu_si512(to, x);
}
static inline ints sub_epi32(ints a, ints b) {
    return _mm512_sub_epi32(a, b);
}
static inline ints mullo_epi32(ints a, ints b) {
    return _mm512_mullo_epi32(a, b);
}
static inline ints min_epu32(ints a, ints b) {
    return _mm512_min_epu32(a, b);
}
static inline ints high_bytes(ints x) {
    return _mm512_srli_epi32(x, 8);
}
static inline floats to_floats(ints x) {
    return _mm512_cvtepi32_ps(x);
}
/* Rounds to nearest, ties to even. */
static inline ints to_ints(floats x) {
    return _mm512_cvtps_epi32(x);
}
/* For values from 0 to below 2^31. */
static inline ints to_unsigned(floats x) {
    return _mm512_cvtps_epu32(x);
}
/* Stores 16 bytes: the lowest byte of each integer, or each integer saturated. */
static inline void store_low_bytes(void *to, ints x) {
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(x));
}
static inline void store_signed_bytes(void *to, ints x) {
    _mm_storeu_si128((__m128i *)to, _mm512_cvtsepi32_epi8(x));
}
static inline void store_unsigned_bytes(void *to, ints x) {
    const ints positive = _mm512_max_epi32(x, _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)to, _mm512_cvtusepi32_epi8(positive));
}

static inline floats from_bfloat16(const bfloat16 *x) {
    const ints wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
/* Adds to each of 16 sums the products of four unsigned and four signed bytes. Inline assembly:
 * around the intrinsic, GCC 12 moves every sum from register to register. */
static inline ints add_products(ints sums, ints bytes, ints signed_bytes) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(bytes), "v"(signed_bytes));
    return sums;
}

/* Stores four bytes of a row into its words of a tile. */
static inline void put_bytes(quad *words, int32_t bytes) {
    *words = bytes;
}
/* Adds to the sums of a tile's rows the products of four unsigned bytes of each row, `stride` words
 * apart, and four signed bytes of each column. Vectors of columns are `panel` bytes apart. */
static inline __attribute__((always_inline)) void add_tile_products(
    ints sums[][TILE_VECTORS], const int rows, const quad *x, long stride, const void *columns,
    long panel) {
    ints y[TILE_VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < TILE_VECTORS; v++) y[v] = load_ints((const char *)columns + v * panel);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        const ints bytes = set1_epi32(x[r * stride]);
#pragma GCC unroll 2
        for (int v = 0; v < TILE_VECTORS; v++) sums[r][v] = add_products(sums[r][v], bytes, y[v]);
    }
}

/* Adds to the sums of a tile's rows the products of one float of each row, `stride` floats apart, and
 * one of each column. */
static inline __attribute__((always_inline)) void add_tile_floats(
    floats sums[][TILE_VECTORS], const int rows, const float *x, long stride, const floats *y) {
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        const floats value = set1_ps(x[r * stride]);
#pragma GCC unroll 2
        for (int v = 0; v < TILE_VECTORS; v++)
            __asm__("vfmadd231ps %2, %1, %0" : "+v"(sums[r][v]) : "v"(value), "v"(y[v]));
    }
}

#ifdef __AVX512BF16__
#include "pairs_avx512bf16.h"
#else
#include "pairs_avx512.h"
#endif
