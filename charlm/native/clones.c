/* Which clones of the kernels this processor can run. Compiled for the oldest one. */

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#endif

/* The names, best first, that charlm/native/library.py may choose from: bit i of the result is for the i-th of
   v4bf16, v4, v3, v2, baseline. */
int supported_clones(void) {
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_cpu_init();
    const int v2 = __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
    const int v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const int v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return (v4 && __builtin_cpu_supports("avx512bf16")) | v4 << 1 | v3 << 2 | v2 << 3;
#else
    return 16;
#endif
}

/* Has the processor units for products of bf16 tiles (AMX)? Then general products beat kernels of vectors. */
int has_amx(void) {
#if defined(__x86_64__) || defined(_M_X64)
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1);
#else
    return 0;
#endif
}
