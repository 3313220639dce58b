'use strict';

// A Kneser-Ney n-gram model (charlm/ngram/kneser_ney.py): the distribution of the next symbol after a context.
//
// A context is represented by its places: the index of its last k symbols among the contexts of each order k, -1 for
// those never seen. Shapes: V symbols, K the highest order, X contexts and E entries of an order.

const LEAST = 2 ** -126; // the smallest probability, so that its logarithm is finite

/** One order: the entries of context x are starts[x] to starts[x + 1] - 1. */
class NgramLevel {
  /**
   * @param {number} k the order
   * @param {Map<string, object>} arrays of the packed model
   * @param {number[]} discounts of counts of 0, 1, 2, and 3 or more
   */
  constructor(k, arrays, discounts) {
    const lengths = arrayOf(arrays, `ngram.${k}.lengths`, [null]);
    this.symbols = arrayOf(arrays, `ngram.${k}.symbols`, [null]);
    this.counts = arrayOf(arrays, `ngram.${k}.counts`, [null]);
    this.discounts = Float64Array.from(discounts);
    this.starts = new Uint32Array(lengths.length + 1);
    for (let x = 0; x < lengths.length; x++) this.starts[x + 1] = this.starts[x] + lengths[x];
    const entries = this.starts[lengths.length];
    if (this.symbols.length !== entries || this.counts.length !== entries) {
      throw new PageError('The model in this page is damaged: its n-grams do not fit together. Get the page again.');
    }
    /** The index of each entry among the contexts of the order above, -1 for none; null: its own index. */
    this.longer = null;
  }

  /** Read the bits that say which entries are contexts of the order above. */
  leadTo(bits) {
    this.longer = new Int32Array(this.symbols.length);
    let places = 0;
    for (let e = 0; e < this.longer.length; e++) this.longer[e] = (bits[e >> 3] >> (e & 7)) & 1 ? places++ : -1;
  }

  /**
   * The index, in the order above, of context x followed by a symbol; -1: never seen.
   * @param {number} x
   * @param {number} symbol
   */
  step(x, symbol) {
    const { symbols } = this;
    let low = this.starts[x];
    let n = this.starts[x + 1] - low;
    while (n > 1) {
      const half = n >> 1;
      if (symbols[low + half] <= symbol) low += half;
      n -= half;
    }
    if (n < 1 || symbols[low] !== symbol) return -1;
    return this.longer === null ? low : this.longer[low];
  }
}

class KneserNey {
  /**
   * @param {number} nSymbols
   * @param {object} stored the header's `ngram`
   * @param {Map<string, object>} arrays
   */
  constructor(nSymbols, stored, arrays) {
    this.nSymbols = nSymbols;
    this.levels = stored.discounts.map((discounts, k) => new NgramLevel(k, arrays, discounts));
    this.order = this.levels.length - 1;
    for (let k = 1; k < this.levels.length; k++) {
      const bits = arrays.get(`ngram.${k}.contexts`);
      if (bits !== undefined) this.levels[k - 1].leadTo(bits.values);
    }
    this.weights = new Float64Array(this.levels.length);
    this.totals = new Float64Array(this.levels.length);
    this.row = new Float64Array(nSymbols);
  }

  /** The places at the beginning of a text. */
  start() {
    const places = new Int32Array(this.levels.length).fill(-1);
    if (this.levels[0].starts.length > 1) places[0] = 0;
    return places;
  }

  /**
   * Read one more symbol, updating the places (K + 1) of its context.
   * @param {Int32Array} places
   * @param {number} symbol an id; ids from V on were never seen
   */
  read(places, symbol) {
    for (let k = this.order - 1; k >= 0; k--) {
      places[k + 1] = places[k] < 0 ? -1 : this.levels[k].step(places[k], symbol);
    }
  }

  /**
   * Write the log-probabilities of the next symbol.
   * @param {Int32Array} places
   * @param {Float32Array} out out[at] to out[at + V - 1]
   * @param {number} at
   */
  logNext(places, out, at) {
    const { row, nSymbols } = this;
    this.probabilities(places);
    for (let v = 0; v < nSymbols; v++) out[at + v] = Math.log(Math.max(row[v], LEAST));
  }

  /** Fill `row` with the probabilities of the next symbol; each order leaves a part to the order below. */
  probabilities(places) {
    const { levels, row, weights, totals } = this;
    let seen = 0; // orders whose context was seen
    for (; seen < levels.length && places[seen] >= 0; seen++) {
      const { starts, counts, discounts } = levels[seen];
      const end = starts[places[seen] + 1];
      let total = 0;
      let taken = 0;
      for (let e = starts[places[seen]]; e < end; e++) {
        const count = counts[e];
        total += count;
        taken += discounts[count < 3 ? count : 3];
      }
      totals[seen] = total;
      weights[seen] = taken / total;
    }
    let weight = 1;
    for (let k = seen - 1; k >= 0; k--) {
      const left = weights[k];
      weights[k] = weight / totals[k];
      weight *= left;
    }
    row.fill(weight / this.nSymbols);
    for (let k = 0; k < seen; k++) {
      const { starts, counts, symbols, discounts } = levels[k];
      const end = starts[places[k] + 1];
      for (let e = starts[places[k]]; e < end; e++) {
        const count = counts[e];
        row[symbols[e]] += (count - discounts[count < 3 ? count : 3]) * weights[k];
      }
    }
  }
}
