/* What every kernel shares: the name of its clone, the type of its activations, vectors, and a fast exponential. */

#ifndef KERNEL_H
#define KERNEL_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* EXPORT(norm) is norm_fast_v3, norm_bf16_v4, ...: CMakeLists.txt defines CLONE for each compilation. */
#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define EXPORT(name) JOIN(name, CLONE)

/* Rows of a loop are divided among the threads that torch uses: the number set in the calling thread. */
#define PARALLEL _Pragma("omp parallel for schedule(static)")
int omp_get_thread_num(void); /* omp.h is not everywhere where OpenMP is */

enum { PARTS = 16 }; /* Sums over rows are made in so many parts, whatever the threads. */

int omp_get_thread_num(void); /* omp.h is not everywhere where OpenMP is */

static inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

/* Numbers of activations: `real` is bf16 or fp32, by the compilation. They are read into and computed in fp32. */
#ifdef TYPE_bf16
typedef uint16_t real;
static inline float load(real x) {
    const uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}
/* Round to the nearest, ties to even; a NaN stays one. */
static inline real store(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded;
}
#else
typedef float real;
static inline float load(real x) { return x; }
static inline real store(float x) { return x; }
#endif

/* exp(x) for x <= 87, to 2e-7 relative; 0 below -87. A NaN gives a NaN. */
static inline float fast_exp(float x) {
    const float t = x * 1.44269504f, clamped = t > -126.f ? t : -126.f; /* of a NaN too, which is no integer */
    const float whole = floorf(clamped + 0.5f), part = t - whole;
    const float power = 1 + part * (0.693147181f + part * (0.240226507f + part * (0.0555041087f +
                        part * (0.00961812911f + part * (0.00133335581f + part * 0.000154035304f)))));
    const uint32_t bits = (uint32_t)((int32_t)whole + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return t < -126.f ? 0 : power * scale;
}

#endif
