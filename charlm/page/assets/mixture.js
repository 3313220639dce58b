'use strict';

// Combines the members of a run into one distribution (charlm/model/mixture.py). Axes: M members, V symbols, F = 2 M features.

const FLOOR = -1e4; // the lowest logarithm of a probability relative to the highest

/** Normalise scores to log-probabilities: out[to ...] from scores[from ...], V of each; they may be the same. */
function logNormalise(scores, from, out, to, V) {
  let most = -Infinity;
  for (let v = 0; v < V; v++) if (scores[from + v] > most) most = scores[from + v];
  let sum = 0;
  for (let v = 0; v < V; v++) {
    const shifted = Math.max(scores[from + v] - most, FLOOR);
    out[to + v] = shifted;
    sum += Math.exp(shifted);
  }
  const log = Math.log(sum);
  for (let v = 0; v < V; v++) out[to + v] -= log;
}

/** A logarithmic opinion pool, whose weights depend on how certain each member is. */
class Mixture {
  /**
   * @param {object} stored the header's `mixture`
   * @param {number} nSymbols
   */
  constructor(stored, nSymbols) {
    this.nTransformers = stored.nTransformers;
    this.ngram = stored.ngram;
    this.bias = stored.bias;
    this.weights = stored.weights;
    this.nMembers = stored.bias.length;
    this.nSymbols = nSymbols;
    this.logps = new Float64Array(this.nMembers * nSymbols);
    this.features = new Float64Array(2 * this.nMembers);
  }

  /**
   * Write the log-probabilities of the pool: out[at ...] from the scores of each member at scores[i][at ...].
   * @param {Float32Array[]} scores of each member
   * @param {number} at
   * @param {Float32Array} out
   */
  pool(scores, at, out) {
    const { logps, features, nSymbols: V, nMembers: M } = this;
    for (let i = 0; i < M; i++) {
      logNormalise(scores[i], at, logps, i * V, V);
      let entropy = 0;
      let most = 0;
      for (let v = i * V; v < (i + 1) * V; v++) {
        const p = Math.exp(logps[v]);
        entropy -= p * logps[v];
        if (p > most) most = p;
      }
      features[2 * i] = entropy;
      features[2 * i + 1] = most;
    }
    for (let v = 0; v < V; v++) out[at + v] = 0;
    for (let i = 0; i < M; i++) {
      let share = this.bias[i];
      for (let f = 0; f < 2 * M; f++) share += this.weights[i][f] * features[f];
      for (let v = 0; v < V; v++) out[at + v] += share * logps[i * V + v];
    }
    logNormalise(out, at, out, at, V);
  }
}
