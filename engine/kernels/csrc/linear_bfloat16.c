/* Linear layers of bfloat16 with float32 sums: y = x W^T + b.
 *
 * Weights are packed: (width / 16, depth / 2, 16 outputs, 2 inputs), so that one AVX-512 instruction
 * adds the products of two inputs to each of 16 outputs. Widths are padded to multiples of 32; depths
 * are multiples of 32. */
#include "scratch.h"
#include "simd.h"

typedef struct {
    const quad *weight; /* packed */
    const float *bias;  /* (padded width) */
    long depth, width;
} Bfloat16Layer;

/* Loads 32 values of a row. */
static ints load_pairs(const void *x, long at, int from_float) {
    if (!from_float) return load_ints((const bfloat16 *)x + at);
    const float *row = (const float *)x + at;
    return to_bfloat16(load_ps(row), load_ps(row + LANES));
}

/* Packs row `row` into its tile, of depth / 2 steps. */
static void pack_row(const void *x, long depth, int from_float, quad *tiles, long row) {
    quad *tile = tiles + row / TILE_ROWS * TILE_ROWS * (depth / 2) * PAIR_WORDS;
    for (long k = 0; k < depth; k += 2 * LANES) {
        quad pairs[LANES];
        store_ints(pairs, load_pairs(x, k, from_float));
        for (long i = 0; i < LANES; i++)
            put_pair(
                tile + place_in_tile(row % TILE_ROWS, k / 2 + i, depth / 2, PAIR_WORDS), pairs[i]);
    }
}

/* Where a tile's outputs go: rows `stride` apart, float32 or bfloat16, with or without a GELU. */
typedef struct {
    void *rows;
    long stride;
    int to_float, gelu;
} Target;

static inline __attribute__((always_inline)) void multiply_tile(
    const Bfloat16Layer *layer, const quad *a, long column, const int rows, long n, Target to) {
    const quad *b = layer->weight + column * (layer->depth / 2);
    const long panel = LANES * (layer->depth / 2);
    floats sums[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < TILE_VECTORS; v++)
            sums[r][v] = load_ps(layer->bias + column + v * LANES);
    const long steps = layer->depth / 2, bytes = sizeof(quad);
    multiply_pairs(
        sums, rows, words_of_tile(a, steps, PAIR_WORDS), b, LANES * bytes, panel * bytes, steps);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        if (r >= n) break;
#pragma GCC unroll 2
        for (int v = 0; v < TILE_VECTORS; v++) {
            const long at = column + v * LANES;
            const lanes mask = lanes_within(at, layer->width);
            const floats y = to.gelu ? gelu_ps(sums[r][v]) : sums[r][v];
            if (to.to_float)
                store_within((float *)to.rows + r * to.stride + at, mask, y);
            else
                store_bfloat16_within((bfloat16 *)to.rows + r * to.stride + at, mask, y);
        }
    }
}

static void multiply(const Bfloat16Layer *layer, const quad *tile, long column, long n, Target to) {
    if (n <= TILE_PART)
        multiply_tile(layer, tile, column, TILE_PART, n, to);
    else if (n <= 2 * TILE_PART)
        multiply_tile(layer, tile, column, 2 * TILE_PART, n, to);
    else
        multiply_tile(layer, tile, column, TILE_ROWS, n, to);
}

/* (n, depth) -> (n, width), each float32 or bfloat16. Returns 0, or -1 if out of memory. */
int murmur_linear_bfloat16(
    const void *x, int from_float, long n, const Bfloat16Layer *layer, void *out, int to_float,
    int gelu, int threads) {
    const long depth = layer->depth, width = layer->width;
    const size_t in_bytes = from_float ? sizeof(float) : sizeof(bfloat16);
    const size_t out_bytes = to_float ? sizeof(float) : sizeof(bfloat16);
    if (n == 0) return 0;
    quad *tiles =
        murmur_scratch(0, (size_t)(round_up(n, TILE_ROWS) * depth / 2 * PAIR_WORDS) * sizeof(quad));
    if (tiles == NULL) return -1;
    const long n_panels = round_up(width, TILE_COLUMNS) / TILE_COLUMNS;
    const long n_blocks = round_up(n, BLOCK_ROWS) / BLOCK_ROWS;
#pragma omp parallel num_threads(threads)
    {
        begin_tiles();
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
                        layer, tiles + row * (depth / 2) * PAIR_WORDS, panel * TILE_COLUMNS,
                        smaller(end - row, TILE_ROWS), (Target){rows, width, to_float, gelu});
                }
            }
        end_tiles();
    }
    return 0;
}
