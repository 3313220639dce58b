/* Blocks of text decoded, counted and looked up: what charlm/data/codes.py and encoder.py do in NumPy. */

#include <stdint.h>
#include <string.h>

enum { WORD = 8 };
static const uint64_t NOT_ASCII = 0x8080808080808080ULL;

static inline uint32_t low_six(uint8_t byte) { return byte & 0x3F; }
static inline int continues(uint8_t byte) { return (byte & 0xC0) == 0x80; }

/* The code point of a character of several bytes at s, of which n are there, into point. Returns its length;
   0 for what is not UTF-8, or not whole. No overlong forms, no surrogates, nothing above U+10FFFF. */
static inline int64_t character(const uint8_t *s, int64_t n, uint32_t *point) {
    const uint8_t first = s[0];
    if (first < 0xC2 || first > 0xF4 || n < 2 || !continues(s[1])) return 0;
    if (first < 0xE0) {
        *point = (uint32_t)(first & 0x1F) << 6 | low_six(s[1]);
        return 2;
    }
    if (n < 3 || !continues(s[2])) return 0;
    if (first < 0xF0) {
        *point = (uint32_t)(first & 0x0F) << 12 | low_six(s[1]) << 6 | low_six(s[2]);
        return *point < 0x800 || (*point >= 0xD800 && *point < 0xE000) ? 0 : 3;
    }
    if (n < 4 || !continues(s[3])) return 0;
    *point = (uint32_t)(first & 0x07) << 18 | low_six(s[1]) << 12 | low_six(s[2]) << 6 | low_six(s[3]);
    return *point < 0x10000 || *point > 0x10FFFF ? 0 : 4;
}

/* The code points of n bytes of UTF-8, into out (at most n), as far as they are valid: how many; `used` is
   how many bytes they are of. */
int64_t decode(const uint8_t *s, int64_t n, uint32_t *out, int64_t *used) {
    uint32_t *const begin = out;
    int64_t i = 0;
    while (i < n) {
        uint64_t word;
        if (i + WORD <= n && (memcpy(&word, s + i, WORD), !(word & NOT_ASCII))) {
            for (int j = 0; j < WORD; j++) out[j] = s[i + j];
            out += WORD, i += WORD;
        } else if (s[i] < 0x80) {
            *out++ = s[i++];
        } else {
            const int64_t length = character(s + i, n - i, out);
            if (!length) break;
            out++, i += length;
        }
    }
    *used = i;
    return out - begin;
}

/* Add to counts (256) how often each of n bytes occurs. In several tables by turns, since adding to the same
   number twice in a row waits for itself. */
void count_1(const uint8_t *codes, int64_t n, int64_t *counts) {
    static const int64_t at_once = 1 << 30; /* so that no number overflows */
    while (n > 0) {
        const int64_t m = n < at_once ? n : at_once;
        uint32_t tables[WORD][256] = {{0}};
        int64_t i = 0;
        for (; i + WORD <= m; i += WORD) {
            uint64_t word;
            memcpy(&word, codes + i, WORD);
            for (int j = 0; j < WORD; j++) tables[j][word >> 8 * j & 0xFF]++;
        }
        for (; i < m; i++) tables[0][codes[i]]++;
        for (int j = 0; j < WORD; j++)
            for (int code = 0; code < 256; code++) counts[code] += tables[j][code];
        codes += m, n -= m;
    }
}

/* The same of wider codes, in two tables counts (2, size); those beyond a table are not counted. */
void count_4(const uint32_t *codes, int64_t n, int64_t *counts, int64_t size) {
    for (int64_t i = 0; i < n; i++)
        if (codes[i] < size) counts[(i & 1) * size + codes[i]]++;
}

/* The numbers that a table (size) gives n codes; its last for those beyond it. */
void look_up_1_1(const uint8_t *codes, int64_t n, const uint8_t *table, int64_t size, uint8_t *out) {
    uint8_t all[256];
    for (int code = 0; code < 256; code++) all[code] = table[code < size ? code : size - 1];
    int64_t i = 0;
    for (; i + WORD <= n; i += WORD) {
        uint64_t word, found = 0;
        memcpy(&word, codes + i, WORD);
        for (int j = 0; j < WORD; j++) found |= (uint64_t)all[word >> 8 * j & 0xFF] << 8 * j;
        memcpy(out + i, &found, WORD);
    }
    for (; i < n; i++) out[i] = all[codes[i]];
}

#define LOOK_UP(NAME, CODE, NUMBER)                                                           \
    void NAME(const CODE *codes, int64_t n, const NUMBER *table, int64_t size, NUMBER *out) { \
        for (int64_t i = 0; i < n; i++) out[i] = table[codes[i] < size ? codes[i] : size - 1]; \
    }

LOOK_UP(look_up_1_2, uint8_t, uint16_t)
LOOK_UP(look_up_4_1, uint32_t, uint8_t)
LOOK_UP(look_up_4_2, uint32_t, uint16_t)
