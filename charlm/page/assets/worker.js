'use strict';

// The Web Worker: messages {id, op, ...arguments} in; {id, value}, {id, piece}, {id, done: true} or {id, error} out.

const PAUSE_EVERY = 30; // milliseconds of work between checks for other messages
const ANSWERS = { next: answerNext, generate: answerGenerate, score: answerScore, inside: answerInside };
const IN_PIECES = new Set(['generate', 'score']);

const cancelled = new Set(); // ids of answers in progress that were cancelled
const inWork = new Set();
let opened = null; // the model

/** Let other messages be handled. */
function pause() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** Unpack the model from base64, and describe it. */
async function open({ model }) {
  opened = new LanguageModel(await unpack(fromBase64(model)));
  return infoOf(opened);
}

/** Run the generator of an answer to its end, and post what it yields. */
async function answer(id, generator) {
  let due = performance.now() + PAUSE_EVERY;
  for (;;) {
    const { value, done } = generator.next();
    if (done) return value;
    if (value !== undefined) postMessage({ id, piece: value });
    if (performance.now() < due) continue;
    await pause();
    if (cancelled.has(id)) return undefined;
    due = performance.now() + PAUSE_EVERY;
  }
}

/** Handle one message, from its arrival to its answer. */
async function handle({ id, op, ...asked }) {
  if (op === 'cancel') {
    if (inWork.has(id)) cancelled.add(id);
    return;
  }
  inWork.add(id);
  try {
    if (op !== 'open' && opened === null) throw new PageError('The model is not loaded yet.');
    if (op !== 'open' && !Object.hasOwn(ANSWERS, op)) throw new PageError(`The page cannot do ${op}.`);
    const value = op === 'open' ? await open(asked) : await answer(id, ANSWERS[op](opened, asked));
    postMessage(IN_PIECES.has(op) ? { id, done: true } : { id, value: value ?? null });
  } catch (error) {
    const plain = error instanceof PageError ? error.message : `The page has an error: ${error.message}`;
    postMessage({ id, error: plain });
  } finally {
    inWork.delete(id);
    cancelled.delete(id);
  }
}

self.onmessage = (event) => {
  handle(event.data);
};
