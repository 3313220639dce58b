/* N-gram embeddings (charlm/model/ngram_layers.py): their sum at each position, and the update of the rows read.

   Shapes: B texts, T positions, M = B T, O n-gram lengths (2 to O + 1), C width, U different rows read. The table has
   `nothing` rows, and after them one of zeros, for "no such n-gram". */

#include "kernel.h"
#include "ngram_hash.h"

typedef struct {
    int64_t B, T, O, C, rows, symbols;
    float dropout;
} Shape;

/* Is what stands n before position t, in `ids` or in `before`, an id with a row in the vocabulary? */
static int64_t id_at(const Shape *s, const int64_t *ids, const int64_t *before, int64_t t, int64_t n) {
    return t >= n ? ids[t - n] : before[s->O + t - n];
}

static int is_known(const Shape *s, int64_t id) { return 0 <= id && id < s->symbols; }

/* Rows (O) of the n-grams that end at position t of a text: `ids` and `docs` (T) (or null) and `before` (O). */
static void rows_at(const Shape *s, const int64_t *ids, const int64_t *before, const int64_t *docs,
                    const float *draws, int64_t t, int64_t *index) {
    const int64_t nothing = s->rows * s->O;
    uint64_t key = ids[t];
    int whole = is_known(s, ids[t]);
    for (int64_t i = 0; i < s->O; i++) {
        const int64_t added = id_at(s, ids, before, t, i + 1), row = ngram_row(&key, added, i, s->rows);
        whole = whole && is_known(s, added) && (!docs || (t > i && docs[t - i - 1] == docs[t]));
        index[i] = whole && (!draws || draws[i] >= s->dropout) ? row : nothing;
    }
}

/* The rows read, index (M, O), and their sums (M, C), for ids and docs (B, T) and ids before them (B, O). `docs`
   may be null, and so may `draws` (M, O), uniform random numbers: below `dropout`, an n-gram is left out. */
void EXPORT(ngram_embeddings)(const Shape *s, const float *table, const int64_t *ids, const int64_t *before,
                              const int64_t *docs, const float *draws, int64_t *index, float *sums) {
    const int64_t O = s->O, T = s->T, C = s->C;
    PARALLEL for (int64_t m = 0; m < s->B * T; m++) {
        const int64_t b = m / T;
        rows_at(s, ids + b * T, before + b * O, docs ? docs + b * T : docs, draws ? draws + m * O : draws, m % T,
                index + m * O);
        float *restrict sum = sums + m * C;
        memcpy(sum, table + index[m * O] * C, C * sizeof *sum);
        for (int64_t i = 1; i < O; i++) {
            const float *row = table + index[m * O + i] * C;
            for (int64_t c = 0; c < C; c++) sum[c] += row[c];
        }
    }
}

/* List the rows that were read, without the row of zeros, and the positions of each, in order: those of rows[u] are
   positions[starts[u]] to positions[starts[u + 1] - 1]. Returns U. `slots` (nothing + 1) is 0 before and after. */
static int64_t list_positions(const int64_t *index, int64_t M, int64_t O, int64_t nothing, int32_t *slots,
                              int64_t *rows, int64_t *starts, int64_t *positions) {
    int64_t U = 0, start = 0;
    for (int64_t k = 0; k < M * O; k++) {
        if (index[k] == nothing) continue;
        int32_t *slot = slots + index[k];
        if (!*slot) rows[U] = index[k], starts[U] = 0, *slot = (int32_t)++U;
        starts[*slot - 1]++;
    }
    for (int64_t u = 0; u < U; u++) { /* counts become ends, and filling from the last position on makes them starts */
        start += starts[u];
        starts[u] = start;
    }
    starts[U] = start;
    for (int64_t k = M * O - 1; k >= 0; k--)
        if (index[k] != nothing) positions[--starts[slots[index[k]] - 1]] = k / O;
    for (int64_t u = 0; u < U; u++) slots[rows[u]] = 0;
    return U;
}

/* Adagrad with one accumulator per row, from the gradients (M, C) of the sums, for the rows of index (M, O):

   g = sum of the gradients where the row was read;  a += mean(g^2);  row -= rate g / (sqrt(a + initial) + eps)

   g is summed by one thread, in the order of positions; the row of zeros stays. `slots` (nothing + 1) holds zeros,
   `room` is a buffer for 3 M O + 1 numbers. */
void EXPORT(ngram_embeddings_update)(float *table, float *accumulators, const int64_t *index, const float *gradients,
                                     int64_t M, int64_t O, int64_t C, int64_t nothing, float rate, float initial,
                                     float eps, int32_t *slots, int64_t *room) {
    int64_t *rows = room, *starts = rows + M * O, *positions = starts + M * O + 1;
    const int64_t U = list_positions(index, M, O, nothing, slots, rows, starts, positions);
    _Pragma("omp parallel for schedule(dynamic, 16)") for (int64_t u = 0; u < U; u++) {
        float g[C], *restrict row = table + rows[u] * C, square = 0;
        memset(g, 0, sizeof g);
        for (int64_t k = starts[u]; k < starts[u + 1]; k++) {
            const float *gradient = gradients + positions[k] * C;
            for (int64_t c = 0; c < C; c++) g[c] += gradient[c];
        }
        for (int64_t c = 0; c < C; c++) {
            g[c] = isfinite(g[c]) ? g[c] : 0;
            square += g[c] * g[c];
        }
        float *a = accumulators + rows[u];
        *a += square / C;
        const float scale = rate / (sqrtf(*a + initial) + eps);
        for (int64_t c = 0; c < C; c++) row[c] -= scale * g[c];
    }
}
