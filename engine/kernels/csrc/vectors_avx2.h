/* Vectors of 16 in two AVX2 registers, for processors without AVX-512's products of 8-bit integers or
 * bfloat16. `vectors_avx512.h` documents each function, and implements it in one register. One
 * difference: `store_pairs` leaves floats as they are here. */
#pragma once

#include <immintrin.h>
#include <string.h>

#define TILE_ROWS 6 /* by one vector of columns: 12 of the 16 registers are sums */
#define TILE_PART 2
#define FLOAT_ROWS TILE_ROWS
#define FLOAT_PART TILE_PART
#define BLOCK_TILES 4
#define TILE_VECTORS 1
#define ROW_MAJOR 0
#define PAIR_WORDS 2 /* bfloat16 is multiplied as floats */

typedef struct {
    __m256 low, high;
} floats;
typedef struct {
    __m256i low, high;
} ints;
typedef ints lanes; /* all bits set in the lanes that count */

#define EACH(function, x) {function((x).low), function((x).high)}
#define BOTH(function, x, y) {function((x).low, (y).low), function((x).high, (y).high)}

static inline lanes lanes_within(long start, long length) {
    const long left = length - start;
    const __m256i n = _mm256_set1_epi32(left > 16 ? 16 : left < 0 ? 0 : (int)left);
    const __m256i first = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i second = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
    return (lanes){_mm256_cmpgt_epi32(n, first), _mm256_cmpgt_epi32(n, second)};
}

static inline floats set1_ps(float x) {
    const __m256 all = _mm256_set1_ps(x);
    return (floats){all, all};
}
static inline floats load_ps(const void *from) {
    const float *x = from;
    return (floats){_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)};
}
static inline floats load_within(lanes mask, const float *from, float fill) {
    const __m256 other = _mm256_set1_ps(fill);
    const __m256 low = _mm256_maskload_ps(from, mask.low);
    const __m256 high = _mm256_maskload_ps(from + 8, mask.high);
    return (floats){
        _mm256_blendv_ps(other, low, _mm256_castsi256_ps(mask.low)),
        _mm256_blendv_ps(other, high, _mm256_castsi256_ps(mask.high))};
}
static inline void store_ps(float *to, floats x) {
    _mm256_storeu_ps(to, x.low);
    _mm256_storeu_ps(to + 8, x.high);
}
static inline void store_within(float *to, lanes mask, floats x) {
    _mm256_maskstore_ps(to, mask.low, x.low);
    _mm256_maskstore_ps(to + 8, mask.high, x.high);
}
static inline floats add_ps(floats a, floats b) {
    return (floats)BOTH(_mm256_add_ps, a, b);
}
static inline floats sub_ps(floats a, floats b) {
    return (floats)BOTH(_mm256_sub_ps, a, b);
}
static inline floats mul_ps(floats a, floats b) {
    return (floats)BOTH(_mm256_mul_ps, a, b);
}
static inline floats div_ps(floats a, floats b) {
    return (floats)BOTH(_mm256_div_ps, a, b);
}
static inline floats max_ps(floats a, floats b) {
    return (floats)BOTH(_mm256_max_ps, a, b);
}
static inline floats abs_ps(floats x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (floats){_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}
static inline floats fmadd_ps(floats a, floats b, floats c) {
    return (floats){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
static inline floats fmsub_ps(floats a, floats b, floats c) {
    return (floats){_mm256_fmsub_ps(a.low, b.low, c.low), _mm256_fmsub_ps(a.high, b.high, c.high)};
}
static inline __m256 round_half(__m256 x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline floats round_ps(floats x) {
    return (floats)EACH(round_half, x);
}
/* A float's exponent, plus 127, is in bits 23 to 30. */
static inline __m256 power_of_two(__m256 n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
static inline floats scale_ps(floats x, floats n) {
    const floats powers = EACH(power_of_two, n);
    return mul_ps(x, powers);
}
static inline __m256 half_if_negative(__m256 x, __m256 a, __m256 b) {
    const __m256 is_negative = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ);
    return _mm256_blendv_ps(b, a, is_negative);
}
static inline floats if_negative(floats x, floats a, floats b) {
    return (floats){
        half_if_negative(x.low, a.low, b.low), half_if_negative(x.high, a.high, b.high)};
}
static inline float reduce_max_ps(floats x) {
    const __m256 eight = _mm256_max_ps(x.low, x.high);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
static inline float reduce_add_ps(floats x) {
    const __m256 eight = _mm256_add_ps(x.low, x.high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

static inline unsigned bits(__m256 low, __m256 high) {
    return (unsigned)_mm256_movemask_ps(low) | (unsigned)_mm256_movemask_ps(high) << 8;
}
static inline unsigned equal_bits(floats a, floats b) {
    return bits(_mm256_cmp_ps(a.low, b.low, _CMP_EQ_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_EQ_OQ));
}
static inline unsigned at_least_bits(lanes mask, floats a, floats b) {
    const __m256 low = _mm256_cmp_ps(a.low, b.low, _CMP_GE_OQ);
    const __m256 high = _mm256_cmp_ps(a.high, b.high, _CMP_GE_OQ);
    return bits(low, high) & bits(_mm256_castsi256_ps(mask.low), _mm256_castsi256_ps(mask.high));
}
static inline unsigned nan_bits(floats x) {
    return bits(
        _mm256_cmp_ps(x.low, x.low, _CMP_UNORD_Q), _mm256_cmp_ps(x.high, x.high, _CMP_UNORD_Q));
}

static inline ints set1_epi32(int32_t x) {
    const __m256i all = _mm256_set1_epi32(x);
    return (ints){all, all};
}
static inline ints load_ints(const void *from) {
    const __m256i *x = from;
    return (ints){_mm256_loadu_si256(x), _mm256_loadu_si256(x + 1)};
}
static inline void store_ints(void *to, ints x) {
    _mm256_storeu_si256((__m256i *)to, x.low);
    _mm256_storeu_si256((__m256i *)to + 1, x.high);
}
static inline ints sub_epi32(ints a, ints b) {
    return (ints)BOTH(_mm256_sub_epi32, a, b);
}
static inline ints mullo_epi32(ints a, ints b) {
    return (ints)BOTH(_mm256_mullo_epi32, a, b);
}
static inline ints min_epu32(ints a, ints b) {
    return (ints)BOTH(_mm256_min_epu32, a, b);
}
static inline ints high_bytes(ints x) {
    return (ints){_mm256_srli_epi32(x.low, 8), _mm256_srli_epi32(x.high, 8)};
}
static inline floats to_floats(ints x) {
    return (floats)EACH(_mm256_cvtepi32_ps, x);
}
static inline ints to_ints(floats x) {
    return (ints)EACH(_mm256_cvtps_epi32, x);
}
static inline ints to_unsigned(floats x) {
    return to_ints(x);
}
/* Packing instructions interleave their operands by four lanes: a b a b -> a a b b. */
static inline __m256i in_order(__m256i x) {
    return _mm256_permute4x64_epi64(x, 0xd8);
}
static inline void store_low_bytes(void *to, ints x) {
    const __m256i byte = _mm256_set1_epi32(0xff);
    const __m256i low = _mm256_and_si256(x.low, byte), high = _mm256_and_si256(x.high, byte);
    const __m256i words = in_order(_mm256_packus_epi32(low, high));
    const __m256i bytes = in_order(_mm256_packus_epi16(words, words));
    _mm_storeu_si128(to, _mm256_castsi256_si128(bytes));
}
static inline void store_signed_bytes(void *to, ints x) {
    const __m256i words = in_order(_mm256_packs_epi32(x.low, x.high));
    const __m256i bytes = in_order(_mm256_packs_epi16(words, words));
    _mm_storeu_si128(to, _mm256_castsi256_si128(bytes));
}
static inline void store_unsigned_bytes(void *to, ints x) {
    const __m256i words = in_order(_mm256_packs_epi32(x.low, x.high));
    const __m256i bytes = in_order(_mm256_packus_epi16(words, words));
    _mm_storeu_si128(to, _mm256_castsi256_si128(bytes));
}

static inline __m256 half_from_bfloat16(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
static inline floats from_bfloat16(const bfloat16 *x) {
    const __m128i *from = (const __m128i *)x;
    return (floats){
        half_from_bfloat16(_mm_loadu_si128(from)), half_from_bfloat16(_mm_loadu_si128(from + 1))};
}
/* The upper half of each float, rounded to nearest, ties to even; a NaN stays a NaN. */
static inline __m256i upper_words(__m256 x) {
    const __m256i whole = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(whole, 16), _mm256_set1_epi32(1));
    const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(whole, half), 16);
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), is_nan);
}
static inline __m256i words_of(floats x) {
    return in_order(_mm256_packus_epi32(upper_words(x.low), upper_words(x.high)));
}
static inline ints to_bfloat16(floats first, floats second) {
    return (ints){words_of(first), words_of(second)};
}
static inline void store_bfloat16(void *to, floats x) {
    _mm256_storeu_si256(to, words_of(x));
}
static inline void store_bfloat16_within(void *to, lanes mask, floats x) {
    uint16_t words[16];
    store_bfloat16(words, x);
    const unsigned within = bits(_mm256_castsi256_ps(mask.low), _mm256_castsi256_ps(mask.high));
    memcpy(to, words, (size_t)__builtin_popcount(within) * sizeof(words[0]));
}

/* The first bfloat16 of each pair as a float, and the second. */
static inline __m256 first_of_pairs(__m256i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
}
static inline __m256 second_of_pairs(__m256i x) {
    /* Read from memory: in a register it would take a sum's place. */
    static const uint32_t upper[8]
        __attribute__((aligned(32))) = {0xffff0000, 0xffff0000, 0xffff0000, 0xffff0000,
                                        0xffff0000, 0xffff0000, 0xffff0000, 0xffff0000};
    __asm__("vpand %1, %0, %0" : "+x"(x) : "m"(upper));
    return _mm256_castsi256_ps(x);
}
static inline __m256 add_half_pairs(__m256 sums, __m256i a, __m256i b) {
    sums = _mm256_fmadd_ps(first_of_pairs(a), first_of_pairs(b), sums);
    return _mm256_fmadd_ps(second_of_pairs(a), second_of_pairs(b), sums);
}
static inline floats add_pairs(floats sums, ints a, ints b) {
    return (floats){
        add_half_pairs(sums.low, a.low, b.low), add_half_pairs(sums.high, a.high, b.high)};
}

static inline void put_pair(quad *words, int32_t pair) {
    words[0] = (int32_t)((uint32_t)pair << 16);
    words[1] = pair & (int32_t)0xffff0000;
}
static inline void store_pairs(quad *words, floats first, floats second) {
    store_ps((float *)words, first);
    store_ps((float *)words + 16, second);
}

/* Inline assembly: around the intrinsics, GCC 12 moves sums from register to register, and there are
 * too few registers for that. */
static inline __m256 add_product(__m256 sums, __m256 a, __m256 b) {
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(sums) : "x"(a), "x"(b));
    return sums;
}

/* Multiplies one float of each row with its part of a vector of columns. In this order, sums and
 * operands just fit into the registers. */
static inline __attribute__((always_inline)) void add_tile_floats(
    floats sums[][TILE_VECTORS], const int rows, const float *x, long stride, const floats *y) {
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        const __m256 value = _mm256_set1_ps(x[r * stride]);
        floats *sum = &sums[r][0];
        sum->low = add_product(sum->low, value, y->low);
        sum->high = add_product(sum->high, value, y->high);
    }
}
static inline __attribute__((always_inline)) void add_tile_pairs(
    floats sums[][TILE_VECTORS], const int rows, const quad *x, long stride, const void *columns,
    long panel) {
    (void)panel;
    const ints y = load_ints(columns);
    const floats first = {first_of_pairs(y.low), first_of_pairs(y.high)};
    add_tile_floats(sums, rows, (const float *)x, stride, &first);
    const floats second = {second_of_pairs(y.low), second_of_pairs(y.high)};
    add_tile_floats(sums, rows, (const float *)x + 1, stride, &second);
}

#ifdef AVX_VNNI
#include "products_avxvnni.h"
#else
#include "products_avx2.h"
#endif
