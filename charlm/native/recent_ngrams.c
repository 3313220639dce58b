/* What followed recent n-grams, added to distributions (charlm/model/recent_ngrams.py).

   For each length n, the symbols x that followed the last n symbols when they occurred before, at most PLACES times and
   in the window: c(x) of them, k different ones, c in all.

       p_n(x) = max(c(x) - D, 0) / (c + S) + (S + D k) / (c + S) p_(n-1)(x),   p_(shortest - 1) = the given distribution

   Shapes: N rows, V symbols. */

#include "kernel.h"

enum { ORDERS = 9, PLACES = 3, AT_ONCE = 3, LONGEST = 16, PIECE = 64, ROWS_FOR_THREADS = 16 };
static const int lengths[ORDERS] = {1, 2, 3, 4, 5, 6, 8, 12, 16}; /* The shortest one is up to AT_ONCE, by the text. */
#define DISCOUNT 0.8

/* How often the last `shortest` ids before ids[at] are those before ids[p], p from `from` to `to` - 1. */
static inline int64_t occur(const int64_t *ids, int64_t from, int64_t to, int64_t at, int64_t shortest) {
    const int64_t last = ids[at - 1], second = ids[at - 2], third = ids[at - 3];
    const int64_t any_second = shortest < 2, any_third = shortest < 3;
    int64_t places = 0;
    for (int64_t p = from; p < to; p++)
        places += (ids[p - 1] == last) & ((ids[p - 2] == second) | any_second) & ((ids[p - 3] == third) | any_third);
    return places;
}

/* The symbols found[o] (counts[o]) that followed the last lengths[o] ids before ids[at] earlier on, from ids[low] on. */
static void look_back(const int64_t *ids, int64_t low, int64_t at, int64_t V, int64_t shortest,
                      int64_t found[ORDERS][PLACES], int *counts) {
    for (int o = 0; o < ORDERS; o++) counts[o] = 0;
    for (int64_t p = at - 1; p >= low + shortest && counts[ORDERS - 1] < PLACES; p--) {
        const int64_t from = p + 1 - PIECE; /* Most pieces of the text hold none of them, which vectors soon tell. */
        if (from >= low + AT_ONCE && (at - 1 - p) % PIECE == 0 && !occur(ids, from, p + 1, at, shortest)) {
            p = from;
            continue;
        }
        if (ids[p - 1] != ids[at - 1] || ids[p] >= V) continue;
        const int64_t most = lesser(LONGEST, p - low);
        int64_t same = 1;
        while (same < most && ids[p - 1 - same] == ids[at - 1 - same]) same++;
        for (int o = (int)shortest - 1; o < ORDERS && lengths[o] <= same; o++)
            if (counts[o] < PLACES) found[o][counts[o]++] = ids[p];
    }
}

/* Row n of logp (N, V), log-probabilities of the symbol at ids[ats[n]], whose window begins at ids[lows[n]]. */
void EXPORT(recent_ngrams)(const int64_t *ids, const int64_t *lows, const int64_t *ats, int64_t N, int64_t V,
                           int64_t symbols, int64_t shortest, double strength, float *logp) {
    _Pragma("omp parallel for schedule(static) if (N > ROWS_FOR_THREADS)")
    for (int64_t n = 0; n < N; n++) {
        int64_t found[ORDERS][PLACES], which[ORDERS * PLACES];
        double added[ORDERS * PLACES], kept = 1;
        float raised[ORDERS * PLACES], *row = logp + n * V;
        int counts[ORDERS], m = 0;
        look_back(ids, lows[n], ats[n], symbols, shortest, found, counts);
        for (int o = (int)shortest - 1; o < ORDERS && counts[o]; o++) {
            const double all = counts[o] + strength;
            int times[PLACES] = {0}, different = 0; /* how often found[o][i] is there, at the first of them */
            for (int i = 0, first; i < counts[o]; i++) {
                for (first = 0; found[o][first] != found[o][i];) first++;
                different += !times[first]++;
            }
            const double share = (strength + DISCOUNT * different) / all;
            kept *= share;
            for (int j = 0; j < m; j++) added[j] *= share;
            for (int i = 0, j; i < counts[o]; i++) {
                if (!times[i]) continue;
                for (j = 0; j < m && which[j] != found[o][i];) j++;
                if (j == m) {
                    which[m] = found[o][i];
                    added[m++] = 0;
                }
                added[j] += (times[i] - DISCOUNT) / all;
            }
        }
        if (!m) continue;
        for (int j = 0; j < m; j++) raised[j] = (float)log(kept * exp((double)row[which[j]]) + added[j]);
        const float lowered = (float)log(kept);
        for (int64_t v = 0; v < V; v++) row[v] += lowered;
        for (int j = 0; j < m; j++) row[which[j]] = raised[j];
    }
}
