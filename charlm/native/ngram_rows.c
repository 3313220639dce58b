/* Interpolated Kneser-Ney (charlm/ngram/kneser_ney.py): the probabilities of the symbol after each position of a text.

       p_k(s | h) = (c(h s) - D(c(h s))) / c(h) + b(h) p_(k-1)(s | h without its first symbol)

   Level k holds, for each context h of k symbols, its entries: the symbols s that followed it, and their counts c(h s).
   An entry (h, s) is also a context of level k + 1, so a text is followed without any search: from the place of h in
   level k and the next symbol to the place of h s in level k + 1, on all levels at once.

   It does the same operations on the same numbers in the same order as NumPy, so that not a bit differs, and is compiled
   without flags that reorder or fuse operations. Shapes: B windows or texts, T positions, V symbols, F folds. */

#include <float.h>

#include "kernel.h"

/* 16, of compilers for processors that know half precision, differs from 0 in types that are not used here. */
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "this compiler computes with more digits than it stores; the rows would not be NumPy's"
#endif

typedef struct {
    const uint32_t *starts;               /* (n + 1): the entries of context i are starts[i] .. starts[i + 1] - 1 */
    const void *symbols, *counts, *fold_counts; /* of each entry; fold_counts (F, entries), or null */
    const uint32_t *longer;               /* of each entry: its place in the level above, or NOWHERE; null: its own index */
    const double *discounts;              /* of a count of 0, 1, 2, and of 3 or more */
    int64_t n, entries, symbol_bytes, count_bytes, fold_count_bytes;
    int64_t dense_start; /* where the rows of its contexts begin among the precomputed ones, or -1 */
} Level;

typedef struct {
    const Level *levels;
    const double *dense; /* precomputed rows: uniform, then those of low orders, of all counts and without each fold */
    int64_t n_levels, V;
} Table;

enum { MOST_LEVELS = 64, LANES = 16, PIECE = 16, DIGITS = 21 };
#define NOWHERE UINT32_MAX
#define INLINE static inline __attribute__((always_inline))

INLINE int64_t number(const void *array, int64_t bytes, int64_t i) {
    if (bytes == 1) return ((const uint8_t *)array)[i];
    if (bytes == 2) return ((const uint16_t *)array)[i];
    if (bytes == 4) return ((const uint32_t *)array)[i];
    return ((const int64_t *)array)[i];
}

/* The place in the level above of context `at` with one more symbol, or -1. */
static inline int64_t longer(const Level *l, int64_t at, int64_t symbol) {
    if (at < 0) return -1;
    int64_t low = l->starts[at];
    for (int64_t n = l->starts[at + 1] - low; n > 1; n -= n / 2)
        low += number(l->symbols, l->symbol_bytes, low + n / 2) <= symbol ? n / 2 : 0;
    if (number(l->symbols, l->symbol_bytes, low) != symbol) return -1;
    if (!l->longer) return low;
    return l->longer[low] == NOWHERE ? -1 : (int64_t)l->longer[low];
}

/* Read one id: move at[k * stride], the place of the last k symbols in level k or -1, for all k. The end of a document is
   an entry, but nothing counted follows what it makes longer; an id outside the vocabulary is no entry. */
static void read(const Table *t, int64_t id, int64_t *at, int64_t stride) {
    for (int64_t k = t->n_levels - 1; k > 0; k--) {
        at[k * stride] = longer(t->levels + k - 1, at[(k - 1) * stride], id);
        if (at[k * stride] >= 0) __builtin_prefetch(t->levels[k].starts + at[k * stride]);
    }
}

static void nothing_read(const Table *t, int64_t *at, int64_t stride) {
    for (int64_t k = 0; k < t->n_levels; k++) at[k * stride] = k || !t->levels->n ? -1 : 0;
}

/* Where the row of the longest precomputed order is: uniform if there is none. */
static const double *precomputed(const Table *t, const int64_t *at, int64_t stride, int64_t fold) {
    int64_t row = 0;
    for (int64_t k = 0; k < t->n_levels && t->levels[k].dense_start >= 0 && at[k * stride] >= 0; k++)
        row = t->levels[k].dense_start + (fold + 1) * t->levels[k].n + at[k * stride];
    return t->dense + row * t->V;
}

/* What a level does to the row of the one below: multiply it by `back`, and add to n of its symbols. */
typedef struct {
    const Level *level;
    const void *counts, *in_fold;
    double total, back, weight;
    int64_t first, n;
} Part;

INLINE int64_t count_of(const Part *part, int64_t bytes, int64_t fold_bytes, int64_t i) {
    return number(part->counts, bytes, i) - (fold_bytes ? number(part->in_fold, fold_bytes, i) : 0);
}

INLINE void sum(Part *part, int64_t bytes, int64_t fold_bytes) {
    static const uint64_t one_of[4] = {0, 1, 1ULL << DIGITS, 1ULL << 2 * DIGITS};
    const double *d = part->level->discounts;
    uint64_t counts_of = 0; /* how many counts of 1, 2, and more: three numbers in one */
    int64_t total = 0;
    for (int64_t i = 0; i < part->n; i++) {
        const int64_t count = count_of(part, bytes, fold_bytes, i);
        total += count;
        counts_of += one_of[count < 3 ? count : 3];
    }
    const uint64_t mask = one_of[2] - 1;
    const double ones = (double)(counts_of & mask), twos = (double)(counts_of >> DIGITS & mask);
    const double threes = (double)(counts_of >> 2 * DIGITS);
    part->total = (double)total;
    part->back = total ? (ones * d[1] + twos * d[2] + threes * d[3]) / part->total : 1;
    if (!total) part->n = 0; /* all occurrences lie in the fold: as if never seen */
}

INLINE void add(const Part *part, int64_t bytes, int64_t fold_bytes, int64_t symbol_bytes, double *row) {
    const Level *l = part->level;
    for (int64_t i = 0; i < part->n; i++) {
        const int64_t count = count_of(part, bytes, fold_bytes, i);
        const double more = (double)count - l->discounts[count < 3 ? count : 3];
        row[number(l->symbols, symbol_bytes, part->first + i)] += more / part->total * part->weight;
    }
}

/* The row (V) of the context at at[k * stride], without the counts of a fold unless it is -1. */
static void row_of(const Table *t, const int64_t *at, int64_t stride, int64_t fold, double *row) {
    Part parts[MOST_LEVELS], *end = parts;
    for (int64_t k = 0; k < t->n_levels && at[k * stride] >= 0; k++) {
        const Level *l = t->levels + k;
        if (l->dense_start >= 0) continue;
        const int64_t first = l->starts[at[k * stride]], bytes = l->count_bytes, fold_bytes = fold < 0 ? 0 : l->fold_count_bytes;
        end->level = l;
        end->first = first;
        end->n = l->starts[at[k * stride] + 1] - first;
        end->counts = (const char *)l->counts + first * bytes;
        end->in_fold = fold < 0 ? 0 : (const char *)l->fold_counts + (fold * l->entries + first) * fold_bytes;
        if (bytes == 1 && fold_bytes == 1) sum(end, 1, 1);
        else sum(end, bytes, fold_bytes);
        end++;
    }
    double weight = 1;
    for (Part *part = end; part-- > parts; weight *= part->back) part->weight = weight;
    const double *base = precomputed(t, at, stride, fold);
    for (int64_t v = 0; v < t->V; v++) row[v] = base[v] * weight;
    for (const Part *part = parts; part < end; part++) {
        const Level *l = part->level;
        const int64_t bytes = l->count_bytes, fold_bytes = fold < 0 ? 0 : l->fold_count_bytes;
        if (bytes == 1 && fold_bytes == 1 && l->symbol_bytes == 1) add(part, 1, 1, 1, row);
        else add(part, bytes, fold_bytes, l->symbol_bytes, row);
    }
}

/* A text of n ids, and the windows of it whose rows are wanted. */
typedef struct {
    const void *ids;
    const int64_t *starts; /* (B) */
    const int64_t *edges;  /* (F + 1): where the folds begin, of which a symbol's own is left out; null: all is counted */
    int64_t n, id_bytes, B, T, n_folds;
    int64_t before; /* how many ids before a window are read with it */
} Text;

static int64_t id_at(const Table *t, const Text *text, int64_t i) {
    return i < 0 || i >= text->n ? t->V : number(text->ids, text->id_bytes, i);
}

static int64_t fold_of(const Text *text, int64_t i) {
    int64_t fold = text->n_folds - 1;
    while (fold > 0 && text->edges[fold] > i) fold--;
    return fold;
}

/* The rows of LANES pieces of windows, side by side, since most of the time goes into waiting for memory. */
static void rows_of_pieces(const Table *t, const Text *text, int64_t piece, double *row, float *out) {
    const int64_t per_window = (text->T + PIECE - 1) / PIECE, V = t->V, n = lesser(LANES, text->B * per_window - piece);
    int64_t at[MOST_LEVELS * LANES], first[LANES], offset[LANES], length[LANES];
    for (int64_t i = 0; i < n; i++) {
        const int64_t window = (piece + i) / per_window, t0 = (piece + i) % per_window * PIECE;
        first[i] = text->starts[window] + t0;
        offset[i] = window * text->T + t0;
        length[i] = lesser(PIECE, text->T - t0);
        const int64_t back = lesser(t->n_levels - 2, t0 + text->before);
        nothing_read(t, at + i, LANES);
        for (int64_t j = first[i] - back; j < first[i]; j++) read(t, id_at(t, text, j), at + i, LANES);
    }
    for (int64_t j = 0; j < PIECE; j++) {
        for (int64_t i = 0; i < n; i++)
            if (j < length[i]) read(t, id_at(t, text, first[i] + j), at + i, LANES);
        for (int64_t i = 0; i < n; i++) {
            if (j >= length[i]) continue;
            row_of(t, at + i, LANES, text->edges ? fold_of(text, first[i] + j + 1) : -1, row);
            float *to = out + (offset[i] + j) * V;
            for (int64_t v = 0; v < V; v++) to[v] = row[v] > FLT_MIN ? (float)row[v] : FLT_MIN; /* its logarithm is finite */
        }
    }
}

/* Probabilities (B, T, V) of the symbol after each of the T positions of each window. `rows` is a buffer: a row (V) for
   every LANES pieces. */
void EXPORT(text_rows)(const Table *t, const Text *text, double *rows, float *out) {
    const int64_t pieces = text->B * ((text->T + PIECE - 1) / PIECE);
    _Pragma("omp parallel for schedule(static) if (pieces > LANES)")
    for (int64_t i = 0; i < pieces; i += LANES) rows_of_pieces(t, text, i, rows + i / LANES * t->V, out);
}

/* The places at(levels, B) of texts of which nothing was read. */
void EXPORT(ngram_start)(const Table *t, int64_t *at, int64_t B) {
    for (int64_t b = 0; b < B; b++) nothing_read(t, at + b, B);
}

/* Read ids (B, T) of texts that go on from at(levels, B). */
void EXPORT(ngram_read)(const Table *t, const int64_t *ids, int64_t *at, int64_t B, int64_t T) {
    for (int64_t i = 0; i < T; i++)
        for (int64_t b = 0; b < B; b++) read(t, ids[b * T + i], at + b, B);
}

/* Probabilities (B, V) of the symbol after texts at(levels, B). */
void EXPORT(ngram_next)(const Table *t, const int64_t *at, int64_t B, double *out) {
    for (int64_t b = 0; b < B; b++) row_of(t, at + b, B, -1, out + b * t->V);
}
