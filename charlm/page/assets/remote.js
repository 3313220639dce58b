'use strict';

/**
 * The engine of a served page: the methods of LocalEngine, answered by `charlm serve`.
 *
 * Positions count code points, as there. Errors are rejected promises whose message is a plain sentence.
 */
class RemoteEngine {
  /**
   * @param {string} token of the server, which refuses requests without it
   * @param {?string} run the run that is asked, by default the first that is served
   */
  constructor(token, run = null) {
    this.token = token;
    this.run = run;
  }

  /** The engine for this page, whose address has the token, which is then removed from the address bar and the history. */
  static ofPage() {
    const token = new URLSearchParams(window.location.search).get('token') ?? '';
    window.history.replaceState(null, '', window.location.pathname);
    return new RemoteEngine(token);
  }

  /** @returns {Promise<object>} what the run is, and which others there are */
  async open() {
    const info = await this._ask('open', {});
    this.run = info.name;
    return info;
  }

  /** @param {string} run @returns {RemoteEngine} an engine of another run of the same server */
  forRun(run) {
    return new RemoteEngine(this.token, run);
  }

  /** @param {string} text @param {{n?: number}} [settings] @returns {Promise<object>} the n most likely characters after a text */
  next(text, { n } = {}) {
    return this._ask('next', given({ text, n }));
  }

  /** @returns {Promise<object>} how a member predicts the character at a position from those before it */
  inside(text, at, { member } = {}) {
    return this._ask('inside', given({ text, at, member }));
  }

  /**
   * @param {string} text
   * @param {object} [settings] as for LocalEngine
   * @param {AbortSignal} [signal]
   * @returns {AsyncGenerator<object>} pieces {text, bits} that continue a text
   */
  generate(text, { length, temperature, topP, minP, stop, seed } = {}, signal = undefined) {
    const sampling = given({ temperature, top_p: topP, min_p: minP, seed });
    return this._stream('generate', given({ text, length, stop, sampling }), signal);
  }

  /** @param {AbortSignal} [signal] @returns {AsyncGenerator<object>} pieces {start, bits, entropy}, a number a character */
  score(text, signal = undefined) {
    return this._stream('score', { text }, signal);
  }

  /** Send a request. Rejects with the server's sentence if it is refused. */
  async _send(operation, body, signal) {
    let response;
    try {
      response = await fetch(`api/${operation}`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${this.token}` },
        body: JSON.stringify({ ...given({ run: this.run }), ...body }),
        signal,
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Error('charlm serve does not answer; is it still running?');
    }
    if (!response.ok) {
      const refusal = await response.json().catch(() => ({}));
      throw new Error(refusal.error ?? `charlm serve answers with ${response.status}`);
    }
    return response;
  }

  async _ask(operation, body) {
    const response = await this._send(operation, body);
    return response.json();
  }

  /** Yield the lines of an answer as they come, up to the one that marks its end; none after an abort. */
  async *_stream(operation, body, signal) {
    let complete = false;
    try {
      const response = await this._send(operation, body, signal);
      for await (const line of linesOf(response.body)) {
        const piece = JSON.parse(line);
        if (piece.error !== undefined) throw new Error(piece.error);
        complete = piece.done === true; // the stream is still read to its end, else it would count as aborted
        if (signal?.aborted) return;
        if (!complete) yield piece;
      }
    } catch (error) {
      if (signal?.aborted) return;
      if (error instanceof TypeError) throw new Error('charlm serve ended before its answer was complete');
      throw error;
    }
    if (!complete) throw new Error('charlm serve ended before its answer was complete');
  }
}

/** @param {object} values @returns {object} those that are neither undefined nor null */
function given(values) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined && value !== null));
}

/** @param {ReadableStream<Uint8Array>} stream @returns {AsyncGenerator<string>} its lines, as they are complete */
async function* linesOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split('\n');
      rest = lines.pop();
      yield* lines;
    }
  } finally {
    reader.cancel().catch(() => {}); // leaving early ends the computation
  }
}
