'use strict';

// The transformer (charlm/model/transformer.py), reading a text by the context rule (charlm/inference/context.py).
//
// The symbol at t is predicted from text[s(t) : t], s(t) = h max(0, ceil((t - W) / h)): when the window of W = blockSize
// positions is full, its last symbols are read again from position 0. A model that carries its state reads on instead.
// Axes: n positions read at once, V symbols, C width, F hidden width of the feed-forward layer.

const MIXERS = {
  attention: Attention,
  'simple-attention': SimpleAttention,
  convolution: Convolution,
  recurrent: Recurrent,
};
const TILE = 16; // positions computed at once; the generator pauses between tiles
const MOST_NGRAM = 8; // the longest n-gram that has an embedding
const MULTIPLIERS = [1000003n, -7046029254386353131n];

/** A transformer block: norm, mixer, norm, SwiGLU, with residuals. */
class Block {
  constructor(config, name, weight, positions) {
    const C = config.nEmbd;
    const hidden = Math.ceil((8 * C) / 3 / 16) * 16;
    const own = (rest, ...shape) => weight(`mixer.${rest}`, ...shape);
    this.nEmbd = C;
    this.hidden = hidden;
    this.mixer = new MIXERS[name](config, own, positions, TILE);
    this.mixerNorm = weight('mixer_norm.weight', C);
    this.mlpNorm = weight('mlp_norm.weight', C);
    this.gateUp = weight('mlp.gate_up.weight', 2 * hidden, C);
    this.down = weight('mlp.down.weight', C, hidden);
    this.normed = new Float64Array(TILE * C);
    this.mixed = new Float64Array(TILE * C);
    this.both = new Float64Array(TILE * 2 * hidden);
    this.gated = new Float64Array(TILE * hidden);
  }

  /** Update x (n, C), the positions of a window from `first` on, in place. */
  run(state, x, n, first, trace) {
    const { nEmbd: C, hidden: F, normed, mixed, both, gated } = this;
    for (let t = 0; t < n; t++) rmsNorm(normed, t * C, x, t * C, this.mixerNorm, C);
    this.mixer.run(state, normed, n, first, mixed, trace);
    for (let i = 0; i < n * C; i++) x[i] += mixed[i];
    for (let t = 0; t < n; t++) rmsNorm(normed, t * C, x, t * C, this.mlpNorm, C);
    multiply(both, normed, this.gateUp, n, 2 * F, C);
    for (let t = 0; t < n; t++) {
      for (let i = 0; i < F; i++) {
        const gate = both[t * 2 * F + i];
        gated[t * F + i] = gate * sigmoid(gate) * both[t * 2 * F + F + i];
      }
    }
    multiply(mixed, gated, this.down, n, C, F);
    for (let i = 0; i < n * C; i++) x[i] += mixed[i];
  }
}

/** Learned vectors for the last few symbols, found by a hash; most rows are zero and not stored. */
class NgramEmbeddings {
  constructor(config, nSymbols, rows, stored) {
    this.orders = config.ngramEmbeddings - 1;
    this.rowsOfOrder = config.ngramEmbeddingRows;
    this.nSymbols = nSymbols;
    this.nEmbd = config.nEmbd;
    this.rows = rows;
    /** The index of each row of the table among those stored, -1 for zero rows. */
    this.places = new Int32Array(this.orders * this.rowsOfOrder + 1);
    let found = 0;
    for (let r = 0; r < this.places.length; r++) this.places[r] = (stored[r >> 3] >> (r & 7)) & 1 ? found++ : -1;
    if (found * this.nEmbd !== rows.length) {
      throw new PageError('The model in this page is damaged: its n-gram embeddings do not fit. Get the page again.');
    }
  }

  /**
   * Add the vectors of the n-grams that end at ids[at] to x[to ...]; none reaches before ids[at - back].
   * @param {(back: number) => number} idAt the id so many positions back
   */
  add(x, to, idAt, back) {
    const { nEmbd: C, rows, rowsOfOrder } = this;
    const mask = BigInt(rowsOfOrder - 1);
    let key = BigInt(idAt(0));
    if (idAt(0) >= this.nSymbols) return;
    for (let i = 0; i < Math.min(this.orders, back); i++) {
      const before = idAt(i + 1);
      if (before >= this.nSymbols) return;
      key = BigInt.asIntN(64, key * MULTIPLIERS[0] + BigInt(before) + 1n);
      const row = Number((BigInt.asIntN(64, key * MULTIPLIERS[1]) >> 40n) & mask) + i * rowsOfOrder;
      const from = this.places[row] * C;
      if (from < 0) continue;
      for (let c = 0; c < C; c++) x[to + c] += rows[from + c];
    }
  }
}

class Transformer {
  /**
   * @param {object} config of the header's `transformers`
   * @param {number} nSymbols
   * @param {(name: string, ...shape: number[]) => Float32Array} weight the array of that name and shape
   * @param {Uint8Array | null} stored which rows of the n-gram embeddings are stored, as bits
   */
  constructor(config, nSymbols, weight, stored) {
    const { nEmbd: C, nLayer, mixers } = config;
    this.config = config;
    this.nSymbols = nSymbols;
    this.temperature = 1;
    this.embedding = weight('embedding.weight', nSymbols, C);
    this.ngrams =
      config.ngramEmbeddings > 1 ? new NgramEmbeddings(config, nSymbols, weight('ngrams.table', null, C), stored) : null;
    this.positions = new Positions(config, weight);
    this.blocks = Array.from(
      { length: nLayer },
      (_, i) =>
        new Block(config, mixers[i % mixers.length], (rest, ...shape) => weight(`blocks.${i}.${rest}`, ...shape), this.positions),
    );
    this.norm = weight('norm.weight', C);
    this.prior = config.prior ? { gate: weight('prior.gate', 1, C), read: weight('prior.read', C, nSymbols) } : null;
    this.x = new Float64Array(TILE * C);
    this.hidden = new Float64Array(C);
    this.logits = new Float64Array(nSymbols);
    this.roots = new Float64Array(nSymbols);
  }

  /** s(t): where the context of the symbol at t begins. */
  contextStart(t) {
    const { blockSize, carriesState } = this.config;
    if (carriesState) return 0;
    const stride = Math.max(1, Math.floor(blockSize / 2));
    return stride * Math.max(0, Math.ceil((t - blockSize) / stride));
  }

  /** Compute what the prior adds to an embedding: R sqrt(p), to out[to ...], from log p at logPrior[from ...]. */
  readPrior(logPrior, from, out, to) {
    const { roots, nSymbols, config } = this;
    for (let v = 0; v < nSymbols; v++) roots[v] = nSymbols > 1 ? Math.exp(logPrior[from + v] / 2) : 0;
    multiplyOne(out, to, roots, 0, this.prior.read, config.nEmbd, nSymbols);
  }

  /** Logits of the next symbol, to out[to ...], from the last block's x[at ...] and log p at logPrior[from ...]. */
  head(x, at, logPrior, from, out, to) {
    const { hidden, logits, nSymbols, config, temperature } = this;
    const C = config.nEmbd;
    rmsNorm(hidden, 0, x, at, this.norm, C);
    multiplyOne(logits, 0, hidden, 0, this.embedding, nSymbols, C);
    if (this.prior !== null) {
      let gate = 1;
      for (let c = 0; c < C; c++) gate += this.prior.gate[c] * hidden[c];
      for (let v = 0; v < nSymbols; v++) logits[v] += gate * logPrior[from + v];
    }
    for (let v = 0; v < nSymbols; v++) out[to + v] = logits[v] / temperature;
  }
}

/** One text that a transformer reads. */
class TransformerText {
  /**
   * @param {Transformer} model
   * @param {number} begin symbols that were skipped
   */
  constructor(model, begin = 0) {
    this.model = model;
    this.length = begin; // symbols so far
    this.start = model.contextStart(begin + 1); // where the window begins
    this.cached = 0; // positions of the window that the states hold
    this.states = model.blocks.map((block) => block.mixer.newState());
    this.room = model.config.blockSize + MOST_NGRAM;
    this.ids = new Int32Array(this.room); // a ring buffer of the last ones
    this.ofPrior = model.prior === null ? null : new Float32Array(this.room * model.config.nEmbd);
  }

  /**
   * Read ids, and write the logits after each of them: out (n, V). A generator: it pauses after every tile.
   * @param {Int32Array} ids
   * @param {Float32Array | null} logPrior the n-gram model's log-probabilities after each id: (n, V)
   * @param {boolean} wanted whether `out` is needed
   * @param {Float32Array} out
   * @param {object | null} trace records what the layers do at the last id
   */
  *read(ids, logPrior, wanted, out, trace) {
    const { model } = this;
    const { blockSize, nEmbd, carriesState } = model.config;
    const V = model.nSymbols;
    for (let done = 0; done < ids.length; ) {
      const start = model.contextStart(this.length + 1);
      const first = this.length;
      const from = done;
      do {
        const slot = this.length % this.room;
        this.ids[slot] = ids[done];
        if (this.ofPrior !== null) model.readPrior(logPrior, done * V, this.ofPrior, slot * nEmbd);
        this.length++;
        done++;
      } while (done < ids.length && done - from < blockSize && model.contextStart(this.length + 1) === start);
      if (start !== this.start) this.restart(start);
      if (wanted || carriesState) yield* this.compute(first, from, logPrior, wanted, out, trace);
    }
  }

  /** Begin a new window, clearing the states. */
  restart(start) {
    this.start = start;
    this.cached = 0;
    this.states.forEach((state, i) => this.model.blocks[i].mixer.reset(state));
  }

  /** Compute the positions that the states lack; row `from` of out belongs to the symbol at `first`, the next to the next. */
  *compute(first, from, logPrior, wanted, out, trace) {
    const { model } = this;
    const { x, blocks, nSymbols: V } = model;
    const C = model.config.nEmbd;
    while (this.start + this.cached < this.length) {
      const at = this.start + this.cached;
      const n = Math.min(TILE, this.length - at);
      for (let t = 0; t < n; t++) this.embed(at + t, x, t * C);
      const traced = at + n === this.length ? trace : null;
      const last = (from + this.length - 1 - first) * V;
      traced?.embedded(model, x, (n - 1) * C, logPrior, last);
      blocks.forEach((block, i) => {
        block.run(this.states[i], x, n, this.cached, traced === null ? null : traced.layer());
        traced?.embedded(model, x, (n - 1) * C, logPrior, last);
      });
      this.cached += n;
      for (let t = 0; wanted && t < n; t++) {
        const row = from + at + t - first;
        if (at + t >= first) model.head(x, t * C, logPrior, row * V, out, row * V);
      }
      yield;
    }
  }

  /** Compute the embedding of the symbol at a position, with all that is added to it: x[to ...]. */
  embed(place, x, to) {
    const { model, room, ids } = this;
    const C = model.config.nEmbd;
    const position = place - this.start;
    const id = ids[place % room];
    if (id < model.nSymbols) for (let c = 0; c < C; c++) x[to + c] = model.embedding[id * C + c];
    else x.fill(0, to, to + C);
    model.ngrams?.add(x, to, (back) => ids[(place - back) % room], position);
    const { added } = model.positions;
    if (added !== null) for (let c = 0; c < C; c++) x[to + c] += added[position * C + c];
    if (this.ofPrior === null) return;
    const prior = (place % room) * C;
    for (let c = 0; c < C; c++) x[to + c] += this.ofPrior[prior + c];
  }
}
