'use strict';

// The whole model of a run (charlm/inference/members.py, predictor.py): it reads a text and predicts what comes next.
// Axes: n symbols read at once, V symbols of the model.

const MOST_AT_ONCE = 32; // symbols read between pieces of an answer

class LanguageModel {
  /** @param {{header: object, arrays: Map<string, object>}} packed as unpack.js returns it */
  constructor({ header, arrays }) {
    this.header = header;
    this.vocabulary = new Vocabulary(header.vocabulary);
    const V = this.vocabulary.nSymbols;
    this.nSymbols = V;
    this.ngram = header.ngram === null ? null : new KneserNey(V, header.ngram, arrays);
    this.transformers = header.transformers.map((config, i) => {
      const stored = arrays.get(`${i}.ngrams.table.stored`)?.values ?? null;
      return new Transformer(config, V, (name, ...shape) => arrayOf(arrays, `${i}.${name}`, shape), stored);
    });
    const { mixture } = header;
    const several = mixture !== null && mixture.bias.length > 1;
    this.mixture = several ? new Mixture(mixture, V) : null;
    if (mixture !== null && !several) this.transformers[0].temperature = 1 / mixture.bias[0];
    this.recent = mixture !== null && mixture.recent !== null ? new RecentNgrams(mixture.recent, V) : null;
    /** Whether the n-gram model is a member, or the model itself. */
    this.ngramPredicts = this.transformers.length === 0 || (several && mixture.ngram);
    /** The text that `next` has read, {ids, read}; null: none. */
    this.kept = null;
    this.readsPrior = this.transformers.some((each) => each.prior !== null);
  }

  /** The number of members; the n-gram model is the last. */
  get nMembers() {
    return this.transformers.length + (this.ngramPredicts ? 1 : 0);
  }

  get carriesState() {
    return this.transformers.some((each) => each.config.carriesState);
  }

  /** Combine the members' scores into log-probabilities of the model: out[at ...] from scores[i][at ...]. */
  combine(scores, at, out) {
    if (this.mixture === null) logNormalise(scores[0], at, out, at, this.nSymbols);
    else this.mixture.pool(scores, at, out);
  }

  /** Log-probabilities (V) of the first symbol of a text by each member, and by the model. */
  first() {
    const V = this.nSymbols;
    const out = new Float32Array(V);
    const prior = new Float32Array(V);
    if (this.ngram !== null) this.ngram.logNext(this.ngram.start(), prior, 0);
    const unigram = Float32Array.from(this.vocabulary.unigramLogProbs());
    const scores = this.transformers.map((each) => (each.prior === null ? unigram : prior));
    if (this.ngramPredicts) scores.push(prior);
    this.combine(scores, 0, out);
    return { logp: out, scores };
  }

  /**
   * Where reading may begin if only the prediction after ids[n - 1] is needed: nothing before it has an effect.
   * @param {number} n
   */
  firstNeeded(n) {
    if (this.carriesState) return 0;
    const starts = this.transformers.map((each) => each.contextStart(n));
    const order = this.ngram === null ? 0 : this.ngram.order;
    return Math.max(0, Math.min(n, ...starts) - order);
  }
}

/** One text that the model reads. */
class Text {
  /**
   * @param {LanguageModel} model
   * @param {number} begin symbols that were skipped
   */
  constructor(model, begin = 0) {
    this.model = model;
    this.places = model.ngram === null ? null : model.ngram.start();
    this.texts = model.transformers.map((each) => new TransformerText(each, begin));
    const size = MOST_AT_ONCE * model.nSymbols;
    this.logPrior = new Float32Array(model.ngram === null ? 0 : size);
    /** Each member's scores (n, V) after each symbol of the last `read`. */
    this.scores = this.texts.map(() => new Float32Array(size));
    if (model.ngramPredicts) this.scores.push(this.logPrior);
    /** The model's log-probabilities (n, V) after each of them. */
    this.logp = new Float32Array(size);
  }

  /**
   * Read ids; a generator that pauses often.
   * @param {Int32Array} ids at most MOST_AT_ONCE where `wanted`
   * @param {boolean} wanted whether `logp` is needed
   * @param {(object | null)[]} traces for each transformer, records what its layers do at the last id
   */
  *read(ids, wanted, traces = []) {
    for (let from = 0; from < ids.length; from += MOST_AT_ONCE) {
      yield* this.readSome(ids.subarray(from, from + MOST_AT_ONCE), wanted, traces);
    }
  }

  *readSome(ids, wanted, traces) {
    const { model, places, logPrior } = this;
    const V = model.nSymbols;
    if (model.ngram !== null) {
      const needed = model.readsPrior || wanted;
      for (let t = 0; t < ids.length; t++) {
        model.ngram.read(places, ids[t]);
        if (needed) model.ngram.logNext(places, logPrior, t * V);
      }
    }
    for (let i = 0; i < this.texts.length; i++) {
      yield* this.texts[i].read(ids, logPrior, wanted, this.scores[i], traces[i] ?? null);
    }
    for (let t = 0; wanted && t < ids.length; t++) model.combine(this.scores, t * V, this.logp);
    yield;
  }

  /** Read all ids; then the first row of `logp` predicts what follows them. Without ids, nothing changes. */
  *readAll(ids, traces = []) {
    const n = ids.length;
    if (n === 0) return;
    yield* this.read(ids.subarray(0, n - 1), false);
    yield* this.read(ids.subarray(n - 1), true, traces);
  }
}
