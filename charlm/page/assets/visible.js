'use strict';
// Characters that a page would act on or hide instead of showing: those that charlm/terminal.py escapes. Each is shown
// as one symbol, so that positions are unchanged.

const UNSAFE = new RegExp('[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ufeff' +
  '\\ufff9-\\ufffb\\u{d800}-\\u{dfff}\\u{e0000}-\\u{e007f}]', 'u');
const LEFT_TO_RIGHT = '\u200e\u202a\u202d\u2066', RIGHT_TO_LEFT = '\u061c\u200f\u202b\u202e\u2067';
const NAMES = {'\n': 'new line', '\t': 'tab', '\r': 'carriage return', ' ': 'space', '\u00a0': 'no-break space'};
const MARKS = {'\n': '⏎', '\t': '⇥', '\r': '␍', ' ': '␣', '\u00a0': '⍽'};

/** Whether a character (a code point) would act on the page or be hidden. */
function isUnsafe(char) {
  return UNSAFE.test(char);
}

/** The symbol for a character in running text: itself, unless it is unsafe. */
function symbolOf(char) {
  if (!isUnsafe(char)) return char;
  const code = char.codePointAt(0);
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  if (code === 0x7f) return '\u2421';
  if (LEFT_TO_RIGHT.includes(char)) return '\u21e5';
  if (RIGHT_TO_LEFT.includes(char)) return '\u21e4';
  return '\ufffd';
}

/** Replace the unsafe characters of a text by their symbols. */
function visibleText(text) {
  return Array.from(text, symbolOf).join('');
}

/** A character shown by itself, in lists: white space as a mark, unsafe characters by their code. */
function markOf(char) {
  if (MARKS[char]) return MARKS[char];
  return isUnsafe(char) ? codeOf(char) : char;
}

/** A character or several as an element; white space and controls are marks. */
function charElement(text) {
  const chars = Array.from(text);
  const plain = chars.every((char) => !MARKS[char] && !isUnsafe(char));
  const named = chars.length === 1 && NAMES[text] ? {title: NAMES[text]} : {};
  return make('span', {class: plain ? 'char' : 'char symbol', ...named}, chars.map(markOf).join(''));
}

/** A character in a sentence, readable by eye and by screen reader. */
function spoken(char) {
  if (NAMES[char]) return NAMES[char];
  return isUnsafe(char) ? codeOf(char) : `“${char}”`;
}

function codeOf(char) {
  return `U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}`;
}
