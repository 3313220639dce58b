/* Cross-entropy of the output head's scores, beside the n-gram prior if there is one, and its gradient.

       logits = scores + (1 + gate) log p;  loss = log(sum(exp(logits))) - logits[target]
       dscores = (softmax(logits) - [target]) / N;  dgate = sum over symbols of dscores log p

   Shapes: N rows, V symbols. With a prior, a row of scores has one more column, its gate, and W = V + 1; else W = V. */

#include "kernel.h"

/* losses (N) and dscores (N, W) of scores (N, W), log_prior (N, V) or null, and targets (N), each below V. */
void EXPORT(cross_entropy)(const real *scores, const float *log_prior, const int64_t *targets, float *losses, real *dscores,
                           float *room, int64_t N, int64_t V) {
    const int64_t W = V + (log_prior != 0);
    PARALLEL
    for (int64_t n = 0; n < N; n++) {
        const real *row = scores + n * W;
        const float *prior = log_prior + (log_prior ? n * V : 0);
        float *restrict logits = room + n * V, highest = -INFINITY, sum = 0, dgate = 0;
        const float weight = log_prior ? 1 + load(row[V]) : 0;
        for (int64_t v = 0; v < V; v++) logits[v] = load(row[v]);
        if (log_prior)
            for (int64_t v = 0; v < V; v++) logits[v] += weight * prior[v];
        for (int64_t v = 0; v < V; v++) highest = logits[v] > highest ? logits[v] : highest;
        const float of_target = logits[targets[n]] - highest;
        for (int64_t v = 0; v < V; v++) sum += logits[v] = fast_exp(logits[v] - highest);
        losses[n] = logf(sum) - of_target;
        for (int64_t v = 0; v < V; v++) logits[v] *= 1 / (sum * N);
        logits[targets[n]] -= 1.0f / N;
        for (int64_t v = 0; v < V; v++) dscores[n * W + v] = store(logits[v]);
        if (!log_prior) continue;
        for (int64_t v = 0; v < V; v++) dgate += logits[v] * prior[v];
        dscores[n * W + V] = store(dgate);
    }
}
