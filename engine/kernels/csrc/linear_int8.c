/* Linear layers of 8-bit integers: y = x W^T + b, and two of them around a GELU.
 *
 * Activations are unsigned, with a scale and a zero point per row; weights are signed, with a scale
 * per output. Their products are summed as integers, hence exactly.
 *
 * Weights are packed: (width / 16, depth / 4, 16 outputs, 4 inputs), so that one AVX-512
 * instruction adds the products of four inputs to each of 16 outputs. Widths are padded to
 * multiples of 32; depths are multiples of 4. */
#include "scratch.h"
#include "simd.h"

#define GELU_DEPTH 0.17f /* a GELU never goes below minus this */

typedef struct {
    const int8_t *weight; /* packed */
    const float *scale;   /* (padded width) */
    const int32_t *sums;  /* (padded width): sums of an output's weights */
    const float *bias;    /* (padded width) */
    long depth, width;
} Int8Layer;

/* Quantised rows: tiles of (depth / 4, rows, words of 4 inputs), and the scale and zero point of
 * each row. */
typedef struct {
    quad *tiles;
    float *scale;
    int32_t *zero;
} Rows;

static size_t rows_size(long n, long depth) {
    return (size_t)round_up(n, TILE_ROWS) *
           (size_t)(depth * BYTE_WORDS + 8); /* a scale, a zero point */
}

static Rows rows_in(void *memory, long n, long depth) {
    const long padded = round_up(n, TILE_ROWS);
    Rows rows;
    rows.tiles = memory;
    rows.scale = (float *)(rows.tiles + padded * depth / 4 * BYTE_WORDS);
    rows.zero = (int32_t *)(rows.scale + padded);
    return rows;
}

/* The steps in which a row is quantised. After a GELU the range is asymmetric, with a whole zero
 * point, because most such values are almost zero and must stay so. */
static void row_range(const float *x, long depth, int of_gelu, float *scale, int32_t *zero) {
    floats greatest = set1_ps(0.0f);
    for (long k = 0; k < depth; k += LANES) {
        const floats v = load_within(lanes_within(k, depth), x + k, 0.0f);
        greatest = max_ps(greatest, of_gelu ? v : abs_ps(v));
    }
    const float top = reduce_max_ps(greatest);
    *scale = of_gelu ? (top + GELU_DEPTH) / 255.0f : (top > LEAST ? top : LEAST) / 127.0f;
    *zero = of_gelu ? (int32_t)__builtin_rintf(GELU_DEPTH / *scale) : 128;
}

/* Quantises row `row` of a tile. */
static void quantize_row(const float *x, long depth, int of_gelu, Rows rows, long row) {
    row_range(x, depth, of_gelu, &rows.scale[row], &rows.zero[row]);
    quad *tile = rows.tiles + row / TILE_ROWS * TILE_ROWS * depth / 4 * BYTE_WORDS;
    const floats inverse = set1_ps(1.0f / rows.scale[row]);
    const floats zero = set1_ps((float)rows.zero[row]);
    for (long k = 0; k < depth; k += LANES) {
        const floats v = load_within(lanes_within(k, depth), x + k, 0.0f);
        const ints whole = to_ints(fmadd_ps(v, inverse, zero));
        int32_t quads[4];
        store_unsigned_bytes(quads, whole);
        for (long i = 0; i < smaller(4, (depth - k) / 4); i++)
            put_bytes(
                tile + place_in_tile(row % TILE_ROWS, k / 4 + i, depth / 4, BYTE_WORDS), quads[i]);
    }
}

/* Multiplies a tile's rows for `TILE_COLUMNS` outputs from `column` on, into rows of `out`. `n_tile`
 * is a constant at each call; `n` of its rows are wanted. */
static inline __attribute__((always_inline)) void multiply_tile(
    const Int8Layer *layer, Rows quantized, long first, long column, const int n_tile, long n,
    float *out, long out_stride, int gelu) {
    const quad *a = quantized.tiles + first * layer->depth / 4 * BYTE_WORDS;
    const int8_t *b = layer->weight + column * layer->depth;
    const long panel = LANES * layer->depth;
    ints sums[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < n_tile; r++)
#pragma GCC unroll 2
        for (int v = 0; v < TILE_VECTORS; v++) sums[r][v] = set1_epi32(0);
    const long steps = layer->depth / 4;
    multiply_bytes(
        sums, n_tile, words_of_tile(a, steps, BYTE_WORDS), b, LANES * sizeof(quad), panel, steps);
#pragma GCC unroll 2
    for (int v = 0; v < TILE_VECTORS; v++) {
        const long at = column + v * LANES;
        const lanes mask = lanes_within(at, layer->width);
        const floats scale = load_ps(layer->scale + at);
        const floats bias = load_ps(layer->bias + at);
        const ints weights = load_ints(layer->sums + at);
#pragma GCC unroll 12
        for (int r = 0; r < n_tile; r++) {
            if (r >= n) break;
            const ints zero = set1_epi32(quantized.zero[first + r]);
            const ints whole = sub_epi32(sums[r][v], mullo_epi32(zero, weights));
            const floats step = mul_ps(scale, set1_ps(quantized.scale[first + r]));
            floats y = fmadd_ps(to_floats(whole), step, bias);
            if (gelu) y = gelu_ps(y);
            store_within(out + r * out_stride + at, mask, y);
        }
    }
}

/* Rows `first` to `first + n` of a tile; parts of it that are not needed are not computed. */
static void multiply(
    const Int8Layer *layer, Rows rows, long first, long column, long n, float *out, long out_stride,
    int gelu) {
    if (n <= TILE_PART)
        multiply_tile(layer, rows, first, column, TILE_PART, n, out, out_stride, gelu);
    else if (n <= 2 * TILE_PART)
        multiply_tile(layer, rows, first, column, 2 * TILE_PART, n, out, out_stride, gelu);
    else
        multiply_tile(layer, rows, first, column, TILE_ROWS, n, out, out_stride, gelu);
}

/* (n, depth) float -> (n, width) float, with a GELU if asked to. `of_gelu`: the input comes from a
 * GELU. Returns 0, or -1 if out of memory. */
int murmur_linear_int8(
    const float *x, long n, const Int8Layer *layer, float *out, int gelu, int of_gelu,
    int threads) {
    if (n == 0) return 0;
    void *memory = murmur_scratch(0, rows_size(n, layer->depth));
    if (memory == NULL) return -1;
    const Rows rows = rows_in(memory, n, layer->depth);
    const long n_panels = round_up(layer->width, TILE_COLUMNS) / TILE_COLUMNS;
    const long n_blocks = round_up(n, BLOCK_ROWS) / BLOCK_ROWS;
#pragma omp parallel num_threads(threads)
    {
        begin_tiles();
#pragma omp for schedule(static)
        for (long row = 0; row < n; row++)
            quantize_row(x + row * layer->depth, layer->depth, of_gelu, rows, row);
#pragma omp for collapse(2) schedule(static)
        for (long block = 0; block < n_blocks; block++)
            for (long panel = 0; panel < n_panels; panel++) {
                const long end = smaller(n, (block + 1) * BLOCK_ROWS);
                for (long row = block * BLOCK_ROWS; row < end; row += TILE_ROWS)
                    multiply(
                        layer, rows, row, panel * TILE_COLUMNS, smaller(end - row, TILE_ROWS),
                        out + row * layer->width, layer->width, gelu);
            }
        end_tiles();
    }
    return 0;
}

static void multiply_block(
    const Int8Layer *layer, Rows rows, long n, float *out, long out_stride, int gelu) {
    for (long column = 0; column < layer->width; column += TILE_COLUMNS)
        for (long row = 0; row < n; row += TILE_ROWS)
            multiply(
                layer, rows, row, column, smaller(n - row, TILE_ROWS), out + row * out_stride,
                out_stride, gelu);
}

/* One block of rows through both layers. Returns -1 if out of memory. */
static int mlp_block(
    const float *x, long n, const Int8Layer *first, const Int8Layer *second, float *out) {
    const long hidden = first->width;
    void *inputs = murmur_scratch(1, rows_size(n, first->depth));
    void *units = murmur_scratch(2, rows_size(n, hidden));
    float *values = murmur_scratch(3, (size_t)(BLOCK_ROWS * hidden) * sizeof(float));
    if (inputs == NULL || units == NULL || values == NULL) return -1;
    const Rows in = rows_in(inputs, n, first->depth), middle = rows_in(units, n, hidden);
    for (long row = 0; row < n; row++)
        quantize_row(x + row * first->depth, first->depth, 0, in, row);
    multiply_block(first, in, n, values, hidden, 1);
    for (long row = 0; row < n; row++) quantize_row(values + row * hidden, hidden, 1, middle, row);
    multiply_block(second, middle, n, out, second->width, 0);
    return 0;
}

/* Two layers around a GELU, in blocks of rows whose hidden units never leave the second-level cache.
 * (n, depth) float -> (n, width) float. Returns 0, or -1 if out of memory. */
int murmur_mlp_int8(
    const float *x, long n, const Int8Layer *first, const Int8Layer *second, float *out,
    int threads) {
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        begin_tiles();
#pragma omp for schedule(dynamic)
        for (long start = 0; start < n; start += BLOCK_ROWS)
            failed |= mlp_block(
                x + start * first->depth, smaller(BLOCK_ROWS, n - start), first, second,
                out + start * second->width);
        end_tiles();
    }
    return failed;
}
