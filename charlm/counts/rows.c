/* The sums of KneserNey.rows: what counts say after each of many contexts, order by order.

   The same operations on the same numbers in the same order as in NumPy, so that not a bit differs:
   compiled without what would reorder or join them. Axes: B contexts, V symbols, F folds. */

#include <float.h>
#include <stdint.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0
#error "this machine computes with more digits than it stores; the rows would not be NumPy's"
#endif

typedef struct {
    const uint64_t *contexts;             /* (n), ascending */
    const uint32_t *starts;               /* (n + 1) */
    const void *symbols, *counts, *share; /* of each entry; share (entries, F), or null */
    const double *discounts;              /* of a count of 0, 1, 2, and of 3 or more */
    int64_t n, symbol_bytes, count_bytes, share_bytes;
    int64_t known; /* where the rows of its contexts begin among those made beforehand, or -1 */
} Level;

typedef struct {
    const Level *levels;
    const double *base; /* rows made beforehand: uniform, then those of low orders, whole and by fold */
    int64_t n_levels, bits, V, F;
} Table;

enum { MOST_LEVELS = 64, AT_ONCE = 32, AHEAD = 4, DIGITS = 21, LINE = 64 };

static inline int64_t number(const void *array, int64_t bytes, int64_t i) {
    if (bytes == 1) return ((const uint8_t *)array)[i];
    if (bytes == 2) return ((const uint16_t *)array)[i];
    return ((const uint32_t *)array)[i];
}

/* Where B contexts stand in a level (at), -1 where they do not, and so in no higher one; side by side,
   since what takes long is to wait for memory. Returns how many stand there. */
static int64_t find(const Level *l, uint64_t mask, const uint64_t *contexts, int64_t B, int64_t *at) {
    int64_t low[AT_ONCE] = {0}, found = 0;
    for (int64_t n = l->n; n > 1; n -= n / 2)
        for (int64_t b = 0; b < B; b++)
            low[b] += l->contexts[low[b] + n / 2] <= (contexts[b] & mask) ? n / 2 : 0;
    for (int64_t b = 0; b < B; b++) {
        const int there = l->n && l->contexts[low[b]] == (contexts[b] & mask);
        at[b] = there ? low[b] : -1;
        found += there;
    }
    return found;
}

/* What a level does to the row of the one below: `back` of it is left, and each of n places gets a share. */
typedef struct {
    double total, back, weight;
    int64_t first, n;
} Part;

/* Of a level's entries for the context `at`, without a fold unless it is -1; into `more` what each count
   has beyond its discount. How many counts of 1, of 2 and of 3 or more there are goes into one number. */
static inline __attribute__((always_inline)) void part_as(const Level *l, int64_t count_bytes, int64_t share_bytes,
                                                          int64_t at, int64_t fold, int64_t F, double *more, Part *part) {
    static const int64_t one_of[4] = {0, 1, 1 << DIGITS, 1LL << 2 * DIGITS};
    const int64_t first = l->starts[at], n = l->starts[at + 1] - first;
    int64_t total = 0, kinds = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t count = number(l->counts, count_bytes, first + i);
        if (fold >= 0) count -= number(l->share, share_bytes, (first + i) * F + fold);
        const int64_t kind = count < 3 ? count : 3;
        more[i] = (double)count - l->discounts[kind];
        total += count;
        kinds += one_of[kind];
    }
    part->first = first;
    part->n = total ? n : 0; /* all occurrences lie in the fold: as if never seen */
    part->total = (double)total;
    const int64_t digit = (1 << DIGITS) - 1;
    const double ones = (double)(kinds & digit), twos = (double)(kinds >> DIGITS & digit), threes = (double)(kinds >> 2 * DIGITS);
    const double taken = ones * l->discounts[1] + twos * l->discounts[2];
    part->back = total ? (taken + threes * l->discounts[3]) / part->total : 1;
}

static void part_of(const Level *l, int64_t at, int64_t fold, int64_t F, double *more, Part *part) {
    if (l->count_bytes == 1 && l->share_bytes == 1) part_as(l, 1, 1, at, fold, F, more, part); /* as they mostly are */
    else part_as(l, l->count_bytes, l->share_bytes, at, fold, F, more, part);
}

static void near(const void *array, int64_t from, int64_t to) {
    const char *byte = (const char *)array + from;
    for (const char *end = (const char *)array + to; byte < end; byte += LINE) __builtin_prefetch(byte);
}

static inline __attribute__((always_inline)) void scatter(const Level *l, int64_t symbol_bytes, const Part *part, const double *more, double *room) {
    for (int64_t i = 0; i < part->n; i++) room[number(l->symbols, symbol_bytes, part->first + i)] += more[i];
}

/* Ask for what the row of a context is made of. */
static void fetch(const Table *t, const int64_t *at, int64_t found, int64_t lowest, int64_t row, int with_folds) {
    near(t->base, row * t->V * 8, (row + 1) * t->V * 8);
    for (int64_t k = lowest; k < found; k++) {
        const Level *l = t->levels + k;
        const int64_t from = l->starts[at[k * AT_ONCE]], to = l->starts[at[k * AT_ONCE] + 1];
        near(l->symbols, from * l->symbol_bytes, to * l->symbol_bytes);
        near(l->counts, from * l->count_bytes, to * l->count_bytes);
        if (with_folds) near(l->share, from * t->F * l->share_bytes, to * t->F * l->share_bytes);
    }
}

/* The row (V) of one context, of which `found` levels know the last symbols, each at at[k * AT_ONCE]. */
static void row_of(const Table *t, const int64_t *at, int64_t found, int64_t lowest, int64_t row, int64_t fold, double *room, float *out) {
    const int64_t V = t->V;
    Part parts[MOST_LEVELS];
    double weight = 1;
    for (int64_t k = lowest; k < found; k++)
        part_of(t->levels + k, at[k * AT_ONCE], fold, t->F, room + (k + 1) * V, parts + k);
    for (int64_t k = found - 1; k >= lowest; k--) {
        parts[k].weight = weight;
        weight *= parts[k].back;
    }
    const double *base = t->base + row * V;
    for (int64_t v = 0; v < V; v++) room[v] = base[v] * weight;
    for (int64_t k = lowest; k < found; k++) {
        const Level *l = t->levels + k;
        double *more = room + (k + 1) * V;
        const Part *part = parts + k;
        for (int64_t i = 0; i < part->n; i++) more[i] = more[i] / part->total * part->weight;
        if (l->symbol_bytes == 1) scatter(l, 1, part, more, room);
        else scatter(l, l->symbol_bytes, part, more, room);
    }
    for (int64_t v = 0; v < V; v++) out[v] = (float)room[v];
}

/* Probabilities (B, V) of what follows contexts (B), without the fold of each (B), or with all where
   folds is null. `room` is for V (levels + 1) numbers. */
void rows(const Table *t, const uint64_t *contexts, const int64_t *folds, int64_t B, double *room, float *out) {
    const int64_t V = t->V, F = t->F;
    int64_t at[MOST_LEVELS * AT_ONCE], found[AT_ONCE], base[AT_ONCE];
    for (int64_t b = 0; b < B; b += AT_ONCE) {
        const int64_t n = B - b < AT_ONCE ? B - b : AT_ONCE;
        int64_t lowest = 0;
        for (int64_t i = 0; i < n; i++) found[i] = base[i] = 0;
        for (int64_t k = 0; k < t->n_levels; k++) {
            const Level *l = t->levels + k;
            int64_t *of = at + k * AT_ONCE;
            if (l->known >= 0) lowest = k + 1;
            if (!find(l, k ? ~0ULL >> (64 - k * t->bits) : 0, contexts + b, n, of)) break;
            for (int64_t i = 0; i < n; i++) {
                if (of[i] < 0) continue;
                found[i] = k + 1;
                if (l->known >= 0) base[i] = l->known + (folds ? folds[b + i] + 1 : 0) * l->n + of[i];
                else __builtin_prefetch(l->starts + of[i]);
            }
        }
        for (int64_t i = -AHEAD; i < n; i++) {
            if (i + AHEAD < n) fetch(t, at + i + AHEAD, found[i + AHEAD], lowest, base[i + AHEAD], folds != 0);
            if (i < 0) continue;
            row_of(t, at + i, found[i], lowest, base[i], folds ? folds[b + i] : -1, room, out);
            out += V;
        }
    }
}
