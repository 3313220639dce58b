'use strict';

// The page's interface to the model: each method asks the worker (worker.js).

/** An error of the model, in one plain sentence. */
class EngineError extends Error {}

/** The model in this page, run by a worker. */
class LocalEngine {
  /**
   * @param {string} workerSource the worker's scripts
   * @param {() => string} readModel gives the packed model in base64
   */
  constructor(workerSource, readModel) {
    this.readModel = readModel;
    this.asked = new Map(); // the receiver of the answers to each id
    this.lastId = 0;
    this.failure = null; // why the worker no longer answers
    const url = URL.createObjectURL(new Blob([workerSource], { type: 'text/javascript' }));
    this.worker = new Worker(url);
    URL.revokeObjectURL(url);
    this.worker.onmessage = ({ data: { id, ...answer } }) => this.asked.get(id)?.(answer);
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.failure = `The model has stopped: ${event.message || 'the browser gave no reason'}. Load the page again.`;
      for (const take of [...this.asked.values()]) take({ error: this.failure });
    };
  }

  /**
   * Load the model and describe it.
   * @returns {Promise<object>} Info
   */
  open() {
    return this.ask('open', { model: this.readModel() });
  }

  /**
   * The distribution after a text, in bits, with the n most likely characters.
   * @param {string} text
   * @param {{n?: number}} [settings]
   * @returns {Promise<{entropy: number, next: {text: string, p: number}[]}>}
   */
  next(text, { n } = {}) {
    return this.ask('next', { text, n });
  }

  /**
   * Continue a text: pieces {text, bits}.
   * @param {string} text
   * @param {{length?: number, temperature?: number, topP?: number, minP?: number, stop?: string[], seed?: number}} [settings]
   * @param {AbortSignal} [signal] ends it soon, without an exception
   */
  generate(text, settings = {}, signal = undefined) {
    return this.stream('generate', { text, ...settings }, signal);
  }

  /**
   * The bits of each character of a text and the entropy before it: pieces {start, bits, entropy}.
   * @param {string} text
   * @param {AbortSignal} [signal] ends it soon, without an exception
   */
  score(text, signal = undefined) {
    return this.stream('score', { text }, signal);
  }

  /**
   * How a member predicts the character at a position.
   * @param {string} text
   * @param {number} at
   * @param {{member?: number}} [settings]
   */
  inside(text, at, { member } = {}) {
    return this.ask('inside', { text, at, member });
  }

  /** Ask for a single answer. */
  ask(op, values) {
    return new Promise((resolve, reject) => {
      const id = this.post(op, values, ({ value, error }) => {
        this.asked.delete(id);
        if (error === undefined) resolve(value);
        else reject(new EngineError(error));
      });
    });
  }

  /** Ask for an answer in pieces, streamed as they come. */
  async *stream(op, values, signal) {
    if (signal?.aborted) return;
    const waiting = [];
    let wake = () => {};
    const take = (answer) => {
      waiting.push(answer);
      wake();
    };
    const id = this.post(op, values, take);
    const abort = () => take({ done: true });
    signal?.addEventListener('abort', abort);
    let ended = false;
    try {
      for (;;) {
        while (waiting.length > 0 && !signal?.aborted) {
          const { piece, error, done } = waiting.shift();
          ended = done === true || error !== undefined;
          if (error !== undefined) throw new EngineError(error);
          if (done) return;
          yield piece;
        }
        if (signal?.aborted) return;
        await new Promise((resolve) => {
          wake = resolve;
        });
      }
    } finally {
      signal?.removeEventListener('abort', abort);
      this.asked.delete(id);
      if (!ended) this.worker.postMessage({ id, op: 'cancel' });
    }
  }

  /** Send a message; `take` gets its answers. */
  post(op, values, take) {
    const id = ++this.lastId;
    this.asked.set(id, take);
    if (this.failure !== null) queueMicrotask(() => take({ error: this.failure }));
    else this.worker.postMessage({ id, op, ...values });
    return id;
  }
}
