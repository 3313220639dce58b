/* The fast decoder (charlm/model/fast_decoder.py): a transformer reads the next characters of some texts.

   For the character at position t, with p the n-gram prior's probabilities of the one after it:

       x = E[id] + P[t] + n-gram embeddings + R sqrt(p)
       in each layer:  q, k, v = W norm(x), q and k normalised again and rotated;  k and v go into the cache
                       x += W softmax(q k') v
                       x += W (silu(a) b),  a, b = W norm(x)
       logits = E norm(x) + (1 + w norm(x)) log p

   Matrices (n inputs, m outputs) have the gains of norms folded in, and lie in panels of 64 columns,
   (m / 64, n, 64); those of a and after silu are negated. Shapes: B texts, T new positions, R rows (texts or
   positions), C width, H query heads, K key heads, D head size, W positions of the cache (a multiple of 64),
   F hidden width of the MLP, V symbols. */

#include "kernel.h"
#include "ngram_hash.h"

typedef struct {
    const float *qkv, *gains, *out, *gate_up, *down;
    float *keys, *values; /* (B, K, W / 64, D, 64), the panels of (D, W), and (B, K, W, D) */
} Layer;

typedef struct {
    int64_t n_layer, C, H, K, D, W, F, V;
    int64_t outputs, orders, rows; /* columns of the head; n-gram lengths above 1; rows of each of them */
    const float *embedding, *added, *ngrams, *turns, *read, *head; /* all but two may be null */
    float eps;
} Model;

enum { TILE = 32, ROWS = 4, PANEL = 64 };
#if defined(__AVX512F__)
enum { LANES = 16, WIDE = 4 };
#elif defined(__AVX__)
enum { LANES = 8, WIDE = 2 };
#else
enum { LANES = 4, WIDE = 2 };
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 4")

/* `wide` vectors of columns of a product, for four rows. */
ALWAYS_INLINE void four_rows(const float *x, int64_t xs, const float *a, int64_t as, float *y, int64_t ys,
                             int64_t n, const int wide) {
    Lanes sum[ROWS][WIDE] = {0};
    for (int64_t i = 0; i < n; i++) {
        const Lanes *row = (const Lanes *)(a + i * as);
        UNROLL for (int r = 0; r < ROWS; r++)
            UNROLL for (int w = 0; w < wide; w++) sum[r][w] += x[r * xs + i] * row[w];
    }
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int w = 0; w < wide; w++) ((Lanes *)(y + r * ys))[w] = sum[r][w];
}

/* The same for one row, as four sums that do not wait for each other. */
ALWAYS_INLINE void one_row(const float *x, const float *a, int64_t as, float *y, int64_t n, const int wide) {
    Lanes sum[4][WIDE] = {0};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        UNROLL for (int k = 0; k < 4; k++)
            UNROLL for (int w = 0; w < wide; w++)
                sum[k][w] += x[i + k] * ((const Lanes *)(a + (i + k) * as))[w];
    for (; i < n; i++)
        UNROLL for (int w = 0; w < wide; w++) sum[0][w] += x[i] * ((const Lanes *)(a + i * as))[w];
    UNROLL for (int w = 0; w < wide; w++) ((Lanes *)y)[w] = (sum[0][w] + sum[1][w]) + (sum[2][w] + sum[3][w]);
}

ALWAYS_INLINE void columns(const float *x, int64_t xs, const float *a, int64_t as, float *y, int64_t ys,
                           int64_t R, int64_t n, const int wide) {
    int64_t r = 0;
    for (; r + ROWS <= R; r += ROWS) four_rows(x + r * xs, xs, a, as, y + r * ys, ys, n, wide);
    for (; r < R; r++) one_row(x + r * xs, a, as, y + r * ys, n, wide);
}

/* y (R, m) = x (R, n) times a (n, m), of a few columns; the rows of each are xs, as and ys apart. */
static void product_of_panel(const float *x, int64_t xs, const float *a, int64_t as, float *y, int64_t ys,
                             int64_t R, int64_t n, int64_t m) {
    int64_t j = 0;
    for (; j + WIDE * LANES <= m; j += WIDE * LANES) columns(x, xs, a + j, as, y + j, ys, R, n, WIDE);
    for (; j + 2 * LANES <= m; j += 2 * LANES) columns(x, xs, a + j, as, y + j, ys, R, n, 2);
    for (; j + LANES <= m; j += LANES) columns(x, xs, a + j, as, y + j, ys, R, n, 1);
    for (; j < m; j++)
        for (int64_t r = 0; r < R; r++) {
            float sum = 0;
            for (int64_t i = 0; i < n; i++) sum += x[r * xs + i] * a[i * as + j];
            y[r * ys + j] = sum;
        }
}

/* The same of a matrix in panels. */
static void product(const float *x, int64_t xs, const float *a, float *y, int64_t ys, int64_t R, int64_t n,
                    int64_t m) {
    for (int64_t j = 0; j < m; j += PANEL)
        product_of_panel(x, xs, a + j * n, PANEL, y + j, ys, R, n, lesser(PANEL, m - j));
}

static void normalise(const float *x, float *y, int64_t R, int64_t n, float eps) {
    for (; R; R--, x += n, y += n) {
        float sum = 0;
        for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
        const float scale = 1 / sqrtf(sum / n + eps);
        for (int64_t i = 0; i < n; i++) y[i] = x[i] * scale;
    }
}

static void add(float *restrict x, const float *restrict y, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] += y[i];
}

static int known(const Model *m, int64_t id) { return id >= 0 && id < m->V; }

/* The embedding of `*id`, with `before` ids in front of it, and of the n-grams that end there. */
static void embed(const Model *m, const int64_t *id, int64_t before, float *x) {
    memcpy(x, m->embedding + (known(m, *id) ? *id : m->V) * m->C, m->C * sizeof *x);
    if (m->added) add(x, m->added + before * m->C, m->C);
    uint64_t key = *id;
    for (int64_t i = 0; i < m->orders && i < before && known(m, id[-i]) && known(m, id[-i - 1]); i++)
        add(x, m->ngrams + ngram_row(&key, id[-i - 1], i, m->rows) * m->C, m->C);
}

/* Normalise one head (D), and rotate it for its position; every `step`-th number of y is written. */
static void norm_and_rotate(const Model *m, float *x, const float *gain, int64_t position, float *y,
                            int64_t step) {
    normalise(x, x, 1, m->D, m->eps);
    for (int64_t d = 0; d < m->D; d++) x[d] *= gain[d];
    if (m->turns) {
        const float *turn = m->turns + position * m->D;
        for (int64_t d = 0; d < m->D; d += 2) {
            const float first = x[d], second = x[d + 1];
            x[d] = first * turn[d] - second * turn[d + 1];
            x[d + 1] = second * turn[d] + first * turn[d + 1];
        }
    }
    for (int64_t d = 0; d < m->D; d++) y[d * step] = x[d];
}

/* The softmax of w[0] to w[seen - 1]; from there to w[end - 1], end a multiple of LANES, zeros. */
static void softmax(float *w, int64_t seen, int64_t end) {
    float highest[LANES], sum = 0;
    for (int64_t s = seen; s < end; s++) w[s] = -INFINITY;
    memcpy(highest, w, sizeof highest);
    for (int64_t s = LANES; s < end; s += LANES)
        for (int j = 0; j < LANES; j++) highest[j] = w[s + j] > highest[j] ? w[s + j] : highest[j];
    for (int j = 1; j < LANES; j++) highest[0] = highest[j] > highest[0] ? highest[j] : highest[0];
    for (int64_t s = 0; s < end; s++) sum += w[s] = fast_exp(w[s] - highest[0]);
    const float scale = 1 / sum;
    for (int64_t s = 0; s < end; s++) w[s] *= scale;
}

/* Attention of n queries (n, D) `apart` from each other over keys (D, W) and values (W, D): the i-th query
   reads the first seen + i * more of them. */
static void attend(const Model *m, const float *q, int64_t apart, int64_t n, const float *keys,
                   const float *values, int64_t seen, int64_t more, float *weights, float *found,
                   int64_t found_apart) {
    const int64_t last = seen + (n - 1) * more, end = (last + LANES - 1) / LANES * LANES;
    product(q, apart, keys, weights, m->W, n, m->D, end);
    for (int64_t i = 0; i < n; i++) softmax(weights + i * m->W, seen + i * more, end);
    product_of_panel(weights, m->W, values, m->D, found, found_apart, n, last, m->D);
}

/* Buffers of one thread: x for one text or TILE rows, the others for TILE rows; `hidden` has 3 F or V
   numbers a row, `weights` TILE or H rows of W. */
typedef struct {
    float *x, *y, *qkv, *found, *hidden, *weights;
} Room;

/* Some rows of a batch: from which one on, how many, and where they stand in their texts. */
typedef struct {
    int64_t first, R, T, at;
} Rows;

static int64_t text_of(Rows rows, int64_t r) { return (rows.first + r) / rows.T; }
static int64_t position_of(Rows rows, int64_t r) { return rows.at + (rows.first + r) % rows.T; }

/* Queries, keys and values of rows x; queries stay in room->qkv unless only_keys, keys and values go into the
   cache. */
static void project(const Model *m, const Layer *layer, const float *x, Room *room, Rows rows,
                    int only_keys) {
    const int64_t C = m->C, H = m->H, K = m->K, D = m->D, W = m->W, wide = (H + 2 * K) * D;
    const int64_t skipped = only_keys ? H * D / PANEL * PANEL : 0; /* columns */
    normalise(x, room->y, rows.R, C, m->eps);
    product(room->y, C, layer->qkv + skipped * C, room->qkv + skipped, wide, rows.R, C, wide - skipped);
    for (int64_t r = 0; r < rows.R; r++) {
        float *q = room->qkv + r * wide, *k = q + H * D, *v = k + K * D;
        const int64_t text = text_of(rows, r), position = position_of(rows, r);
        for (int64_t h = 0; h < H && !only_keys; h++)
            norm_and_rotate(m, q + h * D, layer->gains + h * D, position, q + h * D, 1);
        for (int64_t i = 0; i < K; i++) {
            const int64_t head = (text * K + i) * W * D;
            norm_and_rotate(m, k + i * D, layer->gains + (H + i) * D, position,
                            layer->keys + head + position / PANEL * PANEL * D + position % PANEL, PANEL);
            memcpy(layer->values + head + position * D, v + i * D, D * sizeof *v);
        }
    }
}

/* Add the attention output of rows x, whose queries are in room->qkv. One head of successive positions of a
   text is computed at once, or, of one position of each text, all query heads that share a key head. */
static void add_attention(const Model *m, const Layer *layer, float *x, Room *room, Rows rows) {
    const int64_t H = m->H, K = m->K, D = m->D, G = H / K, wide = (H + 2 * K) * D;
    const int one_text = rows.T > 1;
    const int64_t n = one_text ? rows.R : G, apart = one_text ? wide : D, found_apart = one_text ? H * D : D;
    for (int64_t r = 0; r < rows.R; r += one_text ? rows.R : 1)
        for (int64_t h = 0; h < H; h += one_text ? 1 : G) {
            const int64_t cache = (text_of(rows, r) * K + h / G) * m->W * D, seen = position_of(rows, r) + 1;
            attend(m, room->qkv + r * wide + h * D, apart, n, layer->keys + cache, layer->values + cache,
                   seen, one_text, room->weights, room->found + (r * H + h) * D, found_apart);
        }
    product(room->found, H * D, layer->out, room->y, m->C, rows.R, H * D, m->C);
    add(x, room->y, rows.R * m->C);
}

/* Add the MLP's output to R rows x. */
static void add_mlp(const Model *m, const Layer *layer, float *x, Room *room, int64_t R) {
    const int64_t C = m->C, F = m->F;
    float *activated = room->hidden + R * 2 * F;
    normalise(x, room->y, R, C, m->eps);
    product(room->y, C, layer->gate_up, room->hidden, 2 * F, R, C, 2 * F);
    for (int64_t r = 0; r < R; r++) {
        const float *gate = room->hidden + r * 2 * F, *up = gate + F;
        float *restrict to = activated + r * F;
        for (int64_t f = 0; f < F; f++) to[f] = gate[f] * up[f] / (1 + fast_exp(gate[f] > 87 ? 87 : gate[f]));
    }
    product(activated, F, layer->down, room->y, C, R, F, C);
    add(x, room->y, R * C);
}

/* The embeddings x of some rows, given the prior's log p (rows, V), unless null. */
static void embed_rows(const Model *m, const int64_t *ids, int64_t stride, const float *log_p, Room *room,
                       Rows rows, float *x) {
    for (int64_t r = 0; r < rows.R; r++)
        embed(m, ids + text_of(rows, r) * stride + position_of(rows, r), position_of(rows, r), x + r * m->C);
    if (!log_p) return;
    for (int64_t i = 0; i < rows.R * m->V; i++) room->hidden[i] = fast_exp(log_p[i] / 2);
    product(room->hidden, m->V, m->read, room->y, m->C, rows.R, m->V, m->C);
    add(x, room->y, rows.R * m->C);
}

/* Logits (R, outputs) of R rows x; with log p (R, V), `apart` from row to row, V of them, then w norm(x). */
static void predict(const Model *m, const float *x, const float *log_p, int64_t apart, Room *room, int64_t R,
                    float *logits) {
    normalise(x, room->y, R, m->C, m->eps);
    product(room->y, m->C, m->head, logits, m->outputs, R, m->C, m->outputs);
    for (; log_p && R; R--, log_p += apart, logits += m->outputs)
        for (int64_t v = 0; v < m->V; v++) logits[v] += (1 + logits[m->V]) * log_p[v];
}

/* Read texts `first` to `first + B - 1`: several by one id, or one by several. */
static void read_texts(const Model *m, const Layer *layers, const int64_t *ids, int64_t stride, int64_t first,
                       int64_t B, int64_t T, int64_t at, const float *log_p, Room *room, float *logits) {
    const int64_t C = m->C, R = B * T;
    float *x = room->x;
    for (int64_t r = 0; r < R; r += TILE) {
        const Rows rows = {first * T + r, lesser(TILE, R - r), T, at};
        embed_rows(m, ids, stride, log_p ? log_p + rows.first * m->V : 0, room, rows, x + r * C);
    }
    for (int64_t l = 0; l < m->n_layer; l++) {
        const int last = T > 1 && l == m->n_layer - 1; /* where only the last position reads the others */
        for (int64_t r = 0; r < R; r += TILE) {
            const Rows rows = {first * T + r, lesser(TILE, R - r), T, at};
            project(m, layers + l, x + r * C, room, rows, last);
            if (last) continue;
            add_attention(m, layers + l, x + r * C, room, rows);
            add_mlp(m, layers + l, x + r * C, room, rows.R);
        }
        if (!last) continue;
        const Rows end = {first, 1, 1, at + T - 1};
        x += (R - 1) * C;
        project(m, layers + l, x, room, end, 0);
        add_attention(m, layers + l, x, room, end);
        add_mlp(m, layers + l, x, room, 1);
    }
    const float *log_p_of_last = log_p ? log_p + (first * T + T - 1) * m->V : 0;
    predict(m, x, log_p_of_last, T * m->V, room, B, logits + first * m->outputs);
}

/* Logits (B, outputs) after the last of ids, whose texts are `stride` apart, with T new ids each, from
   position `at` on, and the prior's log p (B, T, V) after each of them, or null. `room` is a buffer of
   room_size numbers for each of `threads`. A text is computed alike whatever their number. */
void EXPORT(next_logits)(const Model *m, const Layer *layers, const int64_t *ids, int64_t stride, int64_t B,
                         int64_t T, int64_t at, const float *log_p, float *room, int64_t room_size,
                         int64_t threads, float *logits) {
    const int64_t texts = T > 1 ? 1 : TILE, parts = (B + texts - 1) / texts, wide = (m->H + 2 * m->K) * m->D;
    _Pragma("omp parallel for num_threads(threads) schedule(static)")
    for (int64_t thread = 0; thread < threads; thread++) {
        Room own = {.y = room + thread * room_size};
        own.qkv = own.y + TILE * m->C;
        own.found = own.qkv + TILE * wide;
        own.hidden = own.found + TILE * m->H * m->D;
        own.weights = own.hidden + TILE * (3 * m->F > m->V ? 3 * m->F : m->V);
        own.x = own.weights + (m->H > TILE ? m->H : TILE) * m->W;
        for (int64_t i = parts * thread / threads; i < parts * (thread + 1) / threads; i++) {
            const int64_t first = i * texts;
            read_texts(m, layers, ids, stride, first, lesser(texts, B - first), T, at, log_p, &own, logits);
        }
    }
}
