'use strict';

// The inner loops. Axes: n positions, R rows of a matrix, C its columns. Weights are Float32Array, by rows; results
// are Float64Array, which spares the processor a conversion for each number.

const NORM_EPS = 1e-6;

/**
 * Multiply a matrix (R, C) with n vectors: out (n, R) from x (n, C). Weights are read once for four vectors, or
 * vectors once for four rows.
 * @param {Float64Array} out
 * @param {Float64Array} x
 * @param {Float32Array} w
 * @param {number} n
 * @param {number} R
 * @param {number} C
 */
function multiply(out, x, w, n, R, C) {
  let t = 0;
  for (; t + 4 <= n; t += 4) multiplyFour(out, x, w, t, R, C);
  for (; t < n; t++) multiplyOne(out, t * R, x, t * C, w, R, C);
}

/** Multiply four vectors, two rows at a time (the last one twice if R is odd): 6 numbers read for 8 products. */
function multiplyFour(out, x, w, t, R, C) {
  const x0 = t * C;
  const x1 = x0 + C;
  const x2 = x1 + C;
  const x3 = x2 + C;
  for (let r = 0; r < R; r += 2) {
    const next = Math.min(r + 1, R - 1);
    const row = r * C;
    const nextRow = next * C;
    let a = 0;
    let b = 0;
    let c = 0;
    let d = 0;
    let e = 0;
    let f = 0;
    let g = 0;
    let h = 0;
    for (let i = 0; i < C; i++) {
      const first = w[row + i];
      const second = w[nextRow + i];
      const p = x[x0 + i];
      const q = x[x1 + i];
      const u = x[x2 + i];
      const v = x[x3 + i];
      a += first * p;
      b += first * q;
      c += first * u;
      d += first * v;
      e += second * p;
      f += second * q;
      g += second * u;
      h += second * v;
    }
    const at = t * R + r;
    const after = t * R + next;
    out[at] = a;
    out[at + R] = b;
    out[at + 2 * R] = c;
    out[at + 3 * R] = d;
    out[after] = e;
    out[after + R] = f;
    out[after + 2 * R] = g;
    out[after + 3 * R] = h;
  }
}

function multiplyOne(out, at, x, from, w, R, C) {
  let r = 0;
  for (; r + 4 <= R; r += 4) {
    const row0 = r * C;
    const row1 = row0 + C;
    const row2 = row1 + C;
    const row3 = row2 + C;
    let a = 0;
    let b = 0;
    let c = 0;
    let d = 0;
    for (let i = 0; i < C; i++) {
      const value = x[from + i];
      a += w[row0 + i] * value;
      b += w[row1 + i] * value;
      c += w[row2 + i] * value;
      d += w[row3 + i] * value;
    }
    out[at + r] = a;
    out[at + r + 1] = b;
    out[at + r + 2] = c;
    out[at + r + 3] = d;
  }
  for (; r < R; r++) {
    const row = r * C;
    let sum = 0;
    for (let i = 0; i < C; i++) sum += w[row + i] * x[from + i];
    out[at + r] = sum;
  }
}

/** RMSNorm of C numbers with a learned gain: out[to ...] from x[from ...]; they may be the same. */
function rmsNorm(out, to, x, from, gain, C) {
  let squares = 0;
  for (let i = 0; i < C; i++) squares += x[from + i] * x[from + i];
  const scale = 1 / Math.sqrt(squares / C + NORM_EPS);
  for (let i = 0; i < C; i++) out[to + i] = x[from + i] * scale * gain[i];
}

/** The logistic function. */
function sigmoid(a) {
  return 1 / (1 + Math.exp(-a));
}
