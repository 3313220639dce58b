'use strict';

// Convolutional and recurrent mixers with their states (charlm/model/mixers.py); the contract is in attention.js.
// Axes: n new positions, N taps, C width.

const CONVOLUTION_WINDOW = 8;

/** Each position reads the last N, itself included: a weight for each channel and distance, then across channels. */
class Convolution {
  constructor(config, weight, positions, most) {
    this.nEmbd = config.nEmbd;
    this.n = config.window ?? CONVOLUTION_WINDOW;
    this.taps = weight('taps', this.nEmbd, this.n);
    this.out = weight('out.weight', this.nEmbd, this.nEmbd);
    this.tapped = new Float64Array(most * this.nEmbd);
  }

  /** The last N inputs, of which `at` is the oldest: (N, C), zeros before the first. */
  newState() {
    return { inputs: new Float32Array(this.n * this.nEmbd), at: 0 };
  }

  reset(state) {
    state.inputs.fill(0);
    state.at = 0;
  }

  run(state, x, n, first, out) {
    const { nEmbd: C, n: N, taps, tapped } = this;
    for (let t = 0; t < n; t++) {
      for (let c = 0; c < C; c++) state.inputs[state.at * C + c] = x[t * C + c];
      state.at = (state.at + 1) % N;
      for (let c = 0; c < C; c++) tapped[t * C + c] = 0;
      for (let i = 0; i < N; i++) {
        const input = ((state.at + i) % N) * C;
        for (let c = 0; c < C; c++) tapped[t * C + c] += taps[c * N + i] * state.inputs[input + c];
      }
    }
    multiply(out, tapped, this.out, n, C, C);
  }
}

/** A GRU, whose state holds the whole past in C numbers. */
class Recurrent {
  constructor(config, weight, positions, most) {
    const C = config.nEmbd;
    this.nEmbd = C;
    this.ofInput = weight('gru.weight_ih_l0', 3 * C, C); // reset gate, update gate, candidate
    this.ofState = weight('gru.weight_hh_l0', 3 * C, C);
    this.inputBias = weight('gru.bias_ih_l0', 3 * C);
    this.stateBias = weight('gru.bias_hh_l0', 3 * C);
    this.out = weight('out.weight', C, C);
    this.fromInput = new Float64Array(most * 3 * C);
    this.fromState = new Float64Array(3 * C);
    this.states = new Float64Array(most * C);
  }

  newState() {
    return { value: new Float64Array(this.nEmbd) };
  }

  reset(state) {
    state.value.fill(0);
  }

  run(state, x, n, first, out) {
    const { nEmbd: C, fromInput, fromState, inputBias, stateBias, states } = this;
    const { value } = state;
    multiply(fromInput, x, this.ofInput, n, 3 * C, C);
    for (let t = 0; t < n; t++) {
      multiply(fromState, value, this.ofState, 1, 3 * C, C);
      const from = t * 3 * C;
      const input = (i) => fromInput[from + i] + inputBias[i];
      const old = (i) => fromState[i] + stateBias[i];
      for (let c = 0; c < C; c++) {
        const reset = sigmoid(input(c) + old(c));
        const update = sigmoid(input(C + c) + old(C + c));
        const candidate = Math.tanh(input(2 * C + c) + reset * old(2 * C + c));
        value[c] = (1 - update) * candidate + update * value[c];
        states[t * C + c] = value[c];
      }
    }
    multiply(out, states, this.out, n, C, C);
  }
}
