'use strict';

// The operations of the page on a model: the next character, a continuation, the bits of a text, a look inside.
//
// Each answer is a generator: it yields pieces of the answer, and undefined to let the worker look for other messages,
// and returns an answer that has no pieces. Positions count characters (code points). Axes: n symbols, V symbols of the model.

const LOG2 = Math.log(2);
const LENS_N = 5;
const MOST_LENGTH = 1e9;
const SPACES = /[ \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+/g;

/** Normalize a prompt as the run's text was (charlm/data/normalize.py). */
function normalizePrompt(text, { newlines, normalize, lowercase, collapseSpaces }) {
  if (newlines === 'lf') text = text.replace(/\r\n?/g, '\n');
  for (let i = 0; i < (lowercase ? 2 : 1); i++) {
    if (normalize !== null) text = text.normalize(normalize.toUpperCase());
    if (lowercase) text = text.toLowerCase();
  }
  if (normalize !== null) text = text.normalize(normalize.toUpperCase());
  return collapseSpaces ? text.replace(SPACES, ' ') : text;
}

/** Encode a prompt, which begins a document if the model tells documents apart. */
function promptIds(model, text) {
  const { vocabulary, header } = model;
  const { ids } = vocabulary.encode(normalizePrompt(text, header.text));
  if (vocabulary.end === null) return ids;
  const whole = new Int32Array(1 + ids.length).fill(vocabulary.end);
  whole.set(ids, 1);
  return whole;
}

/** Make a Text of these ids, and read them to the end. */
function* textOf(model, ids, traces) {
  const begin = model.firstNeeded(ids.length);
  const text = new Text(model, begin);
  if (ids.length === 0) text.logp.set(model.first().logp);
  yield* text.readAll(ids.subarray(begin), traces);
  return text;
}

/**
 * The most likely ids with their probabilities; ids with the same name are merged.
 * @returns {{text: string, p: number}[]}
 */
function likeliest(vocabulary, logp, at, n) {
  const found = new Map();
  const known = Math.exp(vocabulary.logKnown);
  const unseen = Math.exp(vocabulary.logUnseen);
  vocabulary.names.forEach((name, id) => {
    const p = id < vocabulary.nSymbols ? known * Math.exp(logp[at + id]) : unseen;
    found.set(name, (found.get(name) ?? 0) + p);
  });
  return [...found]
    .map(([text, p]) => ({ text, p }))
    .sort((a, b) => b.p - a.p)
    .slice(0, n);
}

/** The same, from scores that need not be normalised. */
function likeliestOf(model, scores, n) {
  const logp = new Float64Array(model.nSymbols);
  logNormalise(scores, 0, logp, 0, model.nSymbols);
  return likeliest(model.vocabulary, logp, 0, n);
}

/** The entropy in bits of log-probabilities of the symbols and, last, of each unseen byte. */
function entropyOf(row, nUnseen) {
  const V = row.length - 1;
  let sum = nUnseen ? nUnseen * Math.exp(row[V]) * row[V] : 0;
  for (let v = 0; v < V; v++) sum += Math.exp(row[v]) * row[v];
  return -sum / LOG2;
}

/** Fill a row (V + 1) with log-probabilities of the symbols, from logp[at ...], and of each unseen byte. */
function fillRow(row, logp, at, vocabulary) {
  const V = row.length - 1;
  const { logKnown } = vocabulary;
  for (let v = 0; v < V; v++) row[v] = logp[at + v] + logKnown;
  row[V] = vocabulary.logUnseen;
}

/** Answer `next`: the distribution after a text. If that text extends the last one, reading continues from there. */
function* answerNext(model, { text, n }) {
  const { vocabulary, kept } = model;
  const ids = promptIds(model, text);
  model.kept = null; // a concurrent answer must not continue the same reading
  let read;
  if (kept !== null && kept.ids.length > 0 && kept.ids.every((id, i) => id === ids[i])) {
    read = kept.read;
    yield* read.readAll(ids.subarray(kept.ids.length));
  } else {
    read = yield* textOf(model, ids);
  }
  model.kept = { ids, read };
  const row = new Float64Array(model.nSymbols + 1);
  fillRow(row, read.logp, 0, vocabulary);
  return { entropy: entropyOf(row, vocabulary.nUnseen), next: likeliest(vocabulary, read.logp, 0, n ?? 10) };
}

/** Answer `generate`: a continuation in pieces of one character each, with their bits. */
function* answerGenerate(model, { text, length = 500, temperature = 0.8, topP = null, minP = null, stop = [], seed = null }) {
  checkRange('length', length, 1, MOST_LENGTH);
  const { vocabulary, header } = model;
  const sampler = new Sampler({ temperature, topP, minP, seed }, model.nSymbols);
  const decoder = new Decoder(vocabulary, header.text.separator);
  const filter = new StopFilter(stop);
  let read = yield* textOf(model, promptIds(model, text));
  let bits = 0; // of symbols whose character is not complete
  for (let left = length; left > 0; ) {
    const id = sampler.next(read.logp, 0);
    bits -= (read.logp[id] + vocabulary.logKnown) / LOG2;
    for (const char of decoder.feed(id)) {
      if (left-- <= 0) break;
      yield* filter.feed({ text: char, bits });
      if (filter.found) return;
      bits = 0;
    }
    if (left <= 0) break;
    if (id === vocabulary.end) read = new Text(model); // the next document
    yield* read.read(Int32Array.of(id), true);
  }
  yield* filter.flush();
}

/** Answer `score`: the bits of each character and the entropy before it, in pieces. */
function* answerScore(model, { text }) {
  const { vocabulary, recent } = model;
  const { ids, lengths } = vocabulary.encode(text);
  if (ids.length === 0) return;
  const V = model.nSymbols;
  const row = new Float64Array(V + 1);
  const costs = new Float64Array(ids.length); // bits of each id
  const entropies = new Float64Array(ids.length);
  const score = (at, logp, from) => {
    fillRow(row, logp, from, vocabulary);
    if (at > 0) recent?.correct(row, ids, at);
    costs[at] = -row[Math.min(ids[at], V)] / LOG2;
    entropies[at] = entropyOf(row, vocabulary.nUnseen);
  };
  score(0, model.first().logp, 0);
  const read = new Text(model);
  let scored = 1;
  let char = 0;
  let id = 0; // the first one of that character
  for (;;) {
    const start = char;
    const bits = [];
    const entropy = [];
    for (; char < lengths.length && id + lengths[char] <= scored; id += lengths[char++]) {
      bits.push(costs.subarray(id, id + lengths[char]).reduce((sum, cost) => sum + cost, 0));
      entropy.push(entropies[id]);
    }
    if (bits.length > 0) yield { start, bits, entropy };
    if (scored === ids.length) return;
    const some = ids.subarray(scored - 1, Math.min(ids.length - 1, scored - 1 + MOST_AT_ONCE));
    yield* read.read(some, true);
    for (let t = 0; t < some.length; t++) score(scored + t, read.logp, t * V);
    scored += some.length;
  }
}

/** Records what the layers of a transformer do at the last symbol that it reads. */
class Trace {
  constructor() {
    this.layers = [];
    this.logits = []; // after the embedding and after each block
  }

  layer() {
    this.layers.push({ heads: [] });
    return this.layers[this.layers.length - 1];
  }

  embedded(model, x, at, logPrior, from) {
    const logits = new Float64Array(model.nSymbols);
    model.head(x, at, logPrior, from, logits, 0);
    this.logits.push(logits);
  }
}

/** Answer `inside`: what a member does to predict the character at `at` from those before it. */
function* answerInside(model, { text, at, member = 0 }) {
  const { vocabulary, transformers } = model;
  const { ids: all, lengths } = vocabulary.encode(text);
  checkRange('at', at, 0, lengths.length);
  checkRange('member', member, 0, model.nMembers - 1);
  const ids = all.subarray(0, lengths.subarray(0, at).reduce((sum, length) => sum + length, 0));
  const transformer = transformers[member] ?? null;
  const top = (scores) => likeliestOf(model, scores, LENS_N);
  if (transformer === null || ids.length === 0) {
    const read = ids.length === 0 ? model.first() : yield* textOf(model, ids);
    const prior = transformer !== null && transformer.prior !== null ? top(read.scores[member]) : null;
    return { start: 0, layers: [], lens: [], prior, member: top(read.scores[member]), final: top(read.logp) };
  }
  const traces = transformers.map((_, i) => (i === member ? new Trace() : null));
  const read = yield* textOf(model, ids, traces);
  const trace = traces[member];
  const places = charPlaces(lengths, at);
  const window = transformer.contextStart(ids.length);
  const start = places[window];
  const ofChars = (weights) => {
    const sums = new Array(at - start).fill(0);
    weights.forEach((weight, i) => {
      sums[places[window + i] - start] += weight;
    });
    return sums;
  };
  return {
    start,
    layers: trace.layers.map(({ heads }) => ({ heads: heads.map(ofChars) })),
    lens: trace.logits.map(top),
    prior: transformer.prior === null ? null : top(read.logPrior),
    member: top(read.scores[member]),
    final: top(read.logp),
  };
}

/** The index of the character to which each id of the first `n` characters belongs. */
function charPlaces(lengths, n) {
  const places = [];
  for (let char = 0; char < n; char++) for (let i = 0; i < lengths[char]; i++) places.push(char);
  return places;
}

/** Answer `open`: what the page shows about the run. */
function infoOf(model) {
  const { header, vocabulary, transformers } = model;
  const ofTransformer = ({ config }) => ({
    kind: config.kind,
    nLayer: config.nLayer,
    nHead: config.nHead,
    nEmbd: config.nEmbd,
    blockSize: config.blockSize,
    mixers: config.mixers,
    position: config.position,
  });
  const order = model.ngram === null ? 0 : Math.max(1, model.ngram.order);
  const ngram = { kind: 'ngram', nLayer: 0, nHead: 0, nEmbd: 0, blockSize: order, mixers: [], position: 'none' };
  const members = transformers.map(ofTransformer);
  return {
    name: header.name,
    kind: header.kind,
    units: vocabulary.units,
    blockSize: Math.max(...(members.length > 0 ? members : [ngram]).map((each) => each.blockSize)),
    nSymbols: vocabulary.nSymbols,
    members: model.ngramPredicts ? [...members, ngram] : members,
    runs: [{ name: header.name }],
    about: header.about,
  };
}
