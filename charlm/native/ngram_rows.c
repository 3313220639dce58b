/* KneserNey.rows (charlm/ngram/kneser_ney.py): probabilities of the next symbol after each of many contexts.

   It does the same operations on the same numbers in the same order as NumPy, so that not a bit differs, and is compiled
   without flags that reorder or fuse operations. Shapes: B contexts, V symbols, F folds. */

#include <float.h>

#include "kernel.h"

/* 16, of compilers for processors that know half precision, differs from 0 in types that are not used here. */
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "this compiler computes with more digits than it stores; the rows would not be NumPy's"
#endif

typedef struct {
    const uint64_t *contexts;             /* (n), ascending */
    const uint64_t *marks;                /* every MARK_EVERY-th of them, few enough to stay in the cache */
    const uint32_t *starts;               /* (n + 1) */
    const void *symbols, *counts, *fold_counts; /* of each entry; fold_counts (F, entries), or null */
    const double *discounts;              /* of a count of 0, 1, 2, and of 3 or more */
    int64_t n, entries, symbol_bytes, count_bytes, fold_count_bytes;
    int64_t dense_start; /* where the rows of its contexts begin among the precomputed ones, or -1 */
} Level;

typedef struct {
    const Level *levels;
    const double *dense; /* precomputed rows: uniform, then those of low orders, of all counts and without each fold */
    int64_t n_levels, bits, V, end; /* the symbol that ends a document and begins the next, or -1 */
} Table;

enum { MOST_LEVELS = 64, AT_ONCE = 32, AHEAD = 4, MARK_EVERY = 16, LANES = 8, LINE = 64 };
enum { NOT_THERE = -1, UNKNOWN = -2 };

static inline int64_t number(const void *array, int64_t bytes, int64_t i) {
    if (bytes == 1) return ((const uint8_t *)array)[i];
    if (bytes == 2) return ((const uint16_t *)array)[i];
    return ((const uint32_t *)array)[i];
}

/* Find B contexts in a level, all at once, since most of the time goes into waiting for memory. */
static void find(const Level *l, const uint64_t *contexts, int64_t B, int64_t *at) {
    int64_t low[AT_ONCE] = {0};
    for (int64_t b = 0; b < B; b++) at[b] = NOT_THERE;
    if (!l->n) return;
    for (int64_t n = (l->n + MARK_EVERY - 1) / MARK_EVERY; n > 1; n -= n / 2)
        for (int64_t b = 0; b < B; b++) low[b] += l->marks[low[b] + n / 2] <= contexts[b] ? n / 2 : 0;
    for (int64_t b = 0; b < B; b++) {
        low[b] *= MARK_EVERY;
        __builtin_prefetch(l->contexts + low[b]);
        __builtin_prefetch(l->contexts + low[b] + MARK_EVERY - 1);
    }
    for (int64_t half = MARK_EVERY / 2; half; half /= 2)
        for (int64_t b = 0; b < B; b++) {
            const int64_t next = low[b] + half < l->n ? low[b] + half : low[b];
            low[b] = l->contexts[next] <= contexts[b] ? next : low[b];
        }
    for (int64_t b = 0; b < B; b++)
        if (l->contexts[low[b]] == contexts[b]) at[b] = low[b];
}

static inline uint64_t mask_of(const Table *t, int64_t k) { return k ? ~0ULL >> (64 - k * t->bits) : 0; }

/* Find, level by level, those of n contexts whose place at[k * stride + i] is UNKNOWN. If a level lacks the last k
   symbols of a context, so do all higher levels. */
static void look_up(const Table *t, const uint64_t *contexts, int64_t n, int64_t *at, int64_t stride) {
    for (int64_t k = 0; k < t->n_levels; k++) {
        const Level *l = t->levels + k;
        int64_t *here = at + k * stride, which[AT_ONCE], places[AT_ONCE], m = 0;
        uint64_t sought[AT_ONCE];
        for (int64_t i = 0; i < n; i++) {
            if (k && here[i - stride] < 0) here[i] = NOT_THERE;
            if (here[i] != UNKNOWN) continue;
            sought[m] = contexts[i] & mask_of(t, k);
            which[m++] = i;
        }
        if (m) find(l, sought, m, places);
        for (int64_t j = 0; j < m; j++) here[which[j]] = places[j];
        for (int64_t i = 0; i < n; i++)
            if (here[i] >= 0 && l->dense_start < 0) __builtin_prefetch(l->starts + here[i]);
    }
}

/* What a level does to the row of the one below: multiply it by `back`, and add to n of its symbols. */
typedef struct {
    double total, back, weight;
    int64_t first, n;
} Part;

static void take(const Level *l, int64_t total, int64_t ones, int64_t twos, int64_t threes, int64_t n, Part *part) {
    const double taken = (double)ones * l->discounts[1] + (double)twos * l->discounts[2];
    part->n = total ? n : 0; /* all occurrences lie in the fold: as if never seen */
    part->total = (double)total;
    part->back = total ? (taken + (double)threes * l->discounts[3]) / part->total : 1;
}

/* Put count minus discount of n entries into `more`, with the counts of the fold left out unless it is -1. */
static void part_of_any(const Level *l, int64_t fold, int64_t n, double *more, Part *part) {
    int64_t total = 0, of[4] = {0};
    for (int64_t i = 0; i < n; i++) {
        int64_t count = number(l->counts, l->count_bytes, part->first + i);
        if (fold >= 0) count -= number(l->fold_counts, l->fold_count_bytes, fold * l->entries + part->first + i);
        const int64_t kind = count < 3 ? count : 3;
        more[i] = (double)count - l->discounts[kind];
        total += count;
        of[kind]++;
    }
    take(l, total, of[1], of[2], of[3], n, part);
}

/* The same for counts of one byte, as most are, LANES at a time. Entries beyond n count as 0, so adding them changes
   nothing. */
static void part_of_bytes(const Level *l, int64_t fold, int64_t n, double *more, Part *part) {
    static const uint8_t nothing[LANES];
    const uint8_t *counts = (const uint8_t *)l->counts + part->first;
    const uint8_t *in_fold = fold < 0 ? nothing : (const uint8_t *)l->fold_counts + fold * l->entries + part->first;
    const double one = l->discounts[1], two = l->discounts[2], three = l->discounts[3];
    int32_t total[LANES] = {0}, ones[LANES] = {0}, twos[LANES] = {0}, threes[LANES] = {0};
    int64_t i = 0;
    for (; i < n; i += LANES) {
        int32_t count[LANES];
        for (int j = 0; j < LANES; j++) count[j] = counts[i + j];
        const uint8_t *gone = fold < 0 ? nothing : in_fold + i;
        for (int j = 0; j < LANES; j++) count[j] -= gone[j];
        for (int j = 0; j < LANES; j++) count[j] = j < n - i ? count[j] : 0;
        for (int j = 0; j < LANES; j++) {
            total[j] += count[j];
            ones[j] += count[j] == 1;
            twos[j] += count[j] == 2;
            threes[j] += count[j] > 2;
        }
        for (int j = 0; j < LANES; j++) {
            const double discount = count[j] > 2 ? three : count[j] == 2 ? two : count[j] == 1 ? one : 0;
            more[i + j] = (double)count[j] - discount;
        }
    }
    int64_t sums[4] = {0};
    for (int j = 0; j < LANES; j++) sums[0] += total[j], sums[1] += ones[j], sums[2] += twos[j], sums[3] += threes[j];
    take(l, sums[0], sums[1], sums[2], sums[3], i, part);
}

static void part_of(const Level *l, int64_t at, int64_t fold, double *more, Part *part) {
    const int64_t n = l->starts[at + 1] - (part->first = l->starts[at]);
    const int of_bytes = l->count_bytes == 1 && l->fold_count_bytes <= 1 && part->first + n + LANES <= l->entries;
    (of_bytes ? part_of_bytes : part_of_any)(l, fold, n, more, part);
}

static void near(const void *array, int64_t from, int64_t to) {
    const char *byte = (const char *)array + from;
    const char *last = (const char *)array + to - 1;
    for (; byte < last; byte += LINE) __builtin_prefetch(byte);
    __builtin_prefetch(last);
}

static inline __attribute__((always_inline)) void scatter(const Level *l, int64_t symbol_bytes, const Part *part, const double *more, double *room) {
    for (int64_t i = 0; i < part->n; i++) room[number(l->symbols, symbol_bytes, part->first + i)] += more[i];
}

/* Prefetch what the row of a context is made of. */
static void fetch(const Table *t, const int64_t *at, int64_t stride, int64_t found, int64_t lowest, int64_t row, int64_t fold) {
    near(t->dense, row * t->V * 8, (row + 1) * t->V * 8);
    for (int64_t k = lowest; k < found; k++) {
        const Level *l = t->levels + k;
        const int64_t from = l->starts[at[k * stride]], to = l->starts[at[k * stride] + 1];
        near(l->symbols, from * l->symbol_bytes, to * l->symbol_bytes);
        near(l->counts, from * l->count_bytes, to * l->count_bytes);
        if (fold >= 0) near(l->fold_counts, (fold * l->entries + from) * l->fold_count_bytes, (fold * l->entries + to) * l->fold_count_bytes);
    }
}

/* The row (V) of one context, which stands at at[k * stride] in each of the first `found` levels. */
static void row_of(const Table *t, const int64_t *at, int64_t stride, int64_t found, int64_t lowest, int64_t row, int64_t fold, double *room, float *out) {
    const int64_t V = t->V;
    Part parts[MOST_LEVELS];
    double weight = 1;
    for (int64_t k = lowest; k < found; k++)
        part_of(t->levels + k, at[k * stride], fold, room + (k + 1) * (V + LANES), parts + k);
    for (int64_t k = found - 1; k >= lowest; k--) {
        parts[k].weight = weight;
        weight *= parts[k].back;
    }
    const double *base = t->dense + row * V;
    for (int64_t v = 0; v < V; v++) room[v] = base[v] * weight;
    for (int64_t k = lowest; k < found; k++) {
        const Level *l = t->levels + k;
        double *more = room + (k + 1) * (V + LANES);
        const Part *part = parts + k;
        for (int64_t i = 0; i < part->n; i++) more[i] = more[i] / part->total * part->weight;
        if (l->symbol_bytes == 1) scatter(l, 1, part, more, room);
        else scatter(l, l->symbol_bytes, part, more, room);
    }
    for (int64_t v = 0; v < V; v++) out[v] = room[v] > FLT_MIN ? (float)room[v] : FLT_MIN; /* so that its logarithm is finite */
}

/* The rows (n, V) of contexts whose places are known. */
static void rows_at(const Table *t, const int64_t *at, int64_t stride, const int64_t *folds, int64_t n, double *room, float *out) {
    int64_t found[AT_ONCE] = {0}, base[AT_ONCE] = {0}, lowest = 0;
    for (int64_t k = 0; k < t->n_levels; k++) {
        const Level *l = t->levels + k;
        if (l->dense_start >= 0) lowest = k + 1;
        for (int64_t i = 0; i < n; i++) {
            if (at[k * stride + i] < 0) continue;
            found[i] = k + 1;
            if (l->dense_start >= 0) base[i] = l->dense_start + (folds ? folds[i] + 1 : 0) * l->n + at[k * stride + i];
        }
    }
    for (int64_t i = -AHEAD; i < n; i++) {
        const int64_t next = i + AHEAD;
        if (next < n) fetch(t, at + next, stride, found[next], lowest, base[next], folds ? folds[next] : -1);
        if (i < 0) continue;
        row_of(t, at + i, stride, found[i], lowest, base[i], folds ? folds[i] : -1, room, out);
        out += t->V;
    }
}

static inline int64_t at_most(int64_t most, int64_t n) { return n < most ? n : most; }

/* Probabilities (B, V) of the next symbol after contexts (B), each without its fold (B) unless folds is null. `room` is a
   buffer for (V + LANES) (levels + 1) numbers. */
void EXPORT(ngram_rows)(const Table *t, const uint64_t *contexts, const int64_t *folds, int64_t B, double *room, float *out) {
    int64_t at[MOST_LEVELS * AT_ONCE];
    for (int64_t b = 0; b < B; b += AT_ONCE) {
        const int64_t n = at_most(AT_ONCE, B - b);
        for (int64_t k = 0; k < t->n_levels; k++)
            for (int64_t i = 0; i < n; i++) at[k * AT_ONCE + i] = UNKNOWN;
        look_up(t, contexts + b, n, at, AT_ONCE);
        rows_at(t, at, AT_ONCE, folds ? folds + b : 0, n, room, out + b * t->V);
    }
}

/* The same for contexts that `advance` moved on, and their places at(levels, B); the UNKNOWN ones are looked up. */
void EXPORT(ngram_rows_advanced)(const Table *t, const uint64_t *contexts, int64_t *at, int64_t B, double *room, float *out) {
    for (int64_t b = 0; b < B; b += AT_ONCE) {
        const int64_t n = at_most(AT_ONCE, B - b);
        look_up(t, contexts + b, n, at + b, B);
        rows_at(t, at + b, B, 0, n, room, out + b * t->V);
    }
}

/* The index of a symbol among the entries of the context at `at`, or NOT_THERE. */
static int64_t entry_of(const Level *l, int64_t at, int64_t symbol) {
    int64_t low = l->starts[at], end = l->starts[at + 1];
    for (int64_t n = end - low; n > 1; n -= n / 2)
        low += number(l->symbols, l->symbol_bytes, low + n / 2) <= symbol ? n / 2 : 0;
    return number(l->symbols, l->symbol_bytes, low) == symbol ? low : NOT_THERE;
}

/* A context with its next symbol is a context of the level above. Those have the same keys in the same order as this
   level's entries, except for entries that nothing follows, so the place is the entry's or at most `missing` before. */
static int64_t of_entry(const Level *l, const Level *above, int64_t entry, uint64_t context) {
    const int64_t missing = l->entries > above->n ? l->entries - above->n : 0;
    int64_t low = entry > missing ? entry - missing : 0;
    const int64_t end = entry < above->n ? entry + 1 : above->n;
    for (int64_t n = end - low; n > 1; n -= n / 2) low += above->contexts[low + n / 2] <= context ? n / 2 : 0;
    return low < end && above->contexts[low] == context ? low : UNKNOWN;
}

/* Advance contexts (B) and their places at(levels, B) by one id of each text (B). An id outside the vocabulary is the
   boundary, digit V, and so is all that precedes the end of a document. Places that do not follow from the old ones
   become UNKNOWN. */
void EXPORT(advance)(const Table *t, uint64_t *contexts, int64_t *at, const int64_t *ids, int64_t B) {
    const uint64_t mask = mask_of(t, t->n_levels - 1);
    uint64_t nothing = 0;
    int64_t entries[MOST_LEVELS];
    for (int64_t k = 1; k < t->n_levels; k++) nothing = nothing << t->bits | (uint64_t)t->V;
    for (int64_t b = 0; b < B; b++) {
        const uint64_t before = ids[b] == t->end ? nothing : contexts[b];
        contexts[b] = (before << t->bits | (uint64_t)(ids[b] < t->V ? ids[b] : t->V)) & mask;
        for (int64_t k = 1; k < t->n_levels; k++) {
            const int64_t last = at[(k - 1) * B + b];
            entries[k] = last < 0 ? NOT_THERE : entry_of(t->levels + k - 1, last, ids[b]);
            if (entries[k] >= 0 && entries[k] < t->levels[k].n) __builtin_prefetch(t->levels[k].contexts + entries[k]);
        }
        for (int64_t k = 1; k < t->n_levels; k++) {
            const Level *l = t->levels + k - 1;
            at[k * B + b] = entries[k] < 0 ? UNKNOWN : of_entry(l, l + 1, entries[k], contexts[b] & mask_of(t, k));
        }
    }
}
