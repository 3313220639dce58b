'use strict';

// Attention with a cache of keys and values (charlm/model/attention.py, kv_cache.py).
//
// A mixer maps x (n, C), the next positions of a window, to out (n, C), and adds them to its state:
//   newState() -> state;  reset(state);  run(state, x, n, first, out, trace), `first` being the position of the first one.
// Axes: n new positions, S positions in the cache, H heads, K heads of keys and values, D head size, C = H D.

/** Learned queries, keys and values. */
class Attention {
  /**
   * @param {object} config of the transformer
   * @param {(name: string, ...shape: number[]) => Float32Array} weight
   * @param {Positions} positions
   * @param {number} most positions that are read at once
   */
  constructor(config, weight, positions, most) {
    this.config = config;
    this.positions = positions;
    const { nEmbd: C, nHead, nKvHead } = config;
    this.headSize = C / nHead;
    this.nKvHead = nKvHead;
    this.width = C + 2 * nKvHead * this.headSize;
    this.qkv = weight('qkv.weight', this.width, C);
    this.qNorm = weight('q_norm.weight', this.headSize);
    this.kNorm = weight('k_norm.weight', this.headSize);
    this.out = weight('out.weight', C, C);
    this.projected = new Float64Array(most * this.width);
    this.queries = new Float64Array(most * C);
    this.keys = new Float64Array(most * nKvHead * this.headSize);
    this.values = new Float64Array(most * nKvHead * this.headSize);
    this.attended = new Float64Array(most * C);
    this.attend = new Attend(config, nKvHead, positions);
  }

  newState() {
    return this.attend.newState();
  }

  reset() {}

  run(state, x, n, first, out, trace) {
    const { nEmbd: C, nHead } = this.config;
    const { projected, queries, keys, values, headSize, nKvHead, width } = this;
    const kvSize = nKvHead * headSize;
    multiply(projected, x, this.qkv, n, width, C);
    for (let t = 0; t < n; t++) {
      const from = t * width;
      for (let head = 0; head < nHead; head++) {
        rmsNorm(queries, t * C + head * headSize, projected, from + head * headSize, this.qNorm, headSize);
      }
      for (let head = 0; head < nKvHead; head++) {
        rmsNorm(keys, t * kvSize + head * headSize, projected, from + C + head * headSize, this.kNorm, headSize);
      }
      for (let i = 0; i < kvSize; i++) values[t * kvSize + i] = projected[from + C + kvSize + i];
    }
    this.attend.run(state, queries, keys, values, n, first, this.attended, trace);
    multiply(out, this.attended, this.out, n, C, C);
  }
}

/** Parameter-free attention: queries, keys and values are all the input. */
class SimpleAttention {
  constructor(config, weight, positions, most) {
    this.config = config;
    this.positions = positions;
    this.queries = new Float64Array(most * config.nEmbd);
    this.keys = new Float64Array(most * config.nEmbd);
    this.attend = new Attend(config, config.nHead, positions);
  }

  newState() {
    return this.attend.newState();
  }

  reset() {}

  run(state, x, n, first, out, trace) {
    this.queries.set(x.subarray(0, n * this.config.nEmbd));
    this.keys.set(x.subarray(0, n * this.config.nEmbd));
    this.attend.run(state, this.queries, this.keys, x, n, first, out, trace);
  }
}

/** softmax(q k' / sqrt(D) + bias) v, over the positions in the cache. */
class Attend {
  constructor(config, nKvHead, positions) {
    this.nHead = config.nHead;
    this.nKvHead = nKvHead;
    this.headSize = config.nEmbd / config.nHead;
    this.blockSize = config.blockSize;
    this.window = config.window ?? config.blockSize;
    this.positions = positions;
    this.weights = new Float64Array(config.blockSize);
  }

  /** Buffers for the keys (rotated) and values of one block: (K, S, D) each. */
  newState() {
    const size = this.nKvHead * this.blockSize * this.headSize;
    return { keys: new Float32Array(size), values: new Float32Array(size) };
  }

  /** Attend: queries (n, H, D), which are changed, and keys and values (n, K, D) to out (n, H D). */
  run(state, queries, keys, values, n, first, out, trace) {
    const { nHead, nKvHead, headSize: D, blockSize } = this;
    this.positions.rotate(queries, n, nHead, D, first);
    this.positions.rotate(keys, n, nKvHead, D, first);
    for (let t = 0; t < n; t++) {
      for (let head = 0; head < nKvHead; head++) {
        const to = (head * blockSize + first + t) * D;
        const from = (t * nKvHead + head) * D;
        for (let i = 0; i < D; i++) {
          state.keys[to + i] = keys[from + i];
          state.values[to + i] = values[from + i];
        }
      }
    }
    const group = nHead / nKvHead;
    for (let t = 0; t < n; t++) {
      for (let head = 0; head < nHead; head++) {
        const cache = Math.floor(head / group) * blockSize * D;
        const low = Math.max(0, first + t - this.window + 1);
        this.softmax(state.keys, cache, queries, (t * nHead + head) * D, head, low, first + t);
        this.average(state.values, cache, low, first + t, out, (t * nHead + head) * D);
        if (trace !== null && t === n - 1) {
          trace.heads.push(Float64Array.from(this.weights.subarray(0, first + t + 1)).fill(0, 0, low));
        }
      }
    }
  }

  /** Fill `weights` from low to last for one query. */
  softmax(keys, cache, queries, query, head, low, last) {
    const { weights, headSize: D, blockSize } = this;
    const { bias } = this.positions;
    const scale = 1 / Math.sqrt(D);
    dots(weights, low, last + 1, keys, cache, queries, query, D);
    let most = -Infinity;
    for (let s = low; s <= last; s++) {
      let score = weights[s] * scale;
      if (bias !== null) score += bias[head * blockSize + last - s];
      weights[s] = score;
      if (score > most) most = score;
    }
    let sum = 0;
    for (let s = low; s <= last; s++) sum += weights[s] = Math.exp(weights[s] - most);
    for (let s = low; s <= last; s++) weights[s] /= sum;
  }

  /** The mean of the values from low to last by their weights: out[to ...]. */
  average(values, cache, low, last, out, to) {
    const { weights, headSize: D } = this;
    let i = 0;
    for (; i + 4 <= D; i += 4) {
      let a = 0;
      let b = 0;
      let c = 0;
      let d = 0;
      for (let s = low, at = cache + low * D + i; s <= last; s++, at += D) {
        const weight = weights[s];
        a += weight * values[at];
        b += weight * values[at + 1];
        c += weight * values[at + 2];
        d += weight * values[at + 3];
      }
      out[to + i] = a;
      out[to + i + 1] = b;
      out[to + i + 2] = c;
      out[to + i + 3] = d;
    }
    for (; i < D; i++) {
      let sum = 0;
      for (let s = low; s <= last; s++) sum += weights[s] * values[cache + s * D + i];
      out[to + i] = sum;
    }
  }
}

/** Products of the keys from `low` up to `end` with one query: out[low ...], four keys at a time. */
function dots(out, low, end, keys, cache, queries, query, D) {
  let s = low;
  for (; s + 4 <= end; s += 4) {
    const k0 = cache + s * D;
    const k1 = k0 + D;
    const k2 = k1 + D;
    const k3 = k2 + D;
    let a = 0;
    let b = 0;
    let c = 0;
    let d = 0;
    for (let i = 0; i < D; i++) {
      const q = queries[query + i];
      a += q * keys[k0 + i];
      b += q * keys[k1 + i];
      c += q * keys[k2 + i];
      d += q * keys[k3 + i];
    }
    out[s] = a;
    out[s + 1] = b;
    out[s + 2] = c;
    out[s + 3] = d;
  }
  for (; s < end; s++) {
    let sum = 0;
    for (let i = 0; i < D; i++) sum += queries[query + i] * keys[cache + s * D + i];
    out[s] = sum;
  }
}
