'use strict';
// An editor: a textarea, and behind it the same text, whose background is painted character by character.
// Positions count code points; `units` are JavaScript's string units (UTF-16).

const PAINTED_TOGETHER = 1000; // characters of a block, which is painted as a whole

class Editor {
  /**
   * @param {HTMLElement} place is replaced by the editor
   * @param {{label: string, described?: string, hint?: string, classes?: string, dress?: (i: number) => string}} options
   *   `dress` gives the classes of the paint behind character i
   */
  constructor(place, {label, described = '', hint = '', classes = '', dress = () => ''}) {
    this.area = make('textarea', {'aria-label': label, placeholder: hint, spellcheck: 'false', autocapitalize: 'off',
      autocomplete: 'off', rows: '1', ...(described ? {'aria-describedby': described} : {})});
    this.paint = make('div', {class: 'paint', 'aria-hidden': 'true'});
    this.box = make('div', {class: 'box', hidden: true});
    this.root = make('div', {class: `editor ${classes}`}, this.paint, this.area, this.box);
    place.replaceWith(this.root);
    this.root.id = place.id;
    this.dress = dress;
    this.chars = []; // of the text
    this.shown = []; // the symbols in the textarea
    this.origins = []; // 0: typed, else the number of the continuation that wrote it
    this.units = new Uint32Array(1); // where each character begins in the textarea
    this.blocks = [];
    this.history = new EditHistory();
    this.onType = () => {}; // before a person changes the text
    this.onEdit = () => {}; // after any change
    this.onCaret = () => {};
    this.onPoint = () => {};
    this.listen();
    this.refresh(0);
  }

  listen() {
    this.area.addEventListener('input', (event) => event.isComposing || this.readEdit());
    this.area.addEventListener('compositionend', () => this.readEdit());
    this.area.addEventListener('beforeinput', (event) => {
      if (event.inputType === 'historyUndo' || event.inputType === 'historyRedo') {
        event.preventDefault();
        this.applyEdits(event.inputType === 'historyUndo' ? this.history.undo() : this.history.redo());
      }
    });
    this.area.addEventListener('keydown', (event) => {
      const key = event.key.toLowerCase(), isCommand = (event.ctrlKey || event.metaKey) && !event.altKey;
      if (isCommand && (key === 'z' || key === 'y')) {
        event.preventDefault();
        this.applyEdits(key === 'z' && !event.shiftKey ? this.history.undo() : this.history.redo());
      }
    });
    for (const name of ['copy', 'cut']) this.area.addEventListener(name, (event) => this.copy(event));
    this.area.addEventListener('paste', (event) => this.pasteFrom(event));
    document.addEventListener('selectionchange', () => {
      if (document.activeElement === this.area) this.onCaret(this.caret);
    });
    let waiting = false;
    this.area.addEventListener('pointermove', (event) => {
      if (waiting || event.pointerType === 'touch') return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        this.onPoint(this.offsetAt(event.clientX, event.clientY), event);
      });
    });
    this.area.addEventListener('pointerleave', (event) => this.onPoint(null, event));
  }

  /** The text itself. */
  get text() {
    return this.chars.join('');
  }

  get length() {
    return this.chars.length;
  }

  /** The number of characters before the caret. */
  get caret() {
    return this.atUnit(this.area.selectionEnd);
  }

  set caret(at) {
    this.select(at, at);
  }

  get selection() {
    return [this.atUnit(this.area.selectionStart), this.atUnit(this.area.selectionEnd)];
  }

  select(from, to) {
    this.area.setSelectionRange(this.units[from], this.units[to]);
  }

  /** The character that contains a unit. */
  atUnit(unit) {
    let low = 0, high = this.chars.length;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.units[middle] <= unit) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Replace the whole text, as if typed. */
  setText(text) {
    this.splice(0, this.length, Array.from(text.replace(/\r\n?/g, '\n')), {group: 'set'});
  }

  /**
   * Replace `count` characters by others.
   * @param {{origin?: number, origins?: number[], group?: string, caret?: number}} options the caret goes to the end of what was inserted by default
   */
  splice(at, count, chars, {origin = 0, origins = null, group = 'typing', caret = at + chars.length} = {}) {
    const inserted = {chars, origins: origins ?? chars.map(() => origin)};
    const removed = this.exchange(at, count, inserted);
    this.history.add({at, removed, inserted}, group);
    this.refresh(at);
    this.caret = caret;
    this.onEdit(at);
  }

  exchange(at, count, {chars, origins}) {
    const removed = {chars: this.chars.slice(at, at + count), origins: this.origins.slice(at, at + count)};
    this.chars = this.chars.slice(0, at).concat(chars, this.chars.slice(at + count));
    this.origins = this.origins.slice(0, at).concat(origins, this.origins.slice(at + count));
    return removed;
  }

  applyEdits(edits) {
    if (!edits.length) return;
    this.onType();
    let caret = 0;
    for (const {at, removed, inserted} of edits) {
      this.exchange(at, removed.chars.length, inserted);
      caret = at + inserted.chars.length;
    }
    const first = Math.min(...edits.map(({at}) => at));
    this.refresh(first);
    this.caret = caret;
    this.onEdit(first);
  }

  /** Find what was typed, pasted or deleted, by comparing the textarea with what was shown. */
  readEdit() {
    const now = Array.from(this.area.value), before = this.shown;
    const caret = Array.from(this.area.value.slice(0, this.area.selectionEnd)).length;
    let same = 0; // unchanged characters after the edit; the insertion ends at the caret
    const most = Math.min(before.length, now.length - caret);
    while (same < most && before[before.length - 1 - same] === now[now.length - 1 - same]) same++;
    let at = 0;
    const least = Math.min(before.length, now.length) - same;
    while (at < least && before[at] === now[at]) at++;
    const chars = now.slice(at, now.length - same), count = before.length - same - at;
    if (!chars.length && !count) return;
    this.onType();
    this.splice(at, count, chars, {caret});
  }

  /** Copy the characters themselves, not their symbols. */
  copy(event) {
    const [from, to] = this.selection;
    if (from === to) return;
    event.clipboardData.setData('text/plain', this.chars.slice(from, to).join(''));
    event.preventDefault();
    if (event.type !== 'cut') return;
    this.onType();
    this.splice(from, to - from, [], {group: 'cut'});
  }

  /** Paste, since browsers take seconds to insert long texts into a textarea themselves. */
  pasteFrom(event) {
    event.preventDefault();
    const text = event.clipboardData.getData('text/plain').replace(/\r\n?/g, '\n'), [from, to] = this.selection;
    if (!text) return;
    this.onType();
    this.splice(from, to - from, Array.from(text), {group: 'paste'});
  }

  /** Show the text, which has changed from character `first` on. */
  refresh(first) {
    this.shown = this.chars.map(symbolOf);
    const units = new Uint32Array(this.shown.length + 1);
    for (let i = 0; i < this.shown.length; i++) units[i + 1] = units[i] + this.shown[i].length;
    this.units = units;
    const value = this.shown.join('');
    if (this.area.value !== value) this.area.value = value;
    this.repaint(first, Infinity);
  }

  /** Repaint the characters from `first` up to `after`. */
  repaint(first = 0, after = Infinity) {
    const n = Math.floor(this.length / PAINTED_TOGETHER) + 1;
    while (this.blocks.length > n) this.blocks.pop().remove();
    while (this.blocks.length < n) {
      this.blocks.push(make('span'));
      this.paint.append(this.blocks.at(-1));
    }
    const last = Math.min(n - 1, Math.floor((after - 1) / PAINTED_TOGETHER));
    for (let i = Math.floor(first / PAINTED_TOGETHER); i <= last; i++) this.paintBlock(i);
  }

  paintBlock(number) {
    const begin = number * PAINTED_TOGETHER, end = Math.min(this.length, begin + PAINTED_TOGETHER), runs = [];
    let from = begin;
    while (from < end) {
      const classes = this.classesOf(from);
      let to = from + 1;
      while (to < end && this.classesOf(to) === classes) to++;
      const run = make('span', {}, this.shown.slice(from, to).join(''));
      if (classes) run.className = classes;
      runs.push(run);
      from = to;
    }
    if (end === this.length) runs.push('\u200b'); // gives a last empty line its height
    this.blocks[number].replaceChildren(...runs);
  }

  classesOf(i) {
    const classes = this.dress(i);
    return this.shown[i] === this.chars[i] ? classes : `${classes} control`.trim();
  }

  /** The rectangle of character i on the screen. */
  rectOf(i) {
    const block = this.blocks[Math.min(this.blocks.length - 1, Math.floor(i / PAINTED_TOGETHER))];
    let unit = this.units[i] - this.units[this.blocks.indexOf(block) * PAINTED_TOGETHER];
    for (const run of block.childNodes) {
      const node = run.firstChild ?? run, length = node.data.length;
      if (unit < length) {
        const range = document.createRange(), size = i < this.length ? this.shown[i].length : 1;
        range.setStart(node, unit);
        range.setEnd(node, unit + size);
        return range.getClientRects()[0] ?? range.getBoundingClientRect();
      }
      unit -= length;
    }
    return block.getBoundingClientRect();
  }

  /** The index of the character at a point of the screen, or null beside the text. */
  offsetAt(x, y) {
    let low = 0, high = this.length; // the first character whose line ends below the point
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rectOf(middle).bottom > y) high = middle;
      else low = middle + 1;
    }
    for (let i = low; i < this.length; i++) {
      const rect = this.rectOf(i);
      if (rect.top > y) return null;
      if (rect.left <= x && x < rect.right) return i;
    }
    return null;
  }

  /** Scroll within the editor until character i is in the middle. */
  bringToMiddle(i) {
    this.root.scrollTop += this.rectOf(i).top - this.root.getBoundingClientRect().top - this.root.clientHeight / 2;
  }

  /** Draw a box around a character, or around none. */
  boxAround(i) {
    show(i !== null && i <= this.length, this.box);
    if (this.box.hidden) return;
    const rect = this.rectOf(i), around = this.root.getBoundingClientRect();
    Object.assign(this.box.style, {left: `${rect.left - around.left - 2}px`,
      top: `${rect.top - around.top + this.root.scrollTop - 2}px`,
      width: `${Math.max(rect.width, 6) + 2}px`, height: `${rect.height + 2}px`});
  }
}
