/* What Muon does before and after its Newton-Schulz iteration, which is products (charlm/training/optimizer.py).

   M += (1 - mu) (scale G - M);  U = scale G + mu (M - scale G);  X = U / (|U| + eps)        before
   W = (1 - decay) W - rate X                                                                after

   A piece is one matrix (R, C) of those fused in a weight. Its X is `real`, and (C, R) where that suits the iteration. */

#include "kernel.h"

enum { TILE = 32, CHUNK = 4096 };

typedef struct {
    float *weight, *momentum;
    real *x, *direction;          /* before the iteration, and after it */
    int64_t tensor, offset, R, C; /* the piece begins at gradients[tensor] + offset */
    int64_t transposed;           /* are x and direction (C, R)? */
    float shape_rate;             /* sqrt(R / C) of a tall matrix, else 1 */
} Piece;

/* Update the momentum M; returns |U|. */
static float update_momentum(float *restrict m, const float *restrict g, float scale, float mu, int64_t n) {
    double square = 0;
    for (int64_t from = 0; from < n; from += CHUNK) {
        float sum = 0;
        for (int64_t j = from; j < lesser(from + CHUNK, n); j++) {
            const float scaled = scale * g[j];
            m[j] += (1 - mu) * (scaled - m[j]);
            const float u = scaled + mu * (m[j] - scaled);
            sum += u * u;
        }
        square += sum;
    }
    return (float)sqrt(square);
}

/* x (n) = unit U. */
static inline void fill(const float *restrict g, const float *restrict m, float scale, float mu, float unit,
                        real *restrict x, int64_t n) {
    for (int64_t j = 0; j < n; j++) x[j] = store(unit * (scale * g[j] + mu * (m[j] - scale * g[j])));
}

/* x (C, R) = unit U', of U (R, C). */
static void fill_transposed(const float *g, const float *m, float scale, float mu, float unit, real *restrict x, int64_t R,
                            int64_t C) {
    real tile[TILE][TILE];
    for (int64_t r = 0; r < R; r += TILE)
        for (int64_t c = 0; c < C; c += TILE) {
            const int64_t rows = lesser(TILE, R - r), columns = lesser(TILE, C - c);
            for (int64_t i = 0; i < rows; i++) {
                const int64_t at = (r + i) * C + c;
                fill(g + at, m + at, scale, mu, unit, tile[i], columns);
            }
            for (int64_t j = 0; j < columns; j++)
                for (int64_t i = 0; i < rows; i++) x[(c + j) * R + r + i] = tile[i][j];
        }
}

/* Momentum and X of n pieces. */
void EXPORT(muon_momentum)(const Piece *pieces, int64_t n, const float *const *gradients, float scale, float mu,
                           float eps) {
    PARALLEL for (int64_t i = 0; i < n; i++) {
        const Piece p = pieces[i];
        const float *g = gradients[p.tensor] + p.offset;
        const float unit = 1 / (update_momentum(p.momentum, g, scale, mu, p.R * p.C) + eps);
        if (p.transposed) fill_transposed(g, p.momentum, scale, mu, unit, p.x, p.R, p.C);
        else fill(g, p.momentum, scale, mu, unit, p.x, p.R * p.C);
    }
}

/* w (n) = keep w - step d. */
static inline void move(float *restrict w, const real *restrict d, float keep, float step, int64_t n) {
    for (int64_t j = 0; j < n; j++) w[j] = keep * w[j] - step * load(d[j]);
}

/* The same of w (R, C) and d (C, R). */
static void move_transposed(float *w, const real *restrict d, float keep, float step, int64_t R, int64_t C) {
    real tile[TILE][TILE];
    for (int64_t r = 0; r < R; r += TILE)
        for (int64_t c = 0; c < C; c += TILE) {
            const int64_t rows = lesser(TILE, R - r), columns = lesser(TILE, C - c);
            for (int64_t j = 0; j < columns; j++)
                for (int64_t i = 0; i < rows; i++) tile[i][j] = d[(c + j) * R + r + i];
            for (int64_t i = 0; i < rows; i++) move(w + (r + i) * C + c, tile[i], keep, step, columns);
        }
}

/* The weights of n pieces, moved against their directions. */
void EXPORT(muon_apply)(const Piece *pieces, int64_t n, float rate, float decay) {
    PARALLEL for (int64_t i = 0; i < n; i++) {
        const Piece p = pieces[i];
        const float keep = 1 - rate * decay, step = rate * p.shape_rate;
        if (p.transposed) move_transposed(p.weight, p.direction, keep, step, p.R, p.C);
        else move(p.weight, p.direction, keep, step, p.R * p.C);
    }
}
