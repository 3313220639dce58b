/* Newton-Schulz iteration in bf16, for processors with AVX512-BF16 and without AMX: faster than general products, since
   G and P are symmetric, so that half of each will do, and a thread keeps one matrix X (R, C) in its cache.

   G = X' X (C, C);  P = b G + c G G;  X = a X + X P;  R >= C, R a multiple of ROWS and C one of COLUMNS. */

#include "kernel.h"

#if defined(TYPE_bf16) && defined(__AVX512BF16__)

#include <immintrin.h>

enum { ROWS = 8, COLUMNS = 32, LANES = 16 }; /* of a tile of a product, held in registers, and of a register */

typedef uint32_t __attribute__((may_alias)) Pair; /* of two numbers of bf16 */

/* pairs (n / 2, m) of x (n, m): two rows side by side, as the products of pairs want their right-hand side. */
static void pack(const real *restrict x, Pair *restrict pairs, int64_t n, int64_t m) {
    for (int64_t i = 0; i < n; i += 2, x += 2 * m, pairs += m)
        for (int64_t j = 0; j < m; j++) pairs[j] = x[j] | (Pair)x[m + j] << 16;
}

/* A left-hand side: the pair k of row i is pairs[i row + k step]. */
typedef struct {
    const Pair *pairs;
    int64_t row, step;
} Left;

/* A tile of A B from row i and column j on, with B packed (k, m). */
static void product(Left a, const Pair *restrict b, int64_t k, int64_t m, int64_t i, int64_t j,
                    float tile[ROWS][COLUMNS]) {
    __m512 sum[ROWS][2];
    for (int r = 0; r < ROWS; r++) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    a.pairs += i * a.row, b += j;
    for (; k; k--, a.pairs += a.step, b += m) {
        const __m512bh left = (__m512bh)_mm512_loadu_si512(b), right = (__m512bh)_mm512_loadu_si512(b + LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const __m512bh pair = (__m512bh)_mm512_set1_epi32((int)a.pairs[r * a.row]);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], pair, left);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], pair, right);
        }
    }
    memcpy(tile, sum, sizeof sum);
}

/* y = alpha A B + beta z, all (n, m), with B packed (k, m). Of a symmetric y the tiles below the diagonal are mirrored. */
static void multiply(Left a, const Pair *b, int64_t n, int64_t k, int64_t m, float alpha, float beta, const real *z,
                     real *restrict y, int symmetric) {
    float tile[ROWS][COLUMNS];
    for (int64_t i = 0; i < n; i += ROWS)
        for (int64_t j = symmetric ? i / COLUMNS * COLUMNS : 0; j < m; j += COLUMNS) {
            product(a, b, k, m, i, j, tile);
            for (int r = 0; r < ROWS; r++)
                for (int c = 0; c < COLUMNS; c++) {
                    const int64_t at = (i + r) * m + j + c;
                    y[at] = store(alpha * tile[r][c] + (z ? beta * load(z[at]) : 0));
                }
        }
    for (int64_t i = 0; symmetric && i < n; i++)
        for (int64_t j = 0; j < i / COLUMNS * COLUMNS; j++) y[i * m + j] = y[j * m + i];
}

/* Numbers of bf16 in the buffer of one thread. */
static int64_t room_for(int64_t R, int64_t C) { return R * C + 3 * C * C; }

/* Iterate x (N, R, C), each matrix of norm 1 at most, an odd number of times; the result is y, and x is overwritten.
   `room` is a buffer for room_for(R, C) numbers in each of the threads. */
void EXPORT(newton_schulz)(real *x, real *y, int64_t N, int64_t R, int64_t C, float a, float b, float c,
                           int64_t iterations, real *room, int64_t threads) {
    _Pragma("omp parallel for schedule(dynamic) num_threads(threads)") for (int64_t i = 0; i < N; i++) {
        Pair *pairs = (Pair *)(room + omp_get_thread_num() * room_for(R, C)), *square = pairs + R * C / 2;
        real *G = (real *)(square + C * C / 2), *P = G + C * C, *now = x + i * R * C, *then = y + i * R * C;
        for (int64_t t = 0; t < iterations; t++) {
            pack(now, pairs, R, C);
            multiply((Left){pairs, 1, C}, pairs, C, R / 2, C, 1, 0, NULL, G, 1);
            pack(G, square, C, C);
            multiply((Left){(Pair *)G, C / 2, 1}, square, C, C / 2, C, c, b, G, P, 1);
            pack(P, square, C, C);
            multiply((Left){(Pair *)now, C / 2, 1}, square, R, C / 2, C, 1, a, now, then, 0);
            real *last = now;
            now = then, then = last;
        }
    }
}

#endif
