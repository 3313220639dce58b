'use strict';

// The tokenizer (charlm/data/tokenizer.py): an id for each character; rare characters are encoded as bytes of UTF-8.
// Ids from nSymbols on are the bytes that training never saw. Shapes: V symbols.

const OTHER = '\ufffd'; // stands for all characters that are encoded in several bytes
const ESCAPE = 2 ** -16; // the total probability of all bytes that training never saw

class Vocabulary {
  /** @param {object} stored the header's `vocabulary` */
  constructor(stored) {
    const chars = [...stored.chars];
    const { trainedBytes, counts, ids, hasEnd, units } = stored;
    this.units = units;
    this.counts = counts;
    this.nSymbols = chars.length + trainedBytes.length + (hasEnd ? 1 : 0);
    this.nUnseen = 256 - trainedBytes.length;
    /** The id that ends a document and begins the next; null without documents. */
    this.end = hasEnd ? ids[this.nSymbols - 1] : null;
    this.idOfChar = new Map(chars.map((char, i) => [char, ids[i]]));
    this.idOfByte = new Int32Array(256).fill(-1);
    trainedBytes.forEach((byte, i) => {
      this.idOfByte[byte] = ids[chars.length + i];
    });
    let unseen = this.nSymbols;
    for (let byte = 0; byte < 256; byte++) if (this.idOfByte[byte] < 0) this.idOfByte[byte] = unseen++;
    this.utf8 = new TextEncoder();
    /** The UTF-8 of each id; empty for the end of a document. */
    this.spellings = Array.from({ length: chars.length + 256 + (hasEnd ? 1 : 0) }, () => new Uint8Array(0));
    for (const [char, id] of this.idOfChar) this.spellings[id] = this.utf8.encode(char);
    this.idOfByte.forEach((id, byte) => {
      this.spellings[id] = Uint8Array.of(byte);
    });
    this.names = this.idNames();
  }

  /**
   * The ids of a text, and how many ids each of its characters has. A lone surrogate is read as U+FFFD.
   * @param {string} text
   * @returns {{ids: Int32Array, lengths: Uint8Array}}
   */
  encode(text) {
    const chars = [...text];
    const ids = [];
    const lengths = new Uint8Array(chars.length);
    chars.forEach((char, i) => {
      const own = this.idOfChar.get(char);
      if (own !== undefined) {
        ids.push(own);
        lengths[i] = 1;
        return;
      }
      const bytes = this.utf8.encode(char);
      for (const byte of bytes) ids.push(this.idOfByte[byte]);
      lengths[i] = bytes.length;
    });
    return { ids: Int32Array.from(ids), lengths };
  }

  /** The name of each id: its character, '' for the end of a document, OTHER for a byte of a longer character. */
  idNames() {
    const names = new Array(this.spellings.length).fill(OTHER);
    for (const [char, id] of this.idOfChar) names[id] = char;
    for (let byte = 0; byte < 128; byte++) {
      const char = String.fromCharCode(byte);
      if (!this.idOfChar.has(char)) names[this.idOfByte[byte]] = char;
    }
    if (this.end !== null) names[this.end] = '';
    return names;
  }

  /**
   * Log-probabilities (V) of a symbol without context: by its frequency in the training text.
   * @returns {Float64Array}
   */
  unigramLogProbs() {
    const total = this.counts.reduce((sum, count) => sum + count, 0);
    return Float64Array.from(this.counts, (count) => Math.log(count / total));
  }

  /** What is added to the log-probabilities of symbols if there are unseen bytes. */
  get logKnown() {
    return this.nUnseen ? Math.log1p(-ESCAPE) : 0;
  }

  /** The log-probability of each unseen byte. */
  get logUnseen() {
    return this.nUnseen ? Math.log(ESCAPE / this.nUnseen) : -Infinity;
  }
}

/** Streaming decoder of ids to text; the bytes of a character are held until it is complete. */
class Decoder {
  /**
   * @param {Vocabulary} vocabulary
   * @param {string} separator what the end of a document becomes
   */
  constructor(vocabulary, separator) {
    this.vocabulary = vocabulary;
    this.separator = separator;
    this.utf8 = new TextDecoder('utf-8', { ignoreBOM: true });
  }

  /**
   * The text that one more id completes.
   * @param {number} id
   * @returns {string}
   */
  feed(id) {
    if (id === this.vocabulary.end) {
      if (this.separator === '') return '';
      return this.utf8.decode() + this.separator;
    }
    return this.utf8.decode(this.vocabulary.spellings[id], { stream: true });
  }
}
