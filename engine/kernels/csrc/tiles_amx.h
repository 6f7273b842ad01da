/* Products of tiles of 16 rows in AMX (Sapphire Rapids and later), with the interface of those of
 * vectors in `simd.h`. A tile of words is a row of 64 bytes for each of its rows; one instruction
 * multiplies 16 of them with 16 columns. Sums are four tiles, 0 to 3, rows 4 and 5, columns 6 and 7.
 *
 * Sources: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18. */
#pragma once

#include <string.h>

#define AMX_STEPS 16 /* words of a row in a tile */

#ifdef AMX_EMULATED
#include "amx_emulated.h"
#else
/* Inline assembly, because GCC's intrinsics do not say that they read and write memory. */
#define TILE_PLACE(at, stride) "r"(at), "r"((long)(stride))
#define tile_load(tile, at, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile::TILE_PLACE(at, stride) : "memory")
#define tile_store(tile, at, stride) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::TILE_PLACE(at, stride) : "memory")
#define tile_add_bytes(sums, rows, columns) \
    __asm__ volatile("tdpbusd %%tmm" #columns ", %%tmm" #rows ", %%tmm" #sums::)
#define tile_add_pairs(sums, rows, columns) \
    __asm__ volatile("tdpbf16ps %%tmm" #columns ", %%tmm" #rows ", %%tmm" #sums::)

/* Gives all eight tiles of this thread 16 rows of 64 bytes. */
static inline void begin_tiles(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } layout = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        layout.row_bytes[tile] = 64;
        layout.rows[tile] = 16;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(layout) : "memory");
}
/* So that the system need not save them when another thread takes its turn. */
static inline void end_tiles(void) {
    __asm__ volatile("tilerelease" ::: "memory");
}
#endif

#define TILE_LOOP(add)                                                    \
    tile_load(0, &sums[0][0], sizeof(sums[0]));                           \
    tile_load(1, &sums[0][1], sizeof(sums[0]));                           \
    if (rows > 16) {                                                      \
        tile_load(2, &sums[16][0], sizeof(sums[0]));                      \
        tile_load(3, &sums[16][1], sizeof(sums[0]));                      \
    }                                                                     \
    for (long k = 0; k < steps; k += AMX_STEPS) {                         \
        const char *at = (const char *)columns + k * column_step;         \
        tile_load(6, at, column_step);                                    \
        tile_load(4, x.first + k, x.row * sizeof(quad));                  \
        add(0, 4, 6);                                                     \
        tile_load(7, at + panel, column_step);                            \
        add(1, 4, 7);                                                     \
        if (rows > 16) {                                                  \
            tile_load(5, x.first + 16 * x.row + k, x.row * sizeof(quad)); \
            add(2, 5, 6);                                                 \
            add(3, 5, 7);                                                 \
        }                                                                 \
    }                                                                     \
    tile_store(0, &sums[0][0], sizeof(sums[0]));                          \
    tile_store(1, &sums[0][1], sizeof(sums[0]));                          \
    if (rows > 16) {                                                      \
        tile_store(2, &sums[16][0], sizeof(sums[0]));                     \
        tile_store(3, &sums[16][1], sizeof(sums[0]));                     \
    }

static inline __attribute__((always_inline)) void multiply_bytes(
    ints sums[][TILE_VECTORS], const int rows, Words x, const void *columns, long column_step,
    long panel, long steps) {
    if (steps % AMX_STEPS) { /* of no Whisper model; integers have the same sums either way */
        for (long k = 0; k < steps; k++)
            add_tile_products(
                sums, rows, x.first + k, x.row, (const char *)columns + k * column_step, panel);
        return;
    }
    TILE_LOOP(tile_add_bytes)
}

/* `steps` is a multiple of 16. */
static inline __attribute__((always_inline)) void multiply_pairs(
    floats sums[][TILE_VECTORS], const int rows, Words x, const void *columns, long column_step,
    long panel, long steps) {
    TILE_LOOP(tile_add_pairs)
}
