'use strict';

// Position encodings (charlm/model/positions.py, masks.py): what is added to the embeddings, how queries and keys are
// rotated, what is added to scores. Axes: W positions of a block, H heads, D head size, C width.

const BUCKETS = 32;
const FARTHEST = 128;
const ROTARY_BASE = 10000;

/** The slope at which each head's scores fall with distance: (H). */
function alibiSlopes(nHead) {
  const power = 2 ** Math.floor(Math.log2(nHead));
  const slopes = (n) => Array.from({ length: n }, (_, i) => 2 ** ((-8 * (i + 1)) / n));
  const between = slopes(2 * power).filter((_, i) => i % 2 === 0);
  return [...slopes(power), ...between.slice(0, nHead - power)];
}

/** The bucket of a distance of relative positions. */
function relativeBucket(distance) {
  const exact = BUCKETS / 2;
  if (distance < exact) return distance;
  const grown = (Math.log(distance / exact) / Math.log(FARTHEST / exact)) * (BUCKETS - exact);
  return Math.min(BUCKETS - 1, exact + Math.trunc(grown));
}

/** The position encoding of a transformer, as tables. */
class Positions {
  /**
   * @param {object} config of the transformer
   * @param {(name: string, ...shape: number[]) => Float32Array} weight
   */
  constructor(config, weight) {
    const { position, nHead, nEmbd, blockSize, locality } = config;
    /** Added to the embeddings: (W, C), or null. */
    this.added = null;
    if (position === 'learned') this.added = weight('position.table.weight', blockSize, nEmbd);
    if (position === 'sinusoidal') this.added = sinusoidal(blockSize, nEmbd);
    /** Cosines and sines of the rotations of pairs: (W, D / 2) each, or null. */
    this.turns = position === 'rotary' ? rotaryTurns(blockSize, nEmbd / nHead) : null;
    /** Added to the scores, by head and distance: (H, W), or null. */
    this.bias = null;
    if (position === 'relative') {
      const ofBucket = weight('position.bias_of_bucket', nHead, BUCKETS);
      this.addBias(config, (head, distance) => ofBucket[head * BUCKETS + relativeBucket(distance)]);
    }
    const slopes = alibiSlopes(nHead);
    if (position === 'alibi') this.addBias(config, (head, distance) => -slopes[head] * distance);
    if (locality) {
      const scale = weight('locality.bias_scale', nHead);
      this.addBias(config, (head, distance) => -slopes[head] * Math.exp(scale[head]) * distance);
    }
  }

  addBias({ nHead, blockSize }, biasOf) {
    this.bias ??= new Float64Array(nHead * blockSize);
    for (let head = 0; head < nHead; head++) {
      for (let distance = 0; distance < blockSize; distance++) {
        this.bias[head * blockSize + distance] += biasOf(head, distance);
      }
    }
  }

  /** Rotate the heads of x (n, heads, D) in place, by their positions from `first` on. */
  rotate(x, n, heads, headSize, first) {
    if (this.turns === null) return;
    const { cos, sin } = this.turns;
    const half = headSize / 2;
    for (let t = 0; t < n; t++) {
      const turn = (first + t) * half;
      for (let head = 0; head < heads; head++) {
        const at = (t * heads + head) * headSize;
        for (let i = 0; i < half; i++) {
          const a = x[at + i];
          const b = x[at + half + i];
          x[at + i] = a * cos[turn + i] - b * sin[turn + i];
          x[at + half + i] = b * cos[turn + i] + a * sin[turn + i];
        }
      }
    }
  }
}

function sinusoidal(blockSize, nEmbd) {
  const table = new Float32Array(blockSize * nEmbd);
  for (let t = 0; t < blockSize; t++) {
    for (let i = 0; i < nEmbd; i++) {
      const angle = t * 10000 ** (-(i - (i % 2)) / nEmbd);
      table[t * nEmbd + i] = (i % 2 ? Math.cos(angle) : Math.sin(angle)) / Math.sqrt(nEmbd);
    }
  }
  return table;
}

function rotaryTurns(blockSize, headSize) {
  const half = headSize / 2;
  const cos = new Float64Array(blockSize * half);
  const sin = new Float64Array(blockSize * half);
  for (let t = 0; t < blockSize; t++) {
    for (let i = 0; i < half; i++) {
      const angle = t * ROTARY_BASE ** ((-2 * i) / headSize);
      cos[t * half + i] = Math.cos(angle);
      sin[t * half + i] = Math.sin(angle);
    }
  }
  return { cos, sin };
}
