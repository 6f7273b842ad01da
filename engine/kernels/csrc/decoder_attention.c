/* Attention of one token per slot: to the window's frames, whose keys and values are stored in 8
 * bits, and to the slot's earlier tokens, in float32.
 *
 * Both wait for memory, so it is important to read little of it, and only once. */
#include "simd.h"

#define CROSS_STEP (4 * LANES) /* keys at once */

/* A layer's slots. Each slot and head stores its keys as (padded / 64, 16 quads, 64 keys, 4) unsigned
 * bytes around 128, its values as (padded / 4, 64 dimensions, 4 values) signed bytes, and a scale for
 * each key and each value. `padded` is a multiple of 64, and no slot's length is above it. */
typedef struct {
    uint8_t *keys;
    int8_t *values;
    float *key_scales, *value_scales; /* (slots, heads, padded) */
    const int64_t *lengths;           /* (slots): keys that each slot has */
    long heads, padded;
} CrossCache;

/* Stores `length` keys and values, and nothing up to the next multiple of 64. */
static void fill_head(
    const bfloat16 *keys, const bfloat16 *values, long stride, long length, const CrossCache *cache,
    long item) {
    const long padded = cache->padded;
    quad *packed_keys = (quad *)(cache->keys + item * padded * HEAD_DIM);
    int8_t *packed_values = cache->values + item * padded * HEAD_DIM;
    float *key_scales = cache->key_scales + item * padded;
    float *value_scales = cache->value_scales + item * padded;
    for (long j = 0; j < round_up(length, CROSS_STEP); j++) {
        _Alignas(64) int8_t row[HEAD_DIM] = {0};
        floats x[4];
        key_scales[j] = value_scales[j] = 0.0f;
        if (j < length) {
            for (int i = 0; i < 4; i++) x[i] = from_bfloat16(keys + j * stride + i * LANES);
            key_scales[j] = quantize_head(x, row);
        }
        quad *column = packed_keys + j / CROSS_STEP * QUADS * CROSS_STEP + j % CROSS_STEP;
        for (int i = 0; i < QUADS; i++)
            column[i * CROSS_STEP] = ((const quad *)row)[i] ^ (quad)0x80808080;
        if (j < length) {
            for (int i = 0; i < 4; i++) x[i] = from_bfloat16(values + j * stride + i * LANES);
            value_scales[j] = quantize_head(x, row);
        }
        int8_t *target = packed_values + j / 4 * HEAD_DIM * 4 + j % 4;
        for (int d = 0; d < HEAD_DIM; d++) target[d * 4] = row[d];
    }
}

/* Stores (batch, length, keys and values, heads, 64) bfloat16 in `slots`, (batch,). */
int murmur_fill_cross(
    const bfloat16 *kv, long batch, long length, const int64_t *slots, const CrossCache *cache,
    int threads) {
    const long width = cache->heads * HEAD_DIM, stride = 2 * width;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long item = 0; item < batch * cache->heads; item++) {
        const long row = item / cache->heads, head = item % cache->heads;
        const bfloat16 *keys = kv + row * length * stride + head * HEAD_DIM;
        fill_head(keys, keys + width, stride, length, cache, slots[row] * cache->heads + head);
    }
    return 0;
}

/* Computes the scores of one query, times log2 e: (padded). */
static void score_keys(
    const float *query, const uint8_t *keys, const float *key_scales, long padded, float *scores) {
    floats x[4];
    _Alignas(64) int8_t row[HEAD_DIM];
    for (int i = 0; i < 4; i++) x[i] = load_ps(query + i * LANES);
    const float scale = quantize_head(x, row) * (EIGHTH * LOG2_E);
    int32_t sum = 0;
    for (int d = 0; d < HEAD_DIM; d++) sum += row[d];
    const ints shift = set1_epi32(-128 * sum); /* keys are shifted by 128 */
    const quad *quads = (const quad *)row;
    for (long j = 0; j < padded; j += CROSS_STEP, keys += CROSS_STEP * HEAD_DIM) {
        ints sums[4] = {shift, shift, shift, shift};
        for (int i = 0; i < QUADS; i++) {
            const ints q = set1_epi32(quads[i]);
#pragma GCC unroll 4
            for (int block = 0; block < 4; block++) {
                const uint8_t *at = keys + (i * 4 + block) * 4 * LANES;
                sums[block] = add_products(sums[block], load_ints(at), q);
            }
        }
#pragma GCC unroll 4
        for (int block = 0; block < 4; block++) {
            const floats steps = load_ps(key_scales + j + block * LANES);
            const floats step = mul_ps(steps, set1_ps(scale));
            store_ps(scores + j + block * LANES, mul_ps(to_floats(sums[block]), step));
        }
    }
}

/* Scores -> softmax weights times the scales of the values, as 16-bit integers in two rows of bytes,
 * high and low. Returns the value of one unit. */
static float weigh(
    float *scores, const float *value_scales, long length, long padded, uint8_t *high,
    uint8_t *low) {
    const floats top = set1_ps(greatest_score(scores, length, padded));
    floats sum = set1_ps(0.0f), widest = set1_ps(0.0f);
    for (long j = 0; j < padded; j += LANES) {
        const floats e = exp2_ps(sub_ps(load_ps(scores + j), top));
        const floats weight = mul_ps(e, load_ps(value_scales + j));
        sum = add_ps(sum, e);
        widest = max_ps(widest, weight);
        store_ps(scores + j, weight);
    }
    const float unit = reduce_max_ps(widest) / 65535.0f;
    const floats inverse = set1_ps(1.0f / unit);
    for (long j = 0; j < padded; j += LANES) {
        const floats units = mul_ps(load_ps(scores + j), inverse);
        const ints whole = min_epu32(to_unsigned(units), set1_epi32(65535));
        store_low_bytes(high + j, high_bytes(whole));
        store_low_bytes(low + j, whole);
    }
    return unit / reduce_add_ps(sum);
}

static void attend_head(
    const float *query, const CrossCache *cache, long length, long item, float *out) {
    float scores[MAX_LENGTH];
    _Alignas(64) uint8_t high[MAX_LENGTH], low[MAX_LENGTH];
    const long first = item * cache->padded, padded = round_up(length, CROSS_STEP);
    const uint8_t *keys = cache->keys + first * HEAD_DIM;
    const int8_t *values = cache->values + first * HEAD_DIM;
    score_keys(query, keys, cache->key_scales + first, padded, scores);
    const float unit = weigh(scores, cache->value_scales + first, length, padded, high, low);
    ints sums[2][4];
    for (int i = 0; i < 4; i++) sums[0][i] = sums[1][i] = set1_epi32(0);
    for (long j = 0; j < padded; j += 4, values += 4 * HEAD_DIM) {
        const ints weights[2] = {
            set1_epi32(*(const quad *)(high + j)), set1_epi32(*(const quad *)(low + j))};
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const ints v = load_ints(values + i * 4 * LANES);
            sums[0][i] = add_products(sums[0][i], weights[0], v);
            sums[1][i] = add_products(sums[1][i], weights[1], v);
        }
    }
    for (int i = 0; i < 4; i++) {
        const floats upper = mul_ps(to_floats(sums[0][i]), set1_ps(256.0f));
        const floats both = add_ps(upper, to_floats(sums[1][i]));
        store_ps(out + i * LANES, mul_ps(both, set1_ps(unit)));
    }
}

/* Queries (n, heads, 64) -> (n, heads, 64), both float32; row i attends to slot `slots[i]`. A slot
 * that another thread fills meanwhile gives finite but meaningless numbers. */
int murmur_cross_attention(
    const float *queries, long n, const int64_t *slots, const CrossCache *cache, float *out,
    int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
    for (long item = 0; item < n * cache->heads; item++) {
        /* Tokens of one slot follow each other, because they read the same keys. */
        const long row = item % n, head = item / n, at = (row * cache->heads + head) * HEAD_DIM;
        const long slot = slots[row];
        attend_head(
            queries + at, cache, cache->lengths[slot], slot * cache->heads + head, out + at);
    }
    return 0;
}

static float dot(const floats *query, const float *key) {
    floats sum = mul_ps(query[0], load_ps(key));
    for (int i = 1; i < 4; i++) sum = fmadd_ps(query[i], load_ps(key + i * LANES), sum);
    return reduce_add_ps(sum);
}

static void attend_tokens(
    const float *query, const float *keys, const float *values, long length, float *out) {
    float scores[MAX_LENGTH];
    floats q[4], sums[4];
    for (int i = 0; i < 4; i++) {
        q[i] = mul_ps(load_ps(query + i * LANES), set1_ps(EIGHTH * LOG2_E));
        sums[i] = set1_ps(0.0f);
    }
    for (long j = 0; j < length; j++) scores[j] = dot(q, keys + j * HEAD_DIM);
    const floats top = set1_ps(greatest_score(scores, length, round_up(length, LANES)));
    floats total = set1_ps(0.0f);
    for (long j = 0; j < length; j += LANES) {
        const floats e = exp2_ps(sub_ps(load_ps(scores + j), top));
        total = add_ps(total, e);
        store_ps(scores + j, e);
    }
    for (long j = 0; j < length; j++)
        for (int i = 0; i < 4; i++)
            sums[i] =
                fmadd_ps(set1_ps(scores[j]), load_ps(values + j * HEAD_DIM + i * LANES), sums[i]);
    const floats inverse = set1_ps(1.0f / reduce_add_ps(total));
    for (int i = 0; i < 4; i++) store_ps(out + i * LANES, mul_ps(sums[i], inverse));
}

/* One token in each of the first n slots: (n, 3 of q, k and v, heads, 64) -> (n, heads, 64). Keys
 * and values, (slots, heads, max_length, 64), are written at `positions`, (n,), and read up to them;
 * all float32, positions below 1536. */
int murmur_self_attention(
    const float *qkv, long n, long heads, const int64_t *positions, float *keys, float *values,
    long max_length, float *out, int threads) {
    const long width = heads * HEAD_DIM;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
    for (long item = 0; item < n * heads; item++) {
        const float *query = qkv + item / heads * 3 * width + item % heads * HEAD_DIM;
        const long position = positions[item / heads];
        float *slot_keys = keys + item * max_length * HEAD_DIM;
        float *slot_values = values + item * max_length * HEAD_DIM;
        for (int i = 0; i < HEAD_DIM; i += LANES) {
            store_ps(slot_keys + position * HEAD_DIM + i, load_ps(query + width + i));
            store_ps(slot_values + position * HEAD_DIM + i, load_ps(query + 2 * width + i));
        }
        attend_tokens(query, slot_keys, slot_values, position + 1, out + item * HEAD_DIM);
    }
    return 0;
}
