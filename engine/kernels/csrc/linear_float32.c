/* Linear layers of float32: y = x W^T + b.
 *
 * Weights are packed: (width / 16, depth, 16 outputs). Widths are padded to multiples of 32. */
#include "scratch.h"
#include "simd.h"

#define FLOAT_BLOCK (4 * FLOAT_ROWS) /* rows that share a panel of weights */

typedef struct {
    const float *weight; /* packed */
    const float *bias;   /* (padded width), or NULL */
    long depth, width;
} Float32Layer;

/* Packs row `row` into its tile: (depth, rows). */
static void pack_row(const float *x, long depth, float *tiles, long row) {
    float *out = tiles + row / FLOAT_ROWS * FLOAT_ROWS * depth + row % FLOAT_ROWS;
    for (long k = 0; k < depth; k++) out[k * FLOAT_ROWS] = x[k];
}

static inline __attribute__((always_inline)) void multiply_tile(
    const Float32Layer *layer, const float *tile, long column, const int rows, long n, float *out,
    int gelu) {
    const long panel = LANES * layer->depth;
    floats sums[FLOAT_ROWS][TILE_VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < TILE_VECTORS; v++)
            sums[r][v] =
                layer->bias == NULL ? set1_ps(0.0f) : load_ps(layer->bias + column + v * LANES);
    multiply_floats(
        sums, rows, tile, 1, FLOAT_ROWS, layer->weight + column * layer->depth, LANES, panel,
        layer->depth);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        if (r >= n) break;
#pragma GCC unroll 2
        for (int v = 0; v < TILE_VECTORS; v++) {
            const long at = column + v * LANES;
            const floats y = gelu ? gelu_ps(sums[r][v]) : sums[r][v];
            store_within(out + r * layer->width + at, lanes_within(at, layer->width), y);
        }
    }
}

/* `n` rows of a tile; parts of it that are not needed are not computed. */
static void multiply(
    const Float32Layer *layer, const float *tile, long column, long n, float *out, int gelu) {
    if (n <= FLOAT_PART)
        multiply_tile(layer, tile, column, FLOAT_PART, n, out, gelu);
    else if (n <= 2 * FLOAT_PART)
        multiply_tile(layer, tile, column, 2 * FLOAT_PART, n, out, gelu);
    else
        multiply_tile(layer, tile, column, FLOAT_ROWS, n, out, gelu);
}

/* (n, depth) -> (n, width), with a GELU if asked to. Returns 0, or -1 if out of memory. */
int murmur_linear_float32(
    const float *x, long n, const Float32Layer *layer, float *out, int gelu, int threads) {
    const long depth = layer->depth, width = layer->width;
    if (n == 0) return 0;
    float *tiles = murmur_scratch(0, (size_t)(round_up(n, FLOAT_ROWS) * depth) * sizeof(float));
    if (tiles == NULL) return -1;
    const long n_panels = round_up(width, TILE_COLUMNS) / TILE_COLUMNS;
    const long n_blocks = round_up(n, FLOAT_BLOCK) / FLOAT_BLOCK;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long row = 0; row < n; row++) pack_row(x + row * depth, depth, tiles, row);
#pragma omp for collapse(2) schedule(static)
        for (long block = 0; block < n_blocks; block++)
            for (long panel = 0; panel < n_panels; panel++) {
                const long end = smaller(n, (block + 1) * FLOAT_BLOCK);
                for (long row = block * FLOAT_BLOCK; row < end; row += FLOAT_ROWS)
                    multiply(
                        layer, tiles + row * depth, panel * TILE_COLUMNS,
                        smaller(end - row, FLOAT_ROWS), out + row * width, gelu);
            }
    }
    return 0;
}
