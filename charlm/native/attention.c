/* Causal attention with normalised, rotated queries and keys, one head at a time, so that nothing leaves the cache.

       q = rotate(norm(q) gq) / sqrt(D);  k = rotate(norm(k) gk);  norm(a) = a / sqrt(mean(a^2) + eps)
       P = softmax(q k');  out = P v;  query t reads the keys first[t] to t

   Backward, with P computed anew from the saved highest score and sum of each row (as in FlashAttention, arXiv 2205.14135):

       dv = P' dout;  dP = dout v';  dS = P (dP - rowsum(dout out));  dq = dS k;  dk = dS' q

   Shapes: B texts, T positions, H query heads, K key heads, G = H / K, D head size (even); a row of qkv (B T, (H + 2 K) D)
   holds the queries, keys and values of a position. L is D, and S is T, rounded up to whole vectors. */

#include "kernel.h"

/* Vectors of LANES numbers, and how many rows of two of them a matrix product keeps in registers. */
#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 8 };
#elif defined(__AVX2__)
enum { LANES = 8, ROWS = 4 };
#else
enum { LANES = 4, ROWS = 4 };
#endif
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));

#define HIDDEN -1e30f /* the score of a key that a query may not read */
enum { QUERIES = 16 }; /* how many queries are handled at once */

typedef struct {
    int64_t B, T, H, K, D;
    float eps;
    const float *q_gain, *k_gain; /* (D) */
    const float *cosines, *sines; /* (T, D / 2) */
    const int32_t *first;         /* (B, T): the first key that each query may read; null: 0 */
} Attention;

static inline int64_t whole(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

/* c (rows, n) = or += a b, where a(i, k) stands at a[i * a_row + k * a_column], b is (inner, n) and n one or two vectors. */
static inline __attribute__((always_inline)) void product_of(const int rows, const int vectors, const float *a, int64_t a_row,
                           int64_t a_column, const float *b, int64_t b_row, float *c, int64_t c_row, int64_t inner, int add) {
    Vector sum[ROWS][2];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) sum[i][j] = add ? *(const Vector *)(c + i * c_row + j * LANES) : (Vector){0};
    for (int64_t k = 0; k < inner; k++, a += a_column, b += b_row)
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
            for (int j = 0; j < vectors; j++) sum[i][j] += a[i * a_row] * *(const Vector *)(b + j * LANES);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) *(Vector *)(c + i * c_row + j * LANES) = sum[i][j];
}

/* c (m, n) = or += a (m, inner) b (inner, n), with a as above and n whole vectors. */
static void product(const float *a, int64_t a_row, int64_t a_column, const float *b, int64_t b_row, float *c, int64_t c_row,
                    int64_t m, int64_t n, int64_t inner, int add) {
    for (int64_t j = 0; j < n; j += 2 * LANES) {
        const int two = j + LANES < n;
        int64_t i = 0;
        for (; i + ROWS <= m; i += ROWS)
            if (two) product_of(ROWS, 2, a + i * a_row, a_row, a_column, b + j, b_row, c + i * c_row + j, c_row, inner, add);
            else product_of(ROWS, 1, a + i * a_row, a_row, a_column, b + j, b_row, c + i * c_row + j, c_row, inner, add);
        for (; i < m; i++)
            if (two) product_of(1, 2, a + i * a_row, a_row, a_column, b + j, b_row, c + i * c_row + j, c_row, inner, add);
            else product_of(1, 1, a + i * a_row, a_row, a_column, b + j, b_row, c + i * c_row + j, c_row, inner, add);
    }
}

/* One head of all positions in fp32, (T, L) with zeros behind D. */
static void load_head(const real *restrict from, int64_t stride, int64_t T, int64_t D, float *restrict to) {
    const int64_t L = whole(D);
    for (int64_t t = 0; t < T; t++, from += stride, to += L) {
        for (int64_t d = 0; d < D; d++) to[d] = load(from[d]);
        for (int64_t d = D; d < L; d++) to[d] = 0;
    }
}

/* (L, S) of (T, L): the transpose, with zeros behind T. */
static void transpose(const float *restrict from, int64_t T, int64_t L, float *restrict to) {
    const int64_t S = whole(T);
    for (int64_t d = 0; d < L; d++)
        for (int64_t t = T; t < S; t++) to[d * S + t] = 0;
    for (int64_t start = 0; start < T; start += LANES)
        for (int64_t d = 0; d < L; d++)
            for (int64_t t = start; t < lesser(start + LANES, T); t++) to[d * S + t] = from[t * L + d];
}

/* 1 / sqrt(mean(x^2) + eps) of a head of D. */
static inline __attribute__((always_inline)) float inverse_norm(const float *x, int64_t D, float eps) {
    float squares = 0;
    for (int64_t d = 0; d < D; d++) squares += x[d] * x[d];
    return 1 / sqrtf(squares / D + eps);
}

/* Normalise and rotate one head of all positions (T, L) in place, times `scale`. */
static inline __attribute__((always_inline)) void norm_and_rotate_heads(const Attention *a, int64_t D, const float *restrict gain,
                                                                      float scale, float *restrict x) {
    const int64_t L = whole(D), half = D / 2;
    for (int64_t t = 0; t < a->T; t++, x += L) {
        const float r = inverse_norm(x, D, a->eps) * scale;
        const float *restrict cosine = a->cosines + t * half, *restrict sine = a->sines + t * half;
        for (int64_t d = 0; d < half; d++) {
            const float p = x[d] * r * gain[d], q = x[half + d] * r * gain[half + d];
            x[d] = p * cosine[d] - q * sine[d];
            x[half + d] = q * cosine[d] + p * sine[d];
        }
    }
}

/* The gradient at `from` (T, stride), one head of qkv, of dx (T, L), that of what norm_and_rotate made of it; and that of
   the gain (D), which is added to. dx is overwritten. */
static inline __attribute__((always_inline)) void norm_and_rotate_heads_backward(
    const Attention *a, int64_t D, const float *restrict gain, float scale, const real *restrict from, int64_t stride,
    float *restrict dx, real *restrict to, float *restrict dgain) {
    const int64_t L = whole(D), half = D / 2;
    float x[L];
    for (int64_t t = 0; t < a->T; t++, dx += L, from += stride, to += stride) {
        const float *restrict cosine = a->cosines + t * half, *restrict sine = a->sines + t * half;
        for (int64_t d = 0; d < D; d++) x[d] = load(from[d]);
        const float r = inverse_norm(x, D, a->eps);
        float sum = 0;
        for (int64_t d = 0; d < half; d++) {
            const float p = dx[d] * scale, q = dx[half + d] * scale;
            dx[d] = p * cosine[d] + q * sine[d];
            dx[half + d] = q * cosine[d] - p * sine[d];
        }
        for (int64_t d = 0; d < D; d++) {
            dgain[d] += dx[d] * x[d] * r;
            dx[d] *= gain[d];
            sum += dx[d] * x[d];
        }
        const float back = sum * r * r * r / D;
        for (int64_t d = 0; d < D; d++) to[d] = store(dx[d] * r - x[d] * back);
    }
}

/* Both, with loops of known length for the usual head size, which are twice as fast. */
static void norm_and_rotate(const Attention *a, const float *gain, float scale, float *x) {
    if (a->D == 32) norm_and_rotate_heads(a, 32, gain, scale, x);
    else norm_and_rotate_heads(a, a->D, gain, scale, x);
}

static void norm_and_rotate_backward(const Attention *a, const float *gain, float scale, const real *from, int64_t stride,
                                     float *dx, real *to, float *dgain) {
    if (a->D == 32) norm_and_rotate_heads_backward(a, 32, gain, scale, from, stride, dx, to, dgain);
    else norm_and_rotate_heads_backward(a, a->D, gain, scale, from, stride, dx, to, dgain);
}

/* The keys that the queries from `start` to `end` read: from a whole vector on. */
static int64_t first_key(const Attention *a, int64_t b, int64_t start, int64_t end) {
    int64_t first = start;
    if (!a->first) return 0;
    for (int64_t t = start; t < end; t++) first = lesser(first, a->first[b * a->T + t]);
    return first / LANES * LANES;
}

/* Hide from the scores (n) of query t, for the keys from `from` on, those of keys that it may not read. */
static inline void hide(const Attention *a, int64_t b, int64_t t, int64_t from, int64_t n, float *scores) {
    const int64_t first = a->first ? a->first[b * a->T + t] - from : 0;
    for (int64_t s = 0; s < first; s++) scores[s] = HIDDEN;
    for (int64_t s = t + 1 - from; s < n; s++) scores[s] = HIDDEN;
}

/* The highest of n scores, n whole vectors. */
static inline float highest_of(const float *scores, int64_t n) {
    float highest[LANES];
    for (int j = 0; j < LANES; j++) highest[j] = scores[j];
    for (int64_t s = LANES; s < n; s += LANES)
        for (int j = 0; j < LANES; j++) highest[j] = scores[s + j] > highest[j] ? scores[s + j] : highest[j];
    for (int j = 1; j < LANES; j++) highest[0] = highest[j] > highest[0] ? highest[j] : highest[0];
    return highest[0];
}

/* Turn n scores into exp(score - shift), and return the sum. */
static inline float exponentials(float *scores, int64_t n, float shift) {
    float sum = 0;
    for (int64_t s = 0; s < n; s++) sum += scores[s] = fast_exp(scores[s] - shift);
    return sum;
}

/* How many numbers of buffer each thread needs, in both directions. */
static int64_t room_size(const Attention *a) {
    const int64_t L = whole(a->D), S = whole(a->T);
    return 9 * S * L + 2 * QUERIES * S + QUERIES * L;
}

void EXPORT(attention_room)(const Attention *a, int64_t *size) { *size = room_size(a); }

/* out (B T, H D) of qkv; sums (B, H, T, 2), the highest score and the inverted sum of each row, are kept for the backward
   pass; `room` is a buffer for each thread. */
void EXPORT(attention)(const Attention *a, const real *qkv, real *out, float *sums, float *room, int64_t threads) {
    const int64_t T = a->T, H = a->H, K = a->K, D = a->D, L = whole(D), S = whole(T), stride = (H + 2 * K) * D;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t unit = 0; unit < a->B * K; unit++) {
        float *keys = room + omp_get_thread_num() * room_size(a), *turned = keys + S * L, *values = turned + S * L;
        float *queries = values + S * L, *scores = queries + S * L, *found = scores + QUERIES * S;
        const int64_t b = unit / K, k = unit % K;
        const real *text = qkv + b * T * stride;
        load_head(text + (H + k) * D, stride, T, D, keys);
        norm_and_rotate(a, a->k_gain, 1, keys);
        transpose(keys, T, L, turned);
        load_head(text + (H + K + k) * D, stride, T, D, values);
        for (int64_t h = k * (H / K); h < (k + 1) * (H / K); h++) {
            load_head(text + h * D, stride, T, D, queries);
            norm_and_rotate(a, a->q_gain, 1 / sqrtf(D), queries);
            for (int64_t start = 0; start < T; start += QUERIES) {
                const int64_t end = lesser(start + QUERIES, T), from = first_key(a, b, start, end), n = whole(end - from);
                product(queries + start * L, L, 1, turned + from, S, scores, n, end - start, n, D, 0);
                for (int64_t t = start; t < end; t++) {
                    float *kept = sums + ((b * H + h) * T + t) * 2, *row = scores + (t - start) * n;
                    hide(a, b, t, from, n, row);
                    kept[0] = highest_of(row, n);
                    kept[1] = 1 / exponentials(row, n, kept[0]);
                }
                product(scores, n, 1, values + from * L, L, found, L, end - start, L, end - from, 0);
                for (int64_t t = start; t < end; t++) {
                    const float scale = sums[((b * H + h) * T + t) * 2 + 1], *row = found + (t - start) * L;
                    for (int64_t d = 0; d < D; d++) out[(b * T + t) * H * D + h * D + d] = store(row[d] * scale);
                }
            }
        }
    }
}

/* dqkv (B T, (H + 2 K) D) of qkv, out, dout and sums as above. dgains (B K, 2, D): the part of each text and key head
   in the gradients of q_gain and k_gain. */
void EXPORT(attention_backward)(const Attention *a, const real *qkv, const real *out, const real *dout, const float *sums,
                                real *dqkv, float *dgains, float *room, int64_t threads) {
    const int64_t T = a->T, H = a->H, K = a->K, D = a->D, L = whole(D), S = whole(T), stride = (H + 2 * K) * D;
    const float scale = 1 / sqrtf(D);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t unit = 0; unit < a->B * K; unit++) {
        float *keys = room + omp_get_thread_num() * room_size(a), *turned = keys + S * L, *values = turned + S * L;
        float *turned_values = values + S * L, *queries = turned_values + S * L, *dfound = queries + S * L;
        float *dqueries = dfound + S * L, *dkeys = dqueries + S * L, *dvalues = dkeys + S * L;
        float *weights = dvalues + S * L, *dscores = weights + QUERIES * S;
        const int64_t b = unit / K, k = unit % K;
        const real *text = qkv + b * T * stride;
        real *dtext = dqkv + b * T * stride;
        float *dq_gain = dgains + unit * 2 * D, *dk_gain = dq_gain + D;
        memset(dq_gain, 0, 2 * D * sizeof *dq_gain);
        memset(dkeys, 0, 2 * S * L * sizeof *dkeys); /* and dvalues */
        load_head(text + (H + k) * D, stride, T, D, keys);
        norm_and_rotate(a, a->k_gain, 1, keys);
        transpose(keys, T, L, turned);
        load_head(text + (H + K + k) * D, stride, T, D, values);
        transpose(values, T, L, turned_values);
        for (int64_t h = k * (H / K); h < (k + 1) * (H / K); h++) {
            load_head(text + h * D, stride, T, D, queries);
            norm_and_rotate(a, a->q_gain, scale, queries);
            load_head(dout + b * T * H * D + h * D, H * D, T, D, dfound);
            for (int64_t start = 0; start < T; start += QUERIES) {
                const int64_t end = lesser(start + QUERIES, T), rows = end - start;
                const int64_t from = first_key(a, b, start, end), n = whole(end - from);
                product(queries + start * L, L, 1, turned + from, S, weights, n, rows, n, D, 0);
                product(dfound + start * L, L, 1, turned_values + from, S, dscores, n, rows, n, D, 0);
                for (int64_t t = start; t < end; t++) {
                    const real *of_out = out + (b * T + t) * H * D + h * D;
                    float *row = weights + (t - start) * n, *drow = dscores + (t - start) * n, sum = 0;
                    const float *kept = sums + ((b * H + h) * T + t) * 2;
                    hide(a, b, t, from, n, row);
                    exponentials(row, n, kept[0]);
                    for (int64_t d = 0; d < D; d++) sum += load(of_out[d]) * dfound[t * L + d];
                    for (int64_t s = 0; s < n; s++) {
                        row[s] *= kept[1];
                        drow[s] = row[s] * (drow[s] - sum);
                    }
                }
                product(weights, 1, n, dfound + start * L, L, dvalues + from * L, L, end - from, L, rows, 1);
                product(dscores, 1, n, queries + start * L, L, dkeys + from * L, L, end - from, L, rows, 1);
                product(dscores, n, 1, keys + from * L, L, dqueries + start * L, L, rows, L, end - from, 0);
            }
            norm_and_rotate_backward(a, a->q_gain, scale, text + h * D, stride, dqueries, dtext + h * D, dq_gain);
        }
        norm_and_rotate_backward(a, a->k_gain, 1, text + (H + k) * D, stride, dkeys, dtext + (H + k) * D, dk_gain);
        for (int64_t t = 0; t < T; t++)
            for (int64_t d = 0; d < D; d++) dtext[t * stride + (H + K + k) * D + d] = store(dvalues[t * L + d]);
    }
}
