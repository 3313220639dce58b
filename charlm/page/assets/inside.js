'use strict';
// The view Inside: what a transformer does to predict the character after the caret.

const LOOK_STEPS = 12; // shades of attention

class Inside {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.editor = new Editor(byId('inside-editor'), {label: 'Text to look into; the caret chooses the character',
      hint: 'Write or paste a text.', classes: 'short', dress: (i) => this.lookOf(i)});
    Object.assign(this, {member: 0, layer: 0, head: -1, at: 0, found: null, weights: [], asked: 0});
    const soon = delayed(() => this.look(), 120);
    this.editor.onEdit = () => {
      this.forget();
      soon();
    };
    this.editor.onCaret = (at) => at !== this.at && soon();
    byId('inside-desk').addEventListener('click', () => this.take(page.desk.editor.text));
    byId('inside-left').addEventListener('click', () => this.move(-1));
    byId('inside-right').addEventListener('click', () => this.move(1));
  }

  /** Offer the transformers of a run; without any, only the prediction can be shown. */
  open() {
    const {info} = this.page, members = this.transformers();
    this.member = members[0]?.number ?? 0;
    fillChips(byId('members'), 'member', members.map(({kind, number}) => `${number + 1}, ${kind}`), 0, (i) => {
      this.member = members[i].number;
      this.look();
    });
    show(members.length > 1, byId('members'));
    byId('changed-hint').textContent = info.members.length > 1 ?
      'What the n-gram prior says, what this member makes of it, and what the whole mixture predicts.' :
      'What the n-gram prior says, and what the transformer makes of it.';
    this.forget();
    if (!byId('inside').hidden) this.enter();
  }

  transformers() {
    return this.page.info.members.map((member, number) => ({...member, number})).filter(({kind}) => kind !== 'ngram');
  }

  /** Show the view, with the text of the desk if it has none yet. */
  enter() {
    if (!this.editor.length) this.take(this.page.desk.editor.text);
    else this.look();
  }

  take(text) {
    this.editor.setText(text);
    this.editor.bringToMiddle(this.editor.caret);
    this.look();
  }

  move(step) {
    const to = this.at + step;
    const {editor} = this;
    if (to < 0 || to > editor.length) return;
    editor.caret = to;
    editor.bringToMiddle(to);
    this.look();
  }

  forget() {
    this.asked++;
    this.found = null;
    this.weights = [];
    this.editor.repaint();
    this.editor.boxAround(null);
    show(false, byId('inside-found'), byId('layers'), byId('heads'));
  }

  /** Ask how the character at the caret is predicted, and show it. */
  async look() {
    const asked = ++this.asked, {editor, page} = this, at = editor.caret;
    this.at = at;
    editor.boxAround(at);
    let found;
    try {
      found = this.transformers().length ? await page.engine.inside(editor.text, at, {member: this.member}) :
        {start: at, layers: [], lens: [], prior: null, member: [], final: (await page.engine.next(
          editor.chars.slice(0, at).join(''), {n: 5})).next};
    } catch (error) {
      if (asked === this.asked) byId('inside-said').textContent = error.message;
      return;
    }
    if (asked !== this.asked) return;
    this.found = found;
    this.offerLayers();
    this.showAttention();
    this.showPredictions();
  }

  offerLayers() {
    const {layers} = this.found, n = layers.length;
    this.layer = Math.min(this.layer, Math.max(0, n - 1));
    fillChips(byId('layers'), 'layer', layers.map((_, i) => `${i + 1}`), this.layer, (i) => {
      this.layer = i;
      this.offerHeads();
      this.showAttention();
    });
    this.offerHeads();
    show(n > 0, byId('layers'));
  }

  offerHeads() {
    const heads = this.found.layers[this.layer]?.heads ?? [];
    if (this.head >= heads.length) this.head = -1;
    const labels = heads.length > 1 ? ['Mean', ...heads.map((_, i) => `${i + 1}`)] : heads.map(() => '1');
    const shift = heads.length > 1 ? 1 : 0;
    if (heads.length === 1) this.head = 0;
    fillChips(byId('heads'), 'head', labels, this.head + shift, (i) => {
      this.head = i - shift;
      this.showAttention();
    });
    show(heads.length > 0, byId('heads'));
  }

  /** Shade the text by the attention of the chosen head. */
  showAttention() {
    const {layers, start} = this.found, heads = layers[this.layer]?.heads ?? [];
    const chosen = this.head < 0 ? heads : [heads[this.head]];
    this.weights = heads.length ? chosen[0].map((_, i) => chosen.reduce((all, head) => all + head[i], 0) / chosen.length) : [];
    this.most = Math.max(...this.weights, 1e-9);
    this.editor.repaint();
    this.editor.boxAround(this.at);
    byId('inside-said').textContent = this.saidOf(start);
  }

  /** Say which character is predicted, and where the attention goes. */
  saidOf(start) {
    const {editor, at, weights, found} = this;
    const what = at < editor.length ? `Predicting ${spoken(editor.chars[at])}, character ${count(at + 1)},` : 'Predicting what follows';
    const seen = at - start, from = `${what} from ${seen === 1 ? 'the character' : `the ${count(seen)} characters`} before it`;
    if (!found.layers.length) return `${what.replace(/,$/, '')}. An n-gram model has no layers to look into.`;
    if (!weights.length) return `${from}. Layer ${this.layer + 1} mixes without attention.`;
    const ranked = weights.map((weight, i) => ({weight, i})).sort((a, b) => b.weight - a.weight).slice(0, 3);
    const places = ranked.map(({weight, i}) => `${spoken(editor.chars[start + i])} ${at - start - i} back (${percent(weight)})`);
    return `${from}; looks most at ${places.join(', ')}.`;
  }

  lookOf(i) {
    if (!this.found || !this.weights.length) return '';
    const share = (this.weights[i - this.found.start] ?? 0) / this.most;
    const step = Math.round(LOOK_STEPS * Math.sqrt(share));
    return step > 0 ? `look-${step}` : '';
  }

  showPredictions() {
    const {found, editor, at} = this, truth = editor.chars[at];
    const name = this.page.info.members.length > 1 ? 'This member' : 'Transformer';
    const columns = [['Prior', found.prior], [name, found.member.length ? found.member : null],
      [this.page.info.members.length > 1 ? 'Whole mixture' : 'Whole model', found.final]].filter(([, list]) => list);
    byId('changed').replaceChildren(changedTable(columns, truth));
    const stages = found.lens.map((list, i) => [i ? `Layer ${i}` : 'Embedding', list]);
    byId('lens').replaceChildren(lensTable([...stages, ...columns.slice(found.prior ? 1 : 0)], truth));
    show(true, byId('inside-found'));
    byId('lens').parentElement.hidden = !found.lens.length;
  }
}
