'use strict';
// The alternatives to one character: a list beside it with their probabilities, from which one can be chosen.

const CHOICES_SHOWN = 8;
const REST = 250; // milliseconds that a pointer rests on a character before its alternatives are shown

class Choices {
  /**
   * @param {Editor} editor
   * @param {() => Object} engine
   * @param {(at: number, text: string) => void} choose is told which character was chosen, and where
   */
  constructor(editor, engine, choose) {
    Object.assign(this, {editor, engine, choose, at: null, options: [], selected: 0, asked: 0, isPinned: false});
    this.head = make('p', {id: 'choices-head'});
    this.list = make('div', {role: 'listbox', tabindex: '0', 'aria-labelledby': 'choices-head',
      onkeydown: (event) => this.press(event)});
    this.root = make('div', {class: 'choices', hidden: true}, this.head, this.list);
    editor.root.append(this.root);
    this.rest = delayed((at) => this.follow(at), REST);
    this.root.addEventListener('pointerenter', () => this.rest(this.at));
    this.root.addEventListener('pointerleave', () => this.rest(null));
    this.root.addEventListener('focusout', (event) => this.root.contains(event.relatedTarget) || this.close());
    document.addEventListener('pointerdown', (event) => this.root.contains(event.target) || this.close());
  }

  get isOpen() {
    return !this.root.hidden;
  }

  /** Show the alternatives of the character under a resting pointer, or hide them if there is none. */
  follow(at) {
    if (this.isPinned || at === this.at) return;
    if (at === null) this.close();
    else this.open(at, false);
  }

  /**
   * Show the alternatives of the character at `at`, or what could follow the end of the text.
   * @param {number} at
   * @param {boolean} isPinned keep them open, with the keyboard focus in them
   */
  async open(at, isPinned) {
    const asked = ++this.asked;
    Object.assign(this, {at, isPinned});
    let found;
    try {
      found = await this.engine().next(this.editor.chars.slice(0, at).join(''), {n: CHOICES_SHOWN});
    } catch (error) {
      found = {next: [], entropy: null, error: error.message};
    }
    if (asked !== this.asked) return; // something else was asked for meanwhile
    this.fill(found);
    this.place();
    if (isPinned) this.list.focus({preventScroll: true});
  }

  fill({next, error}) {
    const now = this.editor.chars[this.at];
    this.head.textContent = error ?? (now === undefined ? 'Next character' : `In place of ${spoken(now)}`);
    this.options = next;
    this.list.replaceChildren(...next.map(({text, p}, i) => make('div', {role: 'option', id: `choice-${i}`,
      class: text === now ? 'now' : '', 'aria-label': `${spoken(text)}, ${percent(p)}`,
      onpointermove: () => this.select(i), onclick: () => this.take(i)},
    charElement(text), makeBar(p), make('span', {class: 'p'}, percent(p)))));
    this.select(Math.max(0, next.findIndex(({text}) => text === now)));
  }

  place() {
    show(true, this.root);
    const {editor, root} = this;
    const rect = editor.rectOf(this.at), around = editor.root.getBoundingClientRect();
    const left = Math.min(rect.left - around.left - 24, around.width - root.offsetWidth - 8);
    const isBelow = rect.bottom + root.offsetHeight < innerHeight || rect.top - root.offsetHeight < 0;
    const top = isBelow ? rect.bottom - around.top : rect.top - around.top - root.offsetHeight;
    Object.assign(root.style, {left: `${Math.max(8, left)}px`, top: `${top}px`});
    editor.boxAround(this.at);
  }

  close() {
    this.asked++;
    this.at = null;
    this.isPinned = false;
    show(false, this.root);
    this.editor.boxAround(null);
  }

  select(i) {
    this.selected = i;
    [...this.list.children].forEach((option, j) => option.setAttribute('aria-selected', String(i === j)));
    if (this.options.length) this.list.setAttribute('aria-activedescendant', `choice-${i}`);
    else this.list.removeAttribute('aria-activedescendant');
  }

  take(i) {
    const {at, options} = this;
    this.leave();
    if (options[i]) this.choose(at, options[i].text);
  }

  leave() {
    this.close();
    this.editor.area.focus({preventScroll: true});
  }

  press(event) {
    const last = this.options.length - 1, {key} = event;
    const to = {ArrowDown: Math.min(last, this.selected + 1), ArrowUp: Math.max(0, this.selected - 1), Home: 0, End: last}[key];
    const beside = {ArrowLeft: this.at - 1, ArrowRight: this.at + 1}[key];
    if (to !== undefined) this.select(to);
    else if (beside !== undefined && beside >= 0 && beside <= this.editor.length) this.open(beside, true);
    else if (key === 'Enter' || key === ' ') this.take(this.selected);
    else if (key === 'Escape') {
      const {at} = this;
      this.leave();
      this.editor.caret = at;
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
