'use strict';

// Unpack the model (charlm/page/container.py): a JSON header, then arrays in planes of bytes, all of it gzipped.

const FORMAT = 'charlm page model';
const VERSION = 1;
const BASE64_AT_ONCE = 1 << 20; // a multiple of 4
const MOST_HEADER = 1 << 26;
const DTYPES = { u1: 1, u2: 2, u4: 4, f2: 2, f4: 4 };

/** An error in one plain sentence for the user. */
class PageError extends Error {}

/**
 * Decode base64.
 * @param {string} text
 * @returns {Uint8Array}
 */
function fromBase64(text) {
  const clean = text.trim();
  const padding = clean.endsWith('==') ? 2 : clean.endsWith('=') ? 1 : 0;
  const bytes = new Uint8Array(Math.max(0, Math.floor(clean.length / 4) * 3 - padding));
  let at = 0;
  for (let from = 0; from < clean.length; from += BASE64_AT_ONCE) {
    let piece;
    try {
      piece = atob(clean.slice(from, from + BASE64_AT_ONCE));
    } catch {
      throw new PageError('The model in this page is damaged: it is not base64. Get the page again.');
    }
    for (let i = 0; i < piece.length; i++) bytes[at++] = piece.charCodeAt(i);
  }
  return bytes;
}

/**
 * Decompress gzip.
 * @param {Uint8Array} bytes
 * @returns {Promise<Uint8Array>}
 */
async function gunzip(bytes) {
  if (typeof DecompressionStream === 'undefined') {
    throw new PageError('This browser cannot unpack gzip; use one from 2023 or later.');
  }
  try {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new PageError('The model in this page is damaged: it cannot be unpacked. Get the page again.');
  }
}

/**
 * Read the header of a packed model, and its arrays by name.
 * @param {Uint8Array} bytes as pack.py made them
 * @returns {Promise<{header: object, arrays: Map<string, object>}>}
 */
async function unpack(bytes) {
  const data = await gunzip(bytes);
  const damaged = new PageError('The model in this page is damaged: it is cut short. Get the page again.');
  if (data.length < 4) throw damaged;
  const headerLength = new DataView(data.buffer).getUint32(0, true);
  if (headerLength > MOST_HEADER || 4 + headerLength > data.length) throw damaged;
  let header;
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(data.subarray(4, 4 + headerLength)));
  } catch {
    header = null;
  }
  if (header === null || header.format !== FORMAT || !Array.isArray(header.arrays)) {
    throw new PageError('This page holds no model of charlm; make it again with charlm page.');
  }
  if (header.version !== VERSION) {
    throw new PageError(
      `This page holds a model of format ${header.version}, and its scripts read ${VERSION}; make it again with charlm page.`,
    );
  }
  const arrays = new Map();
  let at = 4 + headerLength;
  for (const [name, dtype, shape] of header.arrays) {
    const length = shape.reduce((product, n) => product * n, 1);
    const size = DTYPES[dtype];
    if (size === undefined || !Number.isInteger(length) || length < 0 || at + size * length > data.length) throw damaged;
    arrays.set(name, { values: fromPlanes(data, at, length, dtype), shape });
    at += size * length;
  }
  if (at !== data.length) throw damaged;
  return { header, arrays };
}

/**
 * The values of the array of that name.
 * @param {Map<string, object>} arrays
 * @param {string} name
 * @param {(number | null)[]} shape is checked, except where it is null
 */
function arrayOf(arrays, name, shape) {
  const found = arrays.get(name);
  if (found === undefined || !shape.every((n, i) => n === null || n === found.shape[i])) {
    throw new PageError(`The model in this page is damaged: ${name} does not fit. Get the page again.`);
  }
  return found.values;
}

/** Join numbers from `length` bytes of each plane, the lowest first, from data[at] on. */
function fromPlanes(data, at, length, dtype) {
  if (dtype === 'u1') return data.slice(at, at + length);
  if (dtype === 'f2') return fromHalves(data, at, length);
  const words = dtype === 'u2' ? new Uint16Array(length) : new Uint32Array(length);
  for (let plane = 0; plane < DTYPES[dtype]; plane++) {
    const shift = 8 * plane;
    const from = at + plane * length;
    for (let i = 0; i < length; i++) words[i] |= data[from + i] << shift;
  }
  return dtype === 'f4' ? new Float32Array(words.buffer) : words;
}

/** Convert 16-bit floats to 32-bit ones. */
function fromHalves(data, at, length) {
  const table = halfValues();
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) values[i] = table[data[at + i] | (data[at + length + i] << 8)];
  return values;
}

let halves = null;

/** The value of each of the 65,536 half-precision floats of IEEE 754. */
function halfValues() {
  if (halves !== null) return halves;
  halves = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31;
    const fraction = (bits & 1023) / 1024;
    const sign = bits >> 15 ? -1 : 1;
    if (exponent === 31) halves[bits] = fraction ? NaN : sign * Infinity;
    else if (exponent === 0) halves[bits] = sign * fraction * 2 ** -14;
    else halves[bits] = sign * (1 + fraction) * 2 ** (exponent - 15);
  }
  return halves;
}
