/* SwiGLU between its two matrix products.

       h = silu(gate) up,  silu(a) = a s,  s = 1 / (1 + exp(-a))
       dgate = dh up s (1 + gate (1 - s));  dup = dh silu(gate)

   Shapes: N rows, F hidden width; gate and up are the halves of a row of gate_up (N, 2 F). */

#include "kernel.h"

static inline float sigmoid(float a) { return 1 / (1 + fast_exp(a < -87 ? 87 : -a)); }

/* h (N, F) of gate_up (N, 2 F). */
void EXPORT(swiglu)(const real *gate_up, real *h, int64_t N, int64_t F) {
    PARALLEL
    for (int64_t n = 0; n < N; n++) {
        const real *gate = gate_up + n * 2 * F, *up = gate + F;
        for (int64_t f = 0; f < F; f++) {
            const float a = load(gate[f]);
            h[n * F + f] = store(a * sigmoid(a) * load(up[f]));
        }
    }
}

/* dgate_up (N, 2 F) of gate_up (N, 2 F) and dh (N, F). */
void EXPORT(swiglu_backward)(const real *gate_up, const real *dh, real *dgate_up, int64_t N, int64_t F) {
    PARALLEL
    for (int64_t n = 0; n < N; n++) {
        const real *gate = gate_up + n * 2 * F, *up = gate + F, *of_h = dh + n * F;
        real *restrict dgate = dgate_up + n * 2 * F, *restrict dup = dgate + F;
        for (int64_t f = 0; f < F; f++) {
            const float a = load(gate[f]), s = sigmoid(a), d = load(of_h[f]);
            dgate[f] = store(d * load(up[f]) * s * (1 + a * (1 - s)));
            dup[f] = store(d * a * s);
        }
    }
}
