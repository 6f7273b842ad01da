/* AMX's instructions as they are defined, in C: to test what is built on them where no processor has
 * them. Not part of any build that is installed. */
#pragma once

static _Thread_local quad emulated[8][16][16];

static inline void begin_tiles(void) {
    memset(emulated, 0xff, sizeof(emulated)); /* not numbers, and no sums of anything */
}
static inline void end_tiles(void) {}

static inline void tile_load(int tile, const void *from, long stride) {
    for (int r = 0; r < 16; r++) memcpy(emulated[tile][r], (const char *)from + r * stride, 64);
}
static inline void tile_store(int tile, void *to, long stride) {
    for (int r = 0; r < 16; r++) memcpy((char *)to + r * stride, emulated[tile][r], 64);
}
static inline void tile_add_bytes(int sums, int rows, int columns) {
    for (int r = 0; r < 16; r++)
        for (int k = 0; k < 16; k++)
            for (int c = 0; c < 16; c++)
                for (int i = 0; i < 4; i++)
                    emulated[sums][r][c] += ((const uint8_t *)&emulated[rows][r][k])[i] *
                                            ((const int8_t *)&emulated[columns][k][c])[i];
}
static inline float emulated_half(const quad *pair, int which) {
    const uint32_t bits = (uint32_t)((const bfloat16 *)pair)[which] << 16;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}
static inline void tile_add_pairs(int sums, int rows, int columns) {
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 16; c++) {
            float even = 0.0f, odd = 0.0f, sum;
            for (int k = 0; k < 16; k++) {
                const quad *a = &emulated[rows][r][k], *b = &emulated[columns][k][c];
                even += emulated_half(a, 0) * emulated_half(b, 0);
                odd += emulated_half(a, 1) * emulated_half(b, 1);
            }
            memcpy(&sum, &emulated[sums][r][c], sizeof(sum));
            sum += even + odd;
            memcpy(&emulated[sums][r][c], &sum, sizeof(sum));
        }
}
