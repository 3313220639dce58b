'use strict';

// Recent n-grams (charlm/model/recent_ngrams.py): what followed the last few symbols earlier in the same text.

const LENGTHS = [1, 2, 3, 4, 5, 6, 8, 12, 16];
const LONGEST = 16;
const PLACES = 3;
const DISCOUNT = 0.8;

/** The logarithm of the sum of the first n probabilities. */
function logSum(row, n) {
  let most = -Infinity;
  for (let v = 0; v < n; v++) if (row[v] > most) most = row[v];
  let sum = 0;
  for (let v = 0; v < n; v++) sum += Math.exp(row[v] - most);
  return most + Math.log(sum);
}

class RecentNgrams {
  /** @param {{chars: number, strength: number, shortest: number, temperature: number}} stored the mixture's `recent` */
  constructor(stored, nSymbols) {
    this.chars = stored.chars;
    this.strength = stored.strength;
    this.shortest = stored.shortest;
    this.temperature = stored.temperature;
    this.nSymbols = nSymbols;
  }

  /**
   * Correct the log-probabilities `row` of the symbol at ids[at], in place, by recent n-grams, and flatten them by the
   * temperature.
   * @param {Float64Array} row
   * @param {Int32Array} ids
   * @param {number} at
   */
  correct(row, ids, at) {
    this.addFollowers(row, ids, at);
    if (this.temperature === 1) return;
    const total = logSum(row, this.nSymbols); // bytes that training never saw keep their probability
    for (let v = 0; v < this.nSymbols; v++) row[v] /= this.temperature;
    const lost = total - logSum(row, this.nSymbols);
    for (let v = 0; v < this.nSymbols; v++) row[v] += lost;
  }

  addFollowers(row, ids, at) {
    const added = new Map();
    let kept = 1;
    for (const follow of this.followers(ids, Math.max(0, at - this.chars), at)) {
      const counts = new Map();
      for (const symbol of follow) counts.set(symbol, (counts.get(symbol) ?? 0) + 1);
      const total = follow.length + this.strength;
      const share = (this.strength + DISCOUNT * counts.size) / total;
      kept *= share;
      for (const [symbol, p] of added) added.set(symbol, p * share);
      for (const [symbol, count] of counts) added.set(symbol, (added.get(symbol) ?? 0) + (count - DISCOUNT) / total);
    }
    if (added.size === 0) return;
    const lowered = Math.log(kept);
    const raised = [...added].map(([symbol, p]) => [symbol, Math.log(kept * Math.exp(row[symbol]) + p)]);
    for (let v = 0; v < row.length; v++) row[v] += lowered;
    for (const [symbol, logp] of raised) row[symbol] = logp;
  }

  /** What followed the last n symbols, for each of LENGTHS that occurred from ids[low] on; the most recent first. */
  followers(ids, low, at) {
    const { shortest, nSymbols } = this;
    const found = LENGTHS.map(() => []);
    const last = ids[at - 1];
    for (let p = at - 1; p >= low + shortest && found[LENGTHS.length - 1].length < PLACES; p--) {
      if (ids[p - 1] !== last || ids[p] >= nSymbols) continue;
      const most = Math.min(LONGEST, p - low);
      let same = 1;
      while (same < most && ids[p - 1 - same] === ids[at - 1 - same]) same++;
      if (same < shortest) continue;
      LENGTHS.forEach((length, o) => {
        if (length >= shortest && length <= same && found[o].length < PLACES) found[o].push(ids[p]);
      });
    }
    return found.filter((follow) => follow.length > 0);
  }
}
