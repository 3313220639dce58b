'use strict';

// Sample the next symbol from log-probabilities, and stop at stop texts (charlm/inference/sampling.py, charlm/rng.py).

const WORD = 64;

/** Scramble integers into 64 random bits: the finaliser of SplitMix64 after each. */
function mix(...parts) {
  let state = 0n;
  for (const part of parts) {
    state = BigInt.asUintN(WORD, (state ^ BigInt.asUintN(WORD, BigInt(part))) + 0x9e3779b97f4a7c15n);
    state = BigInt.asUintN(WORD, (state ^ (state >> 30n)) * 0xbf58476d1ce4e5b9n);
    state = BigInt.asUintN(WORD, (state ^ (state >> 27n)) * 0x94d049bb133111ebn);
    state ^= state >> 31n;
  }
  return state;
}

/** A number in [0, 1), a pure function of the integers, as in `charlm sample`. */
function uniform(...parts) {
  return Number(mix(...parts) >> 11n) * 2 ** -53;
}

/** Draws symbols by temperature, top-p and min-p. */
class Sampler {
  /**
   * @param {{temperature: number, topP: number | null, minP: number | null, seed: number | null}} settings
   * @param {number} nSymbols
   */
  constructor({ temperature, topP, minP, seed }, nSymbols) {
    checkRange('temperature', temperature, 0, 100);
    if (topP !== null) checkRange('topP', topP, 0, 1);
    if (minP !== null) checkRange('minP', minP, 0, 1);
    this.temperature = temperature;
    this.topP = topP;
    this.minP = minP;
    this.seed = seed ?? Math.floor(Math.random() * 2 ** 31);
    this.nSymbols = nSymbols;
    this.weights = new Float64Array(nSymbols);
    this.drawn = 0;
  }

  /** The next symbol, from scores[at ...]. */
  next(scores, at) {
    const { weights, nSymbols: V, temperature } = this;
    let best = 0;
    for (let v = 1; v < V; v++) if (scores[at + v] > scores[at + best]) best = v;
    if (temperature === 0) return best;
    for (let v = 0; v < V; v++) weights[v] = Math.exp((scores[at + v] - scores[at + best]) / temperature);
    if (this.topP !== null || this.minP !== null) this.cut();
    let total = 0;
    for (let v = 0; v < V; v++) total += weights[v];
    const target = uniform(this.seed, 0, this.drawn++) * total;
    let sum = 0;
    let chosen = 0;
    for (let v = 0; v < V && sum <= target; v++) {
      if (weights[v] > 0) chosen = v; // rounding must not choose a symbol of weight 0
      sum += weights[v];
    }
    return chosen;
  }

  /** Zero the weights of symbols that top-p and min-p exclude. */
  cut() {
    const { weights, topP, minP } = this;
    let total = 0;
    for (const weight of weights) total += weight;
    const order = Array.from(weights.keys()).sort((a, b) => weights[b] - weights[a] || a - b);
    const least = (minP ?? 0) * weights[order[0]];
    let before = 0;
    order.forEach((v, rank) => {
      const weight = weights[v];
      const stays = rank === 0 || ((topP === null || before < topP * total) && weight >= least);
      before += weight;
      if (!stays) weights[v] = 0;
    });
  }
}

function checkRange(name, value, low, high) {
  if (typeof value !== 'number' || !(value >= low && value <= high)) {
    throw new PageError(`${name} is ${value}; allowed: ${low} to ${high}.`);
  }
}

/** Passes pieces of text through up to the first stop text, holding back what may be the beginning of one. */
class StopFilter {
  /** @param {string[]} stops */
  constructor(stops) {
    if (stops.some((stop) => stop === '')) throw new PageError('A stop text is empty; leave it out.');
    this.stops = stops;
    this.held = [];
    this.found = false;
  }

  /**
   * Take one more piece. Returns the pieces that are certain now; nothing after a stop text was found.
   * @param {{text: string, bits: number}} piece
   */
  feed(piece) {
    this.held.push(piece);
    const text = this.held.map((each) => each.text).join('');
    const found = this.stops
      .map((stop) => [text.indexOf(stop), stop.length])
      .filter(([at]) => at >= 0)
      .sort((a, b) => a[0] + a[1] - b[0] - b[1] || a[0] - b[0]);
    if (found.length > 0) {
      this.found = true;
      return this.release(found[0][0]);
    }
    let held = 0;
    for (const stop of this.stops) {
      for (let n = Math.min(stop.length - 1, text.length); n > held; n--) {
        if (text.endsWith(stop.slice(0, n))) held = n;
      }
    }
    return this.release(text.length - held);
  }

  /** Release the pieces of the first `certain` code units. */
  release(certain) {
    let length = 0;
    let n = 0;
    while (n < this.held.length && length + this.held[n].text.length <= certain) length += this.held[n++].text.length;
    return this.held.splice(0, n);
  }

  /** Release what was held back, at the end of the text. */
  flush() {
    return this.held.splice(0);
  }
}
