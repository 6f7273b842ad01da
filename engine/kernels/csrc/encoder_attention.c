/* Attention of a window's frames to each other.
 *
 * Queries and keys are multiplied as 8-bit integers, each row of a head with its own scale. Values
 * are bfloat16, and so are the softmax weights if the processor multiplies bfloat16; sums are
 * float32. A block of queries is multiplied with all keys, softmaxed and multiplied with all values before the
 * next block begins, so scores never leave the second-level cache. */
#include "scratch.h"
#include "simd.h"

/* A head of one window, `padded` frames long: a multiple of 32, with zeros after the end. */
typedef struct {
    quad *keys;      /* (padded / 16, 16 quads, 16 keys) of signed bytes */
    quad *values;    /* (panels, padded / 2, TILE_COLUMNS dimensions) of two bfloat16 */
    float *scales;   /* (padded): scales of the keys */
    int32_t *shifts; /* (padded): minus 128 times the sum of a key, because queries are unsigned */
    long length, padded;
} Head;

typedef struct {
    float scores[TILE_ROWS][SCORE_STRIDE];
    quad weights[TILE_ROWS][SCORE_STRIDE / 2 * PAIR_WORDS]; /* words of two */
    quad queries[QUADS * TILE_ROWS * BYTE_WORDS];           /* of unsigned bytes around 128 */
    float scales[TILE_ROWS];
    float sums[TILE_ROWS];
} Block;

static size_t head_size(long padded) {
    return (size_t)padded * (HEAD_DIM * 3 + 8);
}

static Head head_in(char *memory, long length) {
    const long padded = round_up(length, FRAME_STEP);
    Head head;
    head.keys = (quad *)memory;
    head.values = (quad *)(memory + padded * HEAD_DIM);
    head.scales = (float *)(memory + padded * HEAD_DIM * 3);
    head.shifts = (int32_t *)(head.scales + padded);
    head.length = length;
    head.padded = padded;
    return head;
}

/* Quantises a row to bytes and returns their scale; zeros for NULL. */
static float quantize_frame(const bfloat16 *row, int8_t *bytes) {
    floats x[4] = {set1_ps(0.0f), set1_ps(0.0f), set1_ps(0.0f), set1_ps(0.0f)};
    if (row != NULL)
        for (int i = 0; i < 4; i++) x[i] = from_bfloat16(row + i * LANES);
    return quantize_head(x, bytes);
}

static void pack_keys(const bfloat16 *keys, long stride, Head head) {
    for (long j = 0; j < head.padded; j++) {
        _Alignas(64) int8_t bytes[HEAD_DIM];
        int32_t sum = 0;
        head.scales[j] = quantize_frame(j < head.length ? keys + j * stride : NULL, bytes);
        for (int d = 0; d < HEAD_DIM; d++) sum += bytes[d];
        head.shifts[j] = -128 * sum;
        quad *column = head.keys + j / LANES * QUADS * LANES + j % LANES;
        for (int i = 0; i < QUADS; i++) column[i * LANES] = ((const quad *)bytes)[i];
    }
}

static void pack_values(const bfloat16 *values, long stride, Head head) {
    const long n_pairs = head.padded / 2;
    for (long j = 0; j < n_pairs; j++)
        for (long d = 0; d < HEAD_DIM; d++) {
            const uint32_t low = 2 * j < head.length ? values[2 * j * stride + d] : 0;
            const uint32_t high = 2 * j + 1 < head.length ? values[(2 * j + 1) * stride + d] : 0;
            head.values[(d / TILE_COLUMNS * n_pairs + j) * TILE_COLUMNS + d % TILE_COLUMNS] =
                (quad)(low | high << 16);
        }
}

static void pack_queries(const bfloat16 *queries, long stride, long n, Block *block) {
    for (long r = 0; r < TILE_ROWS; r++) {
        _Alignas(64) int8_t bytes[HEAD_DIM];
        block->scales[r] = quantize_frame(r < n ? queries + r * stride : NULL, bytes);
        for (int i = 0; i < QUADS; i++)
            put_bytes(
                block->queries + place_in_tile(r, i, QUADS, BYTE_WORDS),
                ((const quad *)bytes)[i] ^ (quad)0x80808080);
    }
}

/* Computes the products of queries and keys, without the queries' scales. */
static void score(Head head, Block *block) {
    const quad *keys = head.keys;
    for (long j = 0; j < head.padded; j += TILE_COLUMNS, keys += TILE_COLUMNS * QUADS) {
        ints sums[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 12
        for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 2
            for (int v = 0; v < TILE_VECTORS; v++)
                sums[r][v] = load_ints(head.shifts + j + v * LANES);
        multiply_bytes(
            sums, TILE_ROWS, words_of_tile(block->queries, QUADS, BYTE_WORDS), keys,
            LANES * sizeof(quad), QUADS * LANES * sizeof(quad), QUADS);
#pragma GCC unroll 2
        for (int v = 0; v < TILE_VECTORS; v++) {
            const floats scale = load_ps(head.scales + j + v * LANES);
#pragma GCC unroll 12
            for (int r = 0; r < TILE_ROWS; r++)
                store_ps(&block->scores[r][j + v * LANES], mul_ps(to_floats(sums[r][v]), scale));
        }
    }
}

/* Scores -> words of e^((score - greatest) / 8), almost zero after the end, and their sum. */
static void exponentiate(Head head, int r, Block *block) {
    float *scores = block->scores[r];
    const long padded = head.padded;
    const float greatest = greatest_score(scores, head.length, padded);
    const floats scale = set1_ps(block->scales[r] * (EIGHTH * LOG2_E));
    const floats top = mul_ps(set1_ps(greatest), scale);
    floats sum = set1_ps(0.0f);
    for (long j = 0; j < padded; j += 2 * LANES) {
        const floats left = load_ps(scores + j), right = load_ps(scores + j + LANES);
        const floats low = exp2_ps(fmsub_ps(left, scale, top));
        const floats high = exp2_ps(fmsub_ps(right, scale, top));
        sum = add_ps(sum, add_ps(low, high));
        store_pairs(&block->weights[r][j / 2 * PAIR_WORDS], low, high);
    }
    block->sums[r] = reduce_add_ps(sum);
}

/* Computes the weighted sums of the values for `TILE_COLUMNS` dimensions. */
static void combine(
    const quad *values, long padded, long n, Block *block, bfloat16 *out, long stride) {
    floats sums[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 2
        for (int v = 0; v < TILE_VECTORS; v++) sums[r][v] = set1_ps(0.0f);
    const Words weights = {block->weights[0], SCORE_STRIDE / 2 * PAIR_WORDS, PAIR_WORDS};
    multiply_pairs(
        sums, TILE_ROWS, weights, values, TILE_COLUMNS * sizeof(quad), LANES * sizeof(quad),
        padded / 2);
#pragma GCC unroll 12
    for (int r = 0; r < TILE_ROWS; r++) {
        if (r >= n) break;
        const floats scale = set1_ps(1.0f / block->sums[r]);
#pragma GCC unroll 2
        for (int v = 0; v < TILE_VECTORS; v++)
            store_bfloat16(out + r * stride + v * LANES, mul_ps(sums[r][v], scale));
    }
}

static void attend_block(
    const bfloat16 *queries, long stride, long n, Head head, Block *block, bfloat16 *out,
    long out_stride) {
    pack_queries(queries, stride, n, block);
    score(head, block);
    for (int r = 0; r < TILE_ROWS; r++) exponentiate(head, r, block);
    for (long d = 0; d < HEAD_DIM; d += TILE_COLUMNS)
        combine(head.values + d * head.padded / 2, head.padded, n, block, out + d, out_stride);
}

/* (batch, length, 3 of q, k and v, heads, 64) -> (batch, length, heads, 64), both bfloat16; length
 * at most 1536. Returns 0, or -1 if out of memory. */
int murmur_encoder_attention(
    const bfloat16 *qkv, long batch, long length, long heads, bfloat16 *out, int threads) {
    const long stride = 3 * heads * HEAD_DIM, out_stride = heads * HEAD_DIM;
    const size_t size = head_size(round_up(length, FRAME_STEP));
    char *heads_memory = murmur_scratch(0, (size_t)(batch * heads) * size);
    if (heads_memory == NULL) return -1;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
#pragma omp for schedule(static)
        for (long item = 0; item < batch * heads; item++) {
            const Head head = head_in(heads_memory + item * size, length);
            const bfloat16 *first = qkv + item / heads * length * stride + item % heads * HEAD_DIM;
            pack_keys(first + out_stride, stride, head);
            pack_values(first + 2 * out_stride, stride, head);
        }
        Block *block = murmur_scratch(1, sizeof(Block));
        failed = block == NULL;
        begin_tiles();
#pragma omp for collapse(2) schedule(dynamic, 8)
        for (long item = 0; item < batch * heads; item++)
            for (long start = 0; start < length; start += TILE_ROWS) {
                if (block == NULL) continue;
                const long row = item / heads * length + start, column = item % heads * HEAD_DIM;
                attend_block(
                    qkv + row * stride + column, stride, smaller(TILE_ROWS, length - start),
                    head_in(heads_memory + item * size, length), block,
                    out + row * out_stride + column, out_stride);
            }
        end_tiles();
    }
    return failed ? -1 : 0;
}
