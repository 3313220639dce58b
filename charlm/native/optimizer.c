/* The norm of all gradients, and AdamW, over a list of tensors. fp32.

   norm = sqrt(sum of g^2);  g = scale g
   m += (1 - beta1) (g - m);  v = beta2 v + (1 - beta2) g^2
   w = (1 - rate decay) w - rate / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)    (t = updates with this one)

   The tensors are cut into chunks that do not depend on the number of threads, which share them. */

#include "kernel.h"

#include <float.h>

typedef struct {
    int64_t tensor, start, end;
} Chunk;

/* The norm of the gradients in n chunks; `sums` is a buffer for n numbers. As in torch, which sums in fp32, it is
   infinite where its square is above the largest fp32 number. */
void EXPORT(gradient_norm)(const Chunk *chunks, int64_t n, const float *const *gradients, double *sums, float *norm) {
    PARALLEL for (int64_t i = 0; i < n; i++) {
        const float *g = gradients[chunks[i].tensor];
        double sum = 0;
        for (int64_t j = chunks[i].start; j < chunks[i].end; j++) sum += (double)g[j] * g[j];
        sums[i] = sum;
    }
    double total = 0;
    for (int64_t i = 0; i < n; i++) total += sums[i];
    *norm = total > FLT_MAX ? INFINITY : (float)sqrt(total);
}

typedef struct {
    float *weight, *mean, *square; /* w, m, v */
    float decay;
} Adapted;

typedef struct {
    float scale, rate, beta1, beta2, eps;
    float correction1, correction2; /* 1 - beta1^t, sqrt(1 - beta2^t) */
} AdamW;

/* AdamW of the tensors in n chunks. */
void EXPORT(adamw)(const AdamW *by, const Chunk *chunks, int64_t n, const Adapted *tensors,
                   const float *const *gradients) {
    const float scale = by->scale, beta1 = by->beta1, beta2 = by->beta2, eps = by->eps;
    const float step = by->rate / by->correction1, root = 1 / by->correction2;
    PARALLEL for (int64_t i = 0; i < n; i++) {
        const Adapted *tensor = tensors + chunks[i].tensor;
        const float *restrict gradient = gradients[chunks[i].tensor], keep = 1 - by->rate * tensor->decay;
        float *restrict w = tensor->weight, *restrict m = tensor->mean, *restrict v = tensor->square;
        for (int64_t j = chunks[i].start; j < chunks[i].end; j++) {
            const float g = scale * gradient[j];
            m[j] += (1 - beta1) * (g - m[j]);
            v[j] = beta2 * v[j] + (1 - beta2) * g * g;
            w[j] = keep * w[j] - step * m[j] / (sqrtf(v[j]) * root + eps);
        }
    }
}
