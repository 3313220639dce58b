/* The counts' rows for sampling: log p(. | context) of many contexts, order by order.

   As KneserNey.row has it: a row begins uniform; each order whose context was seen shrinks it and adds
   to the symbols that were seen there. V symbols, B contexts. */

#include <math.h>
#include <stdint.h>

typedef struct {
    const uint64_t *contexts;  /* (n), ascending */
    const uint32_t *starts;    /* (n + 1) */
    const uint8_t *symbols;    /* of 1, 2 or 4 bytes each */
    const float *added, *back; /* for each entry; for each context */
    int64_t n;
} level;

static int64_t find(const uint64_t *sorted, int64_t n, uint64_t key) {
    int64_t low = 0;
    while (n > 1) {
        int64_t half = n / 2;
        low += (sorted[low + half - 1] < key) ? half : 0;
        n -= half;
    }
    return n == 1 && sorted[low] == key ? low : -1;
}

static uint32_t symbol(const uint8_t *symbols, int64_t size, int64_t entry) {
    if (size == 1) return symbols[entry];
    if (size == 2) return ((const uint16_t *)symbols)[entry];
    return ((const uint32_t *)symbols)[entry];
}

void log_rows(const level *levels, int64_t n_levels, int64_t bits, int64_t size, int64_t V,
              const uint64_t *contexts, int64_t B, float *out) {
    for (int64_t b = 0; b < B; b++, out += V) {
        for (int64_t v = 0; v < V; v++) out[v] = 1.0f / (float)V;
        for (int64_t k = 0; k < n_levels; k++) {
            const level *l = levels + k;
            uint64_t mask = k * bits ? ~0ULL >> (64 - k * bits) : 0;
            int64_t at = find(l->contexts, l->n, contexts[b] & mask);
            if (at < 0) break; /* then no longer context was seen either */
            float back = l->back[at];
            for (int64_t v = 0; v < V; v++) out[v] *= back;
            for (int64_t e = l->starts[at]; e < l->starts[at + 1]; e++)
                out[symbol(l->symbols, size, e)] += l->added[e];
        }
        for (int64_t v = 0; v < V; v++) out[v] = logf(out[v]);
    }
}
