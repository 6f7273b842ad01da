/* What a library says of itself before it is used. */
#include "simd.h"

#if defined(AMX) && !defined(AMX_EMULATED)
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023 /* asm/prctl.h of Linux 5.16 and later */
#define XFEATURE_XTILEDATA 18

/* Whether the system lets this process use tiles, and a small product of theirs comes out right. */
static int has_tiles(void) {
    if (!__builtin_cpu_supports("amx-int8") || !__builtin_cpu_supports("amx-bf16")) return 0;
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)) return 0;
    uint8_t x[16][64];
    int8_t columns[32][64];
    ints sums[16][TILE_VECTORS];
    for (int i = 0; i < 16 * 64; i++) x[i / 64][i % 64] = (uint8_t)(37 * i);
    for (int i = 0; i < 32 * 64; i++) columns[i / 64][i % 64] = (int8_t)(91 * i);
    for (int r = 0; r < 16; r++) sums[r][0] = sums[r][1] = set1_epi32(r);
    begin_tiles();
    multiply_bytes(
        sums, 16, (Words){(const quad *)x, 16, 1}, columns, 64, (long)sizeof(columns) / 2, 16);
    end_tiles();
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 32; c++) {
            int32_t expected = r;
            for (int k = 0; k < 64; k++)
                expected += x[r][k] * columns[c / 16 * 16 + k / 4][c % 16 * 4 + k % 4];
            if (((const int32_t *)sums[r])[c] != expected) return 0;
        }
    return 1;
}
#endif

int murmur_abi(void) {
    return ABI;
}

/* Whether the processor, and the system under it, have the instructions that it was compiled for. */
int murmur_runs_here(void) {
    __builtin_cpu_init();
    int runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#ifdef __AVX512VNNI__
    runs = runs && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
#endif
#ifdef __AVX512BF16__
    runs = runs && __builtin_cpu_supports("avx512bf16");
#endif
#ifdef __AVXVNNI__
    runs = runs && __builtin_cpu_supports("avxvnni");
#endif
#if defined(AMX) && !defined(AMX_EMULATED)
    runs = runs && has_tiles();
#endif
    return runs;
}
