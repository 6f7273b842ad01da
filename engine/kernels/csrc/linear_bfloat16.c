/* Linear layers of bfloat16 with float32 sums: y = x W^T + b.
 *
 * Weights come packed: (width / 16, depth / 2, 16 outputs, 2 inputs), so that one instruction adds
 * the products of two inputs to each of 16 outputs. Widths are padded to 32, depths multiples of
 * 32. */
#include "scratch.h"
#include "simd.h"

typedef struct {
    const quad *weight; /* packed */
    const float *bias;  /* (padded width) */
    long depth, width;
} Bfloat16Layer;

/* 32 values of a row. */
static __m512i load_pairs(const void *x, long at, int from_float) {
    if (!from_float) return _mm512_loadu_si512((const bfloat16 *)x + at);
    const float *floats = (const float *)x + at;
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(floats + LANES), _mm512_loadu_ps(floats));
}

/* Row `row` into its tile: (depth / 2, 12 rows, 2 inputs). */
static void pack_row(const void *x, long depth, int from_float, quad *tiles, long row) {
    quad *out = tiles + row / TILE_ROWS * TILE_ROWS * (depth / 2) + row % TILE_ROWS;
    for (long k = 0; k < depth; k += 2 * LANES) {
        quad pairs[LANES];
        _mm512_storeu_si512(pairs, load_pairs(x, k, from_float));
        for (long i = 0; i < LANES; i++) out[(k / 2 + i) * TILE_ROWS] = pairs[i];
    }
}

/* Where a tile's outputs go: rows `stride` apart, float32 or bfloat16, through a GELU or not. */
typedef struct {
    void *rows;
    long stride;
    int to_float, gelu;
} Target;

static inline __attribute__((always_inline)) void multiply_tile(
    const Bfloat16Layer *layer, const quad *a, long column, const int rows, long n, Target to) {
    const quad *b = layer->weight + column * (layer->depth / 2);
    const long panel = LANES * (layer->depth / 2);
    __m512 sums[TILE_ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        sums[r][0] = _mm512_loadu_ps(layer->bias + column);
        sums[r][1] = _mm512_loadu_ps(layer->bias + column + LANES);
    }
    for (long k = 0; k < layer->depth / 2; k++, a += TILE_ROWS) {
        const __m512bh left = (__m512bh)_mm512_loadu_si512(b + k * LANES);
        const __m512bh right = (__m512bh)_mm512_loadu_si512(b + panel + k * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const __m512bh x = (__m512bh)_mm512_set1_epi32(a[r]);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], x, left);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], x, right);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        if (r >= n) break;
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const long at = column + half * LANES;
            const __mmask16 mask = lanes_within(at, layer->width);
            const __m512 y = to.gelu ? gelu_ps(sums[r][half]) : sums[r][half];
            if (to.to_float)
                _mm512_mask_storeu_ps((float *)to.rows + r * to.stride + at, mask, y);
            else
                _mm256_mask_storeu_epi16(
                    (bfloat16 *)to.rows + r * to.stride + at, mask, (__m256i)_mm512_cvtneps_pbh(y));
        }
    }
}

static void multiply(const Bfloat16Layer *layer, const quad *tile, long column, long n, Target to) {
    if (n <= 4)
        multiply_tile(layer, tile, column, 4, n, to);
    else if (n <= 8)
        multiply_tile(layer, tile, column, 8, n, to);
    else
        multiply_tile(layer, tile, column, 12, n, to);
}

/* (n, depth) -> (n, width), each float32 or bfloat16. 0, or -1 where memory is out. */
int murmur_linear_bfloat16(
    const void *x, int from_float, long n, const Bfloat16Layer *layer, void *out, int to_float,
    int gelu, int threads) {
    const long depth = layer->depth, width = layer->width;
    const size_t in_bytes = from_float ? sizeof(float) : sizeof(bfloat16);
    const size_t out_bytes = to_float ? sizeof(float) : sizeof(bfloat16);
    if (n == 0) return 0;
    quad *tiles = murmur_scratch(0, (size_t)(round_up(n, TILE_ROWS) * depth / 2) * sizeof(quad));
    if (tiles == NULL) return -1;
    const long n_panels = round_up(width, TILE_COLUMNS) / TILE_COLUMNS;
    const long n_blocks = round_up(n, BLOCK_ROWS) / BLOCK_ROWS;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long row = 0; row < n; row++)
            pack_row(
                (const char *)x + (size_t)(row * depth) * in_bytes, depth, from_float, tiles, row);
#pragma omp for collapse(2) schedule(static)
        for (long block = 0; block < n_blocks; block++)
            for (long panel = 0; panel < n_panels; panel++) {
                const long end = smaller(n, (block + 1) * BLOCK_ROWS);
                for (long row = block * BLOCK_ROWS; row < end; row += TILE_ROWS) {
                    char *rows = (char *)out + (size_t)(row * width) * out_bytes;
                    multiply(
                        layer, tiles + row * (depth / 2), panel * TILE_COLUMNS,
                        smaller(end - row, TILE_ROWS), (Target){rows, width, to_float, gelu});
                }
            }
    }
    return 0;
}
