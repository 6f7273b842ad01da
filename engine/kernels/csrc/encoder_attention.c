/* Attention of a window's frames to each other, in bfloat16 with float32 sums.
 *
 * A block of queries is multiplied with all keys, softmaxed and multiplied with all values before
 * the next block begins, so scores never leave the second cache. */
#include "simd.h"

#define PAIRS (HEAD_DIM / 2) /* one instruction adds the products of two values to each of 16 sums */
#define KEY_STEP (2 * LANES)
#define MAX_LENGTH 1536
#define STRIDE (MAX_LENGTH + 32) /* rows 64 bytes off a multiple of 4096 do not evict each other */

typedef struct {
    float scores[TILE_ROWS][STRIDE];
    bfloat16 weights[TILE_ROWS][STRIDE];
    int32_t queries[PAIRS][TILE_ROWS];
    float sums[TILE_ROWS];
} Block;

/* (length, 64) -> (length / 16, 32 pairs, 16 keys), zeros behind the end. */
static void pack_keys(const bfloat16 *keys, long stride, long length, int32_t *out) {
    for (long j = 0; j < round_up(length, KEY_STEP); j++) {
        int32_t *column = out + j / LANES * PAIRS * LANES + j % LANES;
        const quad *row = (const quad *)(keys + j * stride);
        for (long p = 0; p < PAIRS; p++) column[p * LANES] = j < length ? row[p] : 0;
    }
}

/* (length, 64) -> (2 halves, length / 2, 32 dimensions, 2 values), zeros behind the end. */
static void pack_values(const bfloat16 *values, long stride, long length, int32_t *out) {
    const long n_pairs = round_up(length, KEY_STEP) / 2;
    for (long j = 0; j < n_pairs; j++)
        for (long d = 0; d < HEAD_DIM; d++) {
            const uint32_t low = 2 * j < length ? values[2 * j * stride + d] : 0;
            const uint32_t high = 2 * j + 1 < length ? values[(2 * j + 1) * stride + d] : 0;
            out[(d / 32 * n_pairs + j) * 32 + d % 32] = (int32_t)(low | high << 16);
        }
}

static void pack_queries(const bfloat16 *queries, long stride, long n, Block *block) {
    for (long r = 0; r < TILE_ROWS; r++)
        for (long p = 0; p < PAIRS; p++)
            block->queries[p][r] = r < n ? ((const quad *)(queries + r * stride))[p] : 0;
}

static void score(const int32_t *keys, long length, Block *block) {
    for (long j = 0; j < length; j += KEY_STEP, keys += KEY_STEP * PAIRS) {
        __m512 sums[TILE_ROWS][2];
#pragma GCC unroll 12
        for (int r = 0; r < TILE_ROWS; r++) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
        for (long p = 0; p < PAIRS; p++) {
            const __m512bh left = (__m512bh)_mm512_loadu_si512(keys + p * LANES);
            const __m512bh right = (__m512bh)_mm512_loadu_si512(keys + (PAIRS + p) * LANES);
#pragma GCC unroll 12
            for (int r = 0; r < TILE_ROWS; r++) {
                const __m512bh q = (__m512bh)_mm512_set1_epi32(block->queries[p][r]);
                sums[r][0] = _mm512_dpbf16_ps(sums[r][0], q, left);
                sums[r][1] = _mm512_dpbf16_ps(sums[r][1], q, right);
            }
        }
#pragma GCC unroll 12
        for (int r = 0; r < TILE_ROWS; r++) {
            _mm512_storeu_ps(&block->scores[r][j], sums[r][0]);
            _mm512_storeu_ps(&block->scores[r][j + LANES], sums[r][1]);
        }
    }
}

/* Scores -> e^((score - greatest) / 8) in bfloat16, zeros behind the end, and its sum. */
static void exponentiate(long length, int r, Block *block) {
    float *scores = block->scores[r];
    const long padded = round_up(length, KEY_STEP);
    for (long j = length; j < padded; j++) scores[j] = -3e38f;
    __m512 greatest = _mm512_loadu_ps(scores);
    for (long j = LANES; j < padded; j += LANES)
        greatest = _mm512_max_ps(greatest, _mm512_loadu_ps(scores + j));
    const __m512 scale = _mm512_set1_ps(0.125f * LOG2_E); /* 1 / sqrt(64) */
    const __m512 top = _mm512_mul_ps(_mm512_set1_ps(_mm512_reduce_max_ps(greatest)), scale);
    __m512 sum = _mm512_setzero_ps();
    for (long j = 0; j < padded; j += KEY_STEP) {
        const __m512 left = _mm512_loadu_ps(scores + j), right = _mm512_loadu_ps(scores + j + LANES);
        const __m512 low = exp2_ps(_mm512_fmsub_ps(left, scale, top));
        const __m512 high = exp2_ps(_mm512_fmsub_ps(right, scale, top));
        sum = _mm512_add_ps(sum, _mm512_add_ps(low, high));
        _mm512_storeu_si512(&block->weights[r][j], (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
    block->sums[r] = _mm512_reduce_add_ps(sum);
}

/* Weighted sums of the values of 32 dimensions. */
static void combine(const int32_t *values, long length, long n, Block *block, bfloat16 *out, long stride) {
    __m512 sums[TILE_ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < TILE_ROWS; r++) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    for (long j = 0; j < round_up(length, KEY_STEP); j += 2, values += 2 * LANES) {
        const __m512bh left = (__m512bh)_mm512_loadu_si512(values);
        const __m512bh right = (__m512bh)_mm512_loadu_si512(values + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < TILE_ROWS; r++) {
            const __m512bh w =
                (__m512bh)_mm512_set1_epi32(*(const quad *)&block->weights[r][j]);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], w, left);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], w, right);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < TILE_ROWS; r++) {
        if (r >= n) break;
        const __m512 scale = _mm512_set1_ps(1.0f / block->sums[r]);
        const __m512bh both = _mm512_cvtne2ps_pbh(
            _mm512_mul_ps(sums[r][1], scale), _mm512_mul_ps(sums[r][0], scale));
        _mm512_storeu_si512(out + r * stride, (__m512i)both);
    }
}

static void attend_block(
    const bfloat16 *queries, long stride, long n, const int32_t *keys, const int32_t *values,
    long length, Block *block, bfloat16 *out, long out_stride) {
    pack_queries(queries, stride, n, block);
    score(keys, length, block);
    for (int r = 0; r < TILE_ROWS; r++) exponentiate(length, r, block);
    const long half = round_up(length, KEY_STEP) / 2 * 32;
    combine(values, length, n, block, out, out_stride);
    combine(values + half, length, n, block, out + 32, out_stride);
}

/* (batch, length, 3 of q, k and v, heads, 64) -> (batch, length, heads, 64), both bfloat16; length
 * at most 1536. 0, or -1 where memory is out. */
int murmur_encoder_attention(
    const bfloat16 *qkv, long batch, long length, long heads, bfloat16 *out, int threads) {
    const long stride = 3 * heads * HEAD_DIM, out_stride = heads * HEAD_DIM;
    const long packed = round_up(length, KEY_STEP) * HEAD_DIM / 2;
    int32_t *keys = scratch(0, (size_t)(2 * batch * heads * packed) * sizeof(int32_t));
    if (keys == NULL) return -1;
    int32_t *values = keys + batch * heads * packed;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
#pragma omp for schedule(static)
        for (long item = 0; item < batch * heads; item++) {
            const bfloat16 *head = qkv + item / heads * length * stride + item % heads * HEAD_DIM;
            pack_keys(head + out_stride, stride, length, keys + item * packed);
            pack_values(head + 2 * out_stride, stride, length, values + item * packed);
        }
        Block *block = scratch(1, sizeof(Block));
        failed = block == NULL;
#pragma omp for collapse(2) schedule(dynamic, 8)
        for (long item = 0; item < batch * heads; item++)
            for (long start = 0; start < length; start += TILE_ROWS) {
                if (block == NULL) continue;
                const long row = item / heads * length + start, head = item % heads * HEAD_DIM;
                attend_block(
                    qkv + row * stride + head, stride, smaller(TILE_ROWS, length - start),
                    keys + item * packed, values + item * packed, length, block,
                    out + row * out_stride + head, out_stride);
            }
    }
    return failed ? -1 : 0;
}
