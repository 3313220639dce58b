/* What Muon does before and after its Newton-Schulz iteration, which is products (charlm/training/optimizer.py).

   M += (1 - mu) (scale G - M);  U = scale G + mu (M - scale G);  X = U / (|U| + eps)        before
   W = (1 - decay) W - rate X                                                                after

   A piece is one matrix (R, C) of those fused in a weight. Its X is `real` and flat: (R, C), or (C, R) where C < R. */

#include "kernel.h"

enum { TILE = 16 };

typedef struct {
    float *weight, *momentum;
    real *x, *direction;              /* before the iteration, and after it */
    int64_t tensor, offset, R, C;     /* the piece begins at gradients[tensor] + offset */
    float shape_rate;                 /* sqrt(R / C) of a tall matrix, else 1 */
} Piece;

/* U (n) of gradients and momenta (n). */
static inline void nesterov(const float *restrict g, const float *restrict m, float scale, float mu, float *restrict u,
                            int64_t n) {
    for (int64_t j = 0; j < n; j++) u[j] = scale * g[j] + mu * (m[j] - scale * g[j]);
}

/* Update the momentum M; returns |U|. */
static float update_momentum(float *restrict m, const float *restrict g, float scale, float mu, int64_t R, int64_t C) {
    double square = 0;
    for (int64_t r = 0; r < R; r++, m += C, g += C) {
        float sum = 0;
        for (int64_t c = 0; c < C; c++) {
            const float scaled = scale * g[c];
            m[c] += (1 - mu) * (scaled - m[c]);
            const float u = scaled + mu * (m[c] - scaled);
            sum += u * u;
        }
        square += sum;
    }
    return (float)sqrt(square);
}

/* Momentum and X of n pieces. */
void EXPORT(muon_momentum)(const Piece *pieces, int64_t n, const float *const *gradients, float scale, float mu,
                           float eps) {
    PARALLEL for (int64_t i = 0; i < n; i++) {
        const Piece p = pieces[i];
        const float *g = gradients[p.tensor] + p.offset, *m = p.momentum;
        const float unit = 1 / (update_momentum(p.momentum, g, scale, mu, p.R, p.C) + eps);
        float u[TILE][TILE];
        for (int64_t r = 0; r < p.R; r += TILE)
            for (int64_t c = 0; c < p.C; c += TILE) {
                const int64_t rows = lesser(TILE, p.R - r), columns = lesser(TILE, p.C - c);
                for (int64_t y = 0; y < rows; y++)
                    nesterov(g + (r + y) * p.C + c, m + (r + y) * p.C + c, scale, mu, u[y], columns);
                if (p.R > p.C)
                    for (int64_t x = 0; x < columns; x++)
                        for (int64_t y = 0; y < rows; y++) p.x[(c + x) * p.R + r + y] = store(unit * u[y][x]);
                else
                    for (int64_t y = 0; y < rows; y++)
                        for (int64_t x = 0; x < columns; x++) p.x[(r + y) * p.C + c + x] = store(unit * u[y][x]);
            }
    }
}

/* The weights of n pieces, moved against their directions. */
void EXPORT(muon_apply)(const Piece *pieces, int64_t n, float rate, float decay) {
    PARALLEL for (int64_t i = 0; i < n; i++) {
        const Piece p = pieces[i];
        const float keep = 1 - rate * decay, step = rate * p.shape_rate;
        const int64_t down = p.R > p.C ? 1 : p.C, across = p.R > p.C ? p.R : 1;
        for (int64_t r = 0; r < p.R; r += TILE)
            for (int64_t c = 0; c < p.C; c += TILE)
                for (int64_t y = r; y < lesser(r + TILE, p.R); y++)
                    for (int64_t x = c; x < lesser(c + TILE, p.C); x++) {
                        float *w = p.weight + y * p.C + x;
                        *w = keep * *w - step * load(p.direction[y * down + x * across]);
                    }
    }
}
