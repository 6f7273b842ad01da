/* What a library says of itself before it is used. */
#include "simd.h"

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
    return runs;
}
