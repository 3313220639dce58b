/* The row of an n-gram in a table of hashed n-gram embeddings (charlm/model/ngram_layers.py). */

#ifndef NGRAM_HASH_H
#define NGRAM_HASH_H

#include <stdint.h>

/* Lengthen an n-gram by the id `before` it, and return its row: one of the `rows` (a power of two) for n-grams of
   length i + 2. `key` starts as the last id. The shift is arithmetic, as in Python. */
static inline int64_t ngram_row(uint64_t *key, int64_t before, int64_t i, int64_t rows) {
    *key = *key * 1000003u + (uint64_t)before + 1;
    return ((int64_t)(*key * 11400714819323198485u) >> 40 & (rows - 1)) + i * rows;
}

#endif
