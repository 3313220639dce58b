/* The members of a run as one distribution (charlm/model/mixture.py): a logarithmic opinion pool.

       log p_i = x_i - log(sum(exp(x_i)));  f = the entropy and the highest probability of each member
       log p = sum over members i of a_i log p_i, normalised;  a = b + W f

   What is less than the highest by more than -FLOOR counts as that: a weight of 0 or less times minus infinity would be
   no distribution. The sums of exponentials in log p_i are left out of log p, since they cancel.
   Shapes: M members, N rows, V symbols. */

#include "kernel.h"

enum { MOST_MEMBERS = 16, LANES = 16, NUMBERS_FOR_THREADS = 1 << 17 };
#define FLOOR -1e4f

typedef struct {
    const float *bias, *weights; /* (M) and (M, 2 M) */
    int64_t M;
} Mixture;

static inline float floored(float logp) { return logp < FLOOR ? FLOOR : logp; }

/* The highest of x (V), of those that are numbers. */
static float highest_of(const float *x, int64_t V) {
    float lanes[LANES], highest = -INFINITY;
    for (int j = 0; j < LANES; j++) lanes[j] = -INFINITY;
    int64_t v = 0;
    for (; v + LANES <= V; v += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] = x[v + j] > lanes[j] ? x[v + j] : lanes[j];
    for (; v < V; v++) highest = x[v] > highest ? x[v] : highest;
    for (int j = 0; j < LANES; j++) highest = lanes[j] > highest ? lanes[j] : highest;
    return highest;
}

/* The entropy and the highest probability of logits x (V); returns the highest logit. */
static float look_at(const float *x, int64_t V, float *features) {
    const float highest = highest_of(x, V);
    float sum = 0, weighted = 0;
    for (int64_t v = 0; v < V; v++) {
        const float logit = floored(x[v] - highest), e = fast_exp(logit);
        sum += e;
        weighted += e * logit;
    }
    features[0] = logf(sum) - weighted / sum;
    features[1] = 1 / sum;
    return highest;
}

/* Turn scores x (V) into log-probabilities. */
static void normalise(float *x, int64_t V) {
    const float highest = highest_of(x, V);
    float sum = 0;
    for (int64_t v = 0; v < V; v++) sum += fast_exp(x[v] = floored(x[v] - highest));
    const float log_sum = logf(sum);
    for (int64_t v = 0; v < V; v++) x[v] -= log_sum;
}

/* Log-probabilities out (N, V) of M members' logits (N, V), whose rows are strides[i] numbers apart. */
void EXPORT(mixture)(const Mixture *m, const float *const *logits, const int64_t *strides, int64_t N, int64_t V,
                     float *out) {
    const int64_t M = m->M, F = 2 * M;
    _Pragma("omp parallel for schedule(static) if (M * N * V > NUMBERS_FOR_THREADS)")
    for (int64_t n = 0; n < N; n++) {
        float features[2 * MOST_MEMBERS], highest[MOST_MEMBERS], *restrict pooled = out + n * V;
        for (int64_t i = 0; i < M; i++) highest[i] = look_at(logits[i] + n * strides[i], V, features + 2 * i);
        memset(pooled, 0, V * sizeof *pooled);
        for (int64_t i = 0; i < M; i++) {
            const float *x = logits[i] + n * strides[i];
            float share = m->bias[i];
            for (int64_t f = 0; f < F; f++) share += m->weights[i * F + f] * features[f];
            for (int64_t v = 0; v < V; v++) pooled[v] += share * floored(x[v] - highest[i]);
        }
        normalise(pooled, V);
    }
}
