'use strict';
// An engine of known odds, for the tests of the page: the next of the letters a to e is most likely the one after the last.

const MOCK_LETTERS = ['a', 'b', 'c', 'd', 'e', ' ', '\n', '\u202e', '<'];

class MockEngine {
  /** @param {Object} changes of the info that it opens with */
  constructor(changes = {}, name = 'mock') {
    this.calls = [];
    this.name = name;
    this.changes = changes;
  }

  get info() {
    const member = {kind: 'prior', nLayer: 2, nHead: 2, nEmbd: 16, blockSize: 32, mixers: ['attention', 'attention'],
      position: 'rotary'};
    return {name: this.name, kind: 'transformer', units: 'chars', blockSize: 32, nSymbols: 64, members: [member],
      runs: [{name: this.name}], about: {
        figures: [{key: 'held-out', label: 'held-out', value: 1.894, unit: 'bits per character'},
          {key: 'baseline', label: 'n-gram baseline', value: 2.2, unit: 'bits per character'},
          {label: 'parameters', value: 123456, unit: ''}],
        settings: [['n_layer', '2'], ['hostile', '\x3cscript>alert(1)\x3c/script>\u202e']],
        curves: [{name: 'held-out', points: [[10, 4], [20, 3], [30, 2.5]]}, {name: 'training', points: [[1, 6], [15, 3.4], [30, 2.4]]}],
        sample: 'A sample.\n<b>not bold</b>', notes: ['Weights are 16 bit.']},
      ...this.changes};
  }

  async open() {
    return this.info;
  }

  forRun(name) {
    return new MockEngine(this.changes, name);
  }

  odds(text) {
    const last = MOCK_LETTERS.indexOf(text.at(-1) ?? 'e');
    return MOCK_LETTERS.map((letter, i) => ({text: letter, p: i === (last + 1) % 5 ? 0.5 : 0.0625}));
  }

  async next(text, {n}) {
    this.calls.push(['next', text]);
    return {entropy: 2.5, next: this.odds(text).sort((a, b) => b.p - a.p).slice(0, n)};
  }

  async *generate(text, settings, signal) {
    this.calls.push(['generate', text, settings]);
    const letters = settings.seed % 2 ? 'abcde' : 'edcba';
    for (let i = 0; i < settings.length; i++) {
      await new Promise((resolve) => setTimeout(resolve, this.changes.pause ?? 0));
      if (signal?.aborted) return;
      const written = this.changes.writes ?? letters;
      yield {text: Array.from(written)[i % Array.from(written).length], bits: 1};
    }
  }

  async *score(text, signal) {
    this.calls.push(['score', text]);
    const chars = Array.from(text);
    for (let start = 0; start < chars.length; start += 50) {
      await new Promise((resolve) => setTimeout(resolve, this.changes.pause ?? 0));
      if (signal?.aborted) return;
      const some = chars.slice(start, start + 50);
      yield {start, bits: some.map((char) => char.codePointAt(0) % 10), entropy: some.map(() => 2.5)};
    }
  }

  async inside(text, at, {member}) {
    this.calls.push(['inside', at, member]);
    const before = Array.from(text).slice(0, at), start = Math.max(0, at - 16), n = at - start;
    const falling = Array.from({length: n}, (_, i) => 2 ** (i - n)), even = Array.from({length: n}, () => 1 / n);
    const five = this.odds(before.join('')).sort((a, b) => b.p - a.p).slice(0, 5);
    return {start, layers: [{heads: [falling, even]}, {heads: []}], lens: [five, five, five], prior: five, member: five, final: five};
  }
}
