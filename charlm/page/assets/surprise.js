'use strict';
// The view Surprise: a text coloured by the bits that each character costs the model.

const MOST_SCORED = 200_000; // characters; a longer text is for `charlm surprisal`
const MEASURED_AT_ONCE = 4000; // longest text, in characters, that is measured while it is written
const ROWS_SHOWN = 20;

class Surprise {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.editor = new Editor(byId('surprise-editor'), {label: 'Text to measure', hint: 'Paste or write a text.',
      classes: 'inked short', dress: (i) => this.colourOf(i)});
    this.table = new UnitTable((at) => this.goTo(at));
    this.edges = page.data.edges;
    this.bits = [];
    this.entropy = [];
    this.running = null;
    const soon = delayed(() => this.editor.length <= MEASURED_AT_ONCE && this.measure(), 500);
    this.editor.onEdit = (first) => {
      this.forget(first);
      soon();
    };
    this.editor.onCaret = (at) => this.read(at, true);
    this.editor.onPoint = (at) => this.read(at ?? this.editor.caret, false);
    byId('measure').addEventListener('click', () => this.measure());
    byId('measure-cancel').addEventListener('click', () => this.stop('Cancelled.'));
    byId('measure-desk').addEventListener('click', () => {
      this.editor.setText(page.desk.editor.text);
      this.measure();
    });
    this.showLegend();
    this.forget();
  }

  /** The colour class of a character; the steps are those of `charlm surprisal --format html`. */
  colourOf(i) {
    if (this.bits[i] === undefined) return '';
    return `bits-${this.edges.filter((edge) => this.bits[i] >= edge).length}`;
  }

  showLegend() {
    const {edges} = this, between = edges.slice(1).map((edge, i) => `${edges[i]} to ${edge}`);
    const said = [`under ${edges[0]}`, ...between, `${edges.at(-1)} or more`];
    byId('legend').replaceChildren(...said.map((text, i) => make('li', {class: `bits-${i}`}, text)),
      make('li', {class: 'unit'}, 'bits per character'));
  }

  /** Drop the figures from character `first` on, since the text or the run has changed; those before it stay valid. */
  forget(first = 0) {
    this.stop('');
    this.bits.length = this.entropy.length = Math.min(first, this.bits.length);
    this.editor.repaint(first);
    show(false, byId('surprise-total'), byId('surprise-units'));
    byId('surprise-at').textContent = '';
    byId('measure').disabled = this.editor.length === 0;
  }

  /** Measure the whole text, and colour it as figures come. */
  async measure() {
    const {editor, page} = this;
    this.forget(editor.length);
    if (!editor.length) return;
    if (editor.length > MOST_SCORED) {
      byId('surprise-at').textContent = `The text has ${count(editor.length)} characters; this page measures up to ` +
        `${count(MOST_SCORED)}. For longer ones there is the command charlm surprisal.`;
      return;
    }
    const running = this.running = new AbortController(), {signal} = running;
    const waiting = setTimeout(() => show(true, byId('measure-cancel'), byId('measure-progress')), 300);
    let painted = 0, measured = 0;
    const colour = () => {
      if (signal.aborted) return;
      editor.repaint(painted, measured);
      painted = measured;
      byId('measure-progress').value = painted / editor.length;
    };
    const drawing = setInterval(colour, 100);
    try {
      for await (const piece of page.engine.score(editor.text, signal)) {
        if (signal.aborted) break;
        piece.bits.forEach((bits, i) => {
          this.bits[piece.start + i] = bits;
          this.entropy[piece.start + i] = piece.entropy[i];
        });
        measured = piece.start + piece.bits.length;
      }
    } catch (error) {
      if (!signal.aborted) byId('surprise-at').textContent = error.message;
    }
    clearInterval(drawing);
    clearTimeout(waiting);
    if (signal.aborted) return;
    colour();
    this.stop('');
    if (measured === editor.length) this.showTotals();
  }

  stop(said) {
    this.running?.abort();
    this.running = null;
    show(false, byId('measure-cancel'), byId('measure-progress'));
    if (said) this.say(said);
  }

  /** Describe the result for the whole text. */
  summary() {
    const {bits} = this;
    return `${count(bits.length)} characters, ${(sum(bits, 0, bits.length) / bits.length).toFixed(3)} bits per character`;
  }

  showTotals() {
    const {bits, editor, page} = this, total = sum(bits, 0, bits.length), per = total / bits.length;
    const rows = [['This text', per], ...page.yardstick()], most = Math.max(...rows.map(([, value]) => value));
    byId('surprise-total').replaceChildren(
      make('div', {class: 'number'}, `${per.toFixed(3)} `, make('small', {}, 'bits per character')),
      make('p', {class: 'soft'}, `${count(bits.length)} characters, ${count(Math.round(total))} bits`),
      make('div', {class: 'yardstick'}, ...rows.flatMap(([name, value], i) => [make('span', {}, name),
        makeBar(value / most, i ? 'other' : ''), make('span', {}, value.toFixed(2))])));
    show(true, byId('surprise-total'), byId('surprise-units'));
    this.table.fill(editor.chars, bits);
    this.say(`Measured: ${this.summary()}.`);
    this.read(editor.caret, false);
  }

  /** Show what the character at a position cost. */
  read(at, isHeard) {
    const {bits, entropy, editor} = this, line = byId('surprise-at');
    if (bits[at] === undefined) {
      editor.boxAround(null);
      if (bits.length && bits.length === editor.length) line.textContent = this.summary();
      return;
    }
    editor.boxAround(at);
    const char = spoken(editor.chars[at]), cost = `${bits[at].toFixed(2)} bits`;
    const rest = `: the model gave it ${percent(2 ** -bits[at])}; it expected ${entropy[at].toFixed(2)} bits here (entropy)`;
    line.replaceChildren(`${char} `, make('strong', {}, cost), rest);
    if (isHeard) this.say(`${char} ${cost}`);
  }

  goTo(at) {
    this.editor.area.focus({preventScroll: true});
    this.editor.caret = at;
    this.read(at, true);
    this.editor.bringToMiddle(at);
    this.editor.root.scrollIntoView({block: 'nearest', behavior: 'instant'});
  }

  say(text) {
    byId('surprise-status').textContent = text;
  }
}

/** Format a number with separators of thousands. */
function count(n) {
  return n.toLocaleString('en');
}

/** The sum of some of the numbers of an array. */
function sum(numbers, from, to) {
  let total = 0;
  for (let i = from; i < to; i++) total += numbers[i];
  return total;
}
