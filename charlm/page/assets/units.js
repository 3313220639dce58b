'use strict';
// Split a text into words and lines as `charlm surprisal` does: by Unicode's word boundaries, with the white space after
// a word counted with it; a line ends after its line feed.

/**
 * @param {string[]} chars
 * @returns {{begin: number, after: number, end: number}[]} from `begin` to `end`, without the white space from `after` on
 */
function lineSpans(chars) {
  const found = [];
  let begin = 0;
  for (let i = 0; i < chars.length; i++) {
    if (chars[i] !== '\n') continue;
    found.push({begin, after: i > begin && chars[i - 1] === '\r' ? i - 1 : i, end: i + 1});
    begin = i + 1;
  }
  if (begin < chars.length) found.push({begin, after: chars.length, end: chars.length});
  return found;
}

/** The same for words. */
function wordSpans(chars) {
  const found = [];
  let begin = 0;
  for (const segment of segmentsOf(chars.join(''))) {
    const end = begin + Array.from(segment).length, last = found.at(-1);
    if (/\S/u.test(segment)) found.push({begin, after: end, end});
    else if (last) last.end = end;
    else found.push({begin, after: begin, end});
    begin = end;
  }
  return found;
}

/** Split a text into words, punctuation and white space; at white space only if the browser has no word segmenter. */
function segmentsOf(text) {
  if (!Intl.Segmenter) return text.match(/\s+|\S+/gu) ?? [];
  return Array.from(new Intl.Segmenter('en', {granularity: 'word'}).segment(text), ({segment}) => segment);
}
