/* RMSNorm, with the residual addition before it.

       x = residual + branch;  y = x r g,  r = 1 / sqrt(mean(x^2) + eps)

   Backward, for dy = the gradient of y, and dx that of x by way of everything but y:

       dx += r g dy - x r^3 mean(x g dy);  dg = sum over rows of x r dy

   Shapes: N rows, C width. Residuals and gradients of weights are fp32; y, branches and their gradients are `real`. */

#include "kernel.h"

/* residual, x (N, C), branch (N, C), or null for none, y (N, C), r (N), gain (C). x may be the residual. */
void EXPORT(norm)(const float *residual, const real *branch, const float *gain, float *x, real *y, float *r,
                  int64_t N, int64_t C, float eps) {
    PARALLEL
    for (int64_t n = 0; n < N; n++) {
        const float *from = residual + n * C;
        float *restrict sum = x + n * C, squares = 0;
        if (branch)
            for (int64_t c = 0; c < C; c++) sum[c] = from[c] + load(branch[n * C + c]);
        else if (sum != from)
            memcpy(sum, from, C * sizeof *sum);
        for (int64_t c = 0; c < C; c++) squares += sum[c] * sum[c];
        const float scale = 1 / sqrtf(squares / C + eps);
        r[n] = scale;
        for (int64_t c = 0; c < C; c++) y[n * C + c] = store(sum[c] * scale * gain[c]);
    }
}

/* x, dx (N, C), gain, dgain (C), r (N), dy (N, C). dx is also written to dx_real (N, C), unless it is null. `parts`
   (PARTS, C) is a buffer: sums over rows are made in PARTS parts, so that they do not depend on the threads. */
void EXPORT(norm_backward)(const float *x, const float *gain, const float *r, const real *dy, float *dx, real *dx_real,
                           float *dgain, float *parts, int64_t N, int64_t C) {
    PARALLEL
    for (int64_t part = 0; part < PARTS; part++) {
        float *restrict dg = parts + part * C;
        memset(dg, 0, C * sizeof *dg);
        for (int64_t n = N * part / PARTS; n < N * (part + 1) / PARTS; n++) {
            const float *from = x + n * C, scale = r[n];
            const real *of_y = dy + n * C;
            float *restrict to = dx + n * C, sum = 0;
            for (int64_t c = 0; c < C; c++) {
                const float product = from[c] * load(of_y[c]);
                dg[c] += product * scale;
                sum += product * gain[c];
            }
            const float back = sum * scale * scale * scale / C;
            for (int64_t c = 0; c < C; c++) to[c] += load(of_y[c]) * gain[c] * scale - from[c] * back;
            if (dx_real)
                for (int64_t c = 0; c < C; c++) dx_real[n * C + c] = store(to[c]);
        }
    }
    memcpy(dgain, parts, C * sizeof *dgain);
    for (int64_t part = 1; part < PARTS; part++)
        for (int64_t c = 0; c < C; c++) dgain[c] += parts[part * C + c];
}
