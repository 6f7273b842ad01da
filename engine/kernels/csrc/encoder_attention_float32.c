/* Attention of a window's frames to each other in float32. As in `encoder_attention.c`, a block of
 * queries meets all keys and all values before the next one begins. */
#include "scratch.h"
#include "simd.h"

/* A head of one window, `padded` frames long: a multiple of 32, with zeros after the end. */
typedef struct {
    float *keys;   /* (padded / 16, 64, 16 keys) */
    float *values; /* (64 / TILE_COLUMNS, padded, TILE_COLUMNS dimensions) */
    long length, padded;
} Head;

typedef struct {
    float scores[FLOAT_ROWS][SCORE_STRIDE]; /* then weights */
    float queries[HEAD_DIM][FLOAT_ROWS];
    float sums[FLOAT_ROWS];
} Block;

static Head head_in(float *memory, long length) {
    const long padded = round_up(length, FRAME_STEP);
    return (Head){memory, memory + padded * HEAD_DIM, length, padded};
}

static void pack_head(const float *keys, const float *values, long stride, Head head) {
    for (long j = 0; j < head.padded; j++) {
        float *key = head.keys + j / LANES * HEAD_DIM * LANES + j % LANES;
        for (long d = 0; d < HEAD_DIM; d++) {
            const long at = j * stride + d;
            float *value = head.values + d / TILE_COLUMNS * head.padded * TILE_COLUMNS;
            key[d * LANES] = j < head.length ? keys[at] : 0.0f;
            value[j * TILE_COLUMNS + d % TILE_COLUMNS] = j < head.length ? values[at] : 0.0f;
        }
    }
}

/* Computes the products of queries and keys. */
static void score(Head head, Block *block) {
    for (long j = 0; j < head.padded; j += TILE_COLUMNS) {
        floats sums[FLOAT_ROWS][TILE_VECTORS];
#pragma GCC unroll 12
        for (int r = 0; r < FLOAT_ROWS; r++)
#pragma GCC unroll 2
            for (int v = 0; v < TILE_VECTORS; v++) sums[r][v] = set1_ps(0.0f);
        multiply_floats(
            sums, FLOAT_ROWS, block->queries[0], 1, FLOAT_ROWS, head.keys + j * HEAD_DIM, LANES,
            HEAD_DIM * LANES, HEAD_DIM);
#pragma GCC unroll 12
        for (int r = 0; r < FLOAT_ROWS; r++)
#pragma GCC unroll 2
            for (int v = 0; v < TILE_VECTORS; v++)
                store_ps(&block->scores[r][j + v * LANES], sums[r][v]);
    }
}

/* Scores -> e^((score - greatest) / 8), almost zero after the end, and their sum. */
static void exponentiate(Head head, int r, Block *block) {
    float *scores = block->scores[r];
    const float greatest = greatest_score(scores, head.length, head.padded);
    const floats scale = set1_ps(EIGHTH * LOG2_E);
    const floats top = mul_ps(set1_ps(greatest), scale);
    floats sum = set1_ps(0.0f);
    for (long j = 0; j < head.padded; j += LANES) {
        const floats e = exp2_ps(fmsub_ps(load_ps(scores + j), scale, top));
        sum = add_ps(sum, e);
        store_ps(scores + j, e);
    }
    block->sums[r] = reduce_add_ps(sum);
}

/* Computes the weighted sums of the values for `TILE_COLUMNS` dimensions. */
static void combine(const float *values, Head head, long n, Block *block, float *out, long stride) {
    floats sums[FLOAT_ROWS][TILE_VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < FLOAT_ROWS; r++)
#pragma GCC unroll 2
        for (int v = 0; v < TILE_VECTORS; v++) sums[r][v] = set1_ps(0.0f);
    multiply_floats(
        sums, FLOAT_ROWS, block->scores[0], SCORE_STRIDE, 1, values, TILE_COLUMNS, LANES,
        head.length);
#pragma GCC unroll 12
    for (int r = 0; r < FLOAT_ROWS; r++) {
        if (r >= n) break;
        const floats scale = set1_ps(1.0f / block->sums[r]);
#pragma GCC unroll 2
        for (int v = 0; v < TILE_VECTORS; v++)
            store_ps(out + r * stride + v * LANES, mul_ps(sums[r][v], scale));
    }
}

static void attend_block(
    const float *queries, long stride, long n, Head head, Block *block, float *out,
    long out_stride) {
    for (long d = 0; d < HEAD_DIM; d++)
        for (long r = 0; r < FLOAT_ROWS; r++)
            block->queries[d][r] = r < n ? queries[r * stride + d] : 0.0f;
    score(head, block);
    for (int r = 0; r < FLOAT_ROWS; r++) exponentiate(head, r, block);
    for (long d = 0; d < HEAD_DIM; d += TILE_COLUMNS)
        combine(head.values + d * head.padded, head, n, block, out + d, out_stride);
}

/* (batch, length, 3 of q, k and v, heads, 64) -> (batch, length, heads, 64); length at most 1536.
 * Returns 0, or -1 if out of memory. */
int murmur_encoder_attention_float32(
    const float *qkv, long batch, long length, long heads, float *out, int threads) {
    const long stride = 3 * heads * HEAD_DIM, out_stride = heads * HEAD_DIM;
    const long size = 2 * round_up(length, FRAME_STEP) * HEAD_DIM;
    float *memory = murmur_scratch(0, (size_t)(batch * heads * size) * sizeof(float));
    if (memory == NULL) return -1;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
#pragma omp for schedule(static)
        for (long item = 0; item < batch * heads; item++) {
            const float *first = qkv + item / heads * length * stride + item % heads * HEAD_DIM;
            pack_head(
                first + out_stride, first + 2 * out_stride, stride,
                head_in(memory + item * size, length));
        }
        Block *block = murmur_scratch(1, sizeof(Block));
        failed = block == NULL;
#pragma omp for collapse(2) schedule(dynamic, 8)
        for (long item = 0; item < batch * heads; item++)
            for (long start = 0; start < length; start += FLOAT_ROWS) {
                if (block == NULL) continue;
                const long row = item / heads * length + start, column = item % heads * HEAD_DIM;
                attend_block(
                    qkv + row * stride + column, stride, smaller(FLOAT_ROWS, length - start),
                    head_in(memory + item * size, length), block, out + row * out_stride + column,
                    out_stride);
            }
    }
    return failed ? -1 : 0;
}
