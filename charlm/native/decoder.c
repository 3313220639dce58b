/* The fast decoder of charlm/model/fast_decoder.py in one call: a few more characters of each of several texts.

   Matrices are (inputs, outputs), with the gains of norms folded in and the gate of SwiGLU negated. Shapes: B texts,
   T new positions, R = B T rows, C width, H query heads, K key heads, D head size, W block size, F hidden width of
   the MLP, V symbols. */

#include "kernel.h"

typedef struct {
    const float *qkv, *gains, *out, *gate_up, *down;
    float *keys, *values; /* (B, K, W, D) */
} Layer;

typedef struct {
    int64_t n_layer, C, H, K, D, W, F, V;
    int64_t symbols, orders, rows; /* vocabulary size; n-gram lengths above 1; rows for each length */
    const float *embedding, *added, *ngrams, *turns, *head; /* added, ngrams and turns may be null */
    float eps;
} Model;

enum { TILE = 32, LANES = 8, AT_ONCE = 4 };
typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4)));

static void product_of_four(const float *x, const float *matrix, float *y, int64_t n, int64_t m) {
    int64_t j = 0;
    for (; j + 2 * LANES <= m; j += 2 * LANES) {
        Lanes sum[AT_ONCE][2] = {0};
        for (int64_t i = 0; i < n; i++) {
            const Lanes *row = (const Lanes *)(matrix + i * m + j);
            const Lanes left = row[0], right = row[1];
#pragma GCC unroll 4
            for (int r = 0; r < AT_ONCE; r++) {
                sum[r][0] += x[r * n + i] * left;
                sum[r][1] += x[r * n + i] * right;
            }
        }
        for (int r = 0; r < AT_ONCE; r++) memcpy(y + r * m + j, sum[r], sizeof sum[r]);
    }
    for (; j < m; j++)
        for (int r = 0; r < AT_ONCE; r++) {
            float sum = 0;
            for (int64_t i = 0; i < n; i++) sum += x[r * n + i] * matrix[i * m + j];
            y[r * m + j] = sum;
        }
}

/* y (R, m) of x (R, n) and a matrix (n, m). */
static void product(const float *x, const float *restrict matrix, float *restrict y, int64_t R, int64_t n, int64_t m) {
    int64_t r = 0;
    for (; r + AT_ONCE <= R; r += AT_ONCE) product_of_four(x + r * n, matrix, y + r * m, n, m);
    for (; r < R; r++) {
        float *restrict to = y + r * m;
        memset(to, 0, m * sizeof *to);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < m; j++) to[j] += x[r * n + i] * matrix[i * m + j];
    }
}

static float inner(const float *restrict a, const float *restrict b, int64_t n) {
    float sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void normalise(const float *x, float *restrict y, int64_t R, int64_t n, float eps) {
    for (; R; R--, x += n, y += n) {
        const float scale = 1 / sqrtf(inner(x, x, n) / n + eps);
        for (int64_t i = 0; i < n; i++) y[i] = x[i] * scale;
    }
}

static void add(float *restrict x, const float *restrict y, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] += y[i];
}

/* The embedding of `*id`, with `before` ids in front of it, and of the n-grams that end there. */
static void embed(const Model *m, const int64_t *id, int64_t before, float *x) {
    const int64_t known = *id < m->symbols ? *id : m->symbols;
    memcpy(x, m->embedding + known * m->C, m->C * sizeof *x);
    if (m->added) add(x, m->added + before * m->C, m->C);
    uint64_t key = *id;
    for (int64_t i = 0; i < m->orders && i < before && id[-i] < m->symbols && id[-i - 1] < m->symbols; i++) {
        key = key * 1000003u + id[-i - 1] + 1;
        const uint64_t row = (key * 11400714819323198485u >> 40) & (m->rows - 1);
        add(x, m->ngrams + (row + i * m->rows) * m->C, m->C);
    }
}

/* Normalise one head (D), and rotate it for its position. */
static void norm_and_rotate(const Model *m, const float *x, const float *gain, float *restrict y, int64_t position) {
    normalise(x, y, 1, m->D, m->eps);
    for (int64_t d = 0; d < m->D; d++) y[d] *= gain[d];
    if (!m->turns) return;
    const float *turn = m->turns + position * m->D;
    for (int64_t d = 0; d < m->D; d += 2) {
        const float first = y[d], second = y[d + 1];
        y[d] = first * turn[d] - second * turn[d + 1];
        y[d + 1] = second * turn[d] + first * turn[d + 1];
    }
}

/* Attention of one query (D) over the first `seen` keys and values. */
static void attend(const float *q, const float *keys, const float *restrict values, int64_t seen, int64_t D,
                 float *restrict weights, float *restrict found) {
    float sum = 0;
    for (int64_t s = 0; s < seen; s++) weights[s] = inner(q, keys + s * D, D);
    for (int64_t s = 0; s < seen; s++) weights[s] = expf(weights[s]);
    for (int64_t s = 0; s < seen; s++) sum += weights[s];
    memset(found, 0, D * sizeof *found);
    for (int64_t s = 0; s < seen; s++)
        for (int64_t d = 0; d < D; d++) found[d] += weights[s] * values[s * D + d];
    for (int64_t d = 0; d < D; d++) found[d] /= sum;
}

/* Queries, keys and values of some rows, from row `first` on, with T rows to a text and positions from `at` on.
   Queries stay in qkv, keys and values go into the cache. */
static void project(const Model *m, const Layer *layer, const float *x, float *y, float *qkv, int64_t rows,
                int64_t first, int64_t T, int64_t at) {
    const int64_t H = m->H, K = m->K, D = m->D, wide = (H + 2 * K) * D;
    float q[D];
    normalise(x, y, rows, m->C, m->eps);
    product(y, layer->qkv, qkv, rows, m->C, wide);
    for (int64_t r = 0; r < rows; r++, qkv += wide) {
        const int64_t b = (first + r) / T, position = at + (first + r) % T;
        for (int64_t h = 0; h < H; h++) {
            norm_and_rotate(m, qkv + h * D, layer->gains + h * D, q, position);
            memcpy(qkv + h * D, q, sizeof q);
        }
        for (int64_t k = 0; k < K; k++) {
            const int64_t slot = ((b * K + k) * m->W + position) * D;
            norm_and_rotate(m, qkv + (H + k) * D, layer->gains + (H + k) * D, layer->keys + slot, position);
            memcpy(layer->values + slot, qkv + (H + K + k) * D, sizeof q);
        }
    }
}

/* Add attention output and MLP output to rows x, whose queries are in qkv. */
static void attend_and_feed_forward(const Model *m, const Layer *layer, float *x, float *y, const float *qkv, float *both,
                   float *weights, int64_t rows, int64_t first, int64_t T, int64_t at) {
    const int64_t C = m->C, H = m->H, K = m->K, D = m->D, F = m->F, wide = (H + 2 * K) * D;
    float *added = both + rows * H * D;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t b = (first + r) / T, position = at + (first + r) % T;
        for (int64_t h = 0; h < H; h++) {
            const int64_t slot = (b * K + h / (H / K)) * m->W * D;
            attend(qkv + r * wide + h * D, layer->keys + slot, layer->values + slot, position + 1, D, weights,
                 both + (r * H + h) * D);
        }
    }
    product(both, layer->out, added, rows, H * D, C);
    add(x, added, rows * C);
    normalise(x, y, rows, C, m->eps);
    product(y, layer->gate_up, both, rows, C, 2 * F);
    float *activated = both + rows * 2 * F;
    for (int64_t r = 0; r < rows; r++) {
        const float *restrict gate = both + r * 2 * F, *restrict up = gate + F;
        for (int64_t f = 0; f < F; f++) activated[r * F + f] = gate[f] * up[f] / (1 + expf(gate[f]));
    }
    product(activated, layer->down, y, rows, F, C);
    add(x, y, rows * C);
}

/* Logits (B, V) after the last of ids, whose texts are `stride` apart, with T new ids each, from position `at` on.
   `added` (B, T, C), unless null, is added to their embeddings. x is a buffer for (B T, C) numbers, and room one for
   TILE (C + (H + 2 K) D + 3 F + 2 C) + W. */
void EXPORT(next_logits)(const Model *m, const Layer *layers, const int64_t *ids, int64_t stride, int64_t B, int64_t T,
              int64_t at, const float *added, float *x, float *room, float *logits) {
    const int64_t C = m->C, wide = (m->H + 2 * m->K) * m->D;
    float *y = room, *qkv = y + TILE * C, *both = qkv + TILE * wide, *weights = both + TILE * (3 * m->F + 2 * C);
    int64_t R = B * T;
    for (int64_t r = 0; r < R; r++) embed(m, ids + r / T * stride + at + r % T, at + r % T, x + r * C);
    if (added) add(x, added, R * C);
    for (int64_t l = 0; l < m->n_layer; l++) {
        const int last = l == m->n_layer - 1 && T > 1;
        for (int64_t r = 0; r < R; r += TILE) {
            const int64_t rows = R - r < TILE ? R - r : TILE;
            project(m, layers + l, x + r * C, y, qkv, rows, r, T, at);
            if (!last) attend_and_feed_forward(m, layers + l, x + r * C, y, qkv, both, weights, rows, r, T, at);
        }
        if (!last) continue;
        for (int64_t b = 0; b < B; b++) memmove(x + b * C, x + (b * T + T - 1) * C, C * sizeof *x);
        at += T - 1, T = 1, R = B, l--; /* of the last layer, only the last position is needed */
    }
    for (int64_t r = 0; r < R; r += TILE) {
        const int64_t rows = R - r < TILE ? R - r : TILE;
        normalise(x + r * C, y, rows, C, m->eps);
        product(y, m->head, logits + r * m->V, rows, C, m->V);
    }
}
