'use strict';
// The same text continued by another run, side by side with the desk.

class Beside {
  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    this.chars = [];
    byId('beside-use').addEventListener('click', () => desk.use(this.chars));
    byId('beside-run').addEventListener('change', () => this.clear());
  }

  /** Offer the runs other than the one of the page. */
  offer(names) {
    show(names.length > 0, byId('beside'));
    byId('beside-run').replaceChildren(make('option', {value: ''}, 'no other run'),
      ...names.map((name) => make('option', {value: name}, visibleText(name))));
    this.clear();
  }

  clear() {
    this.chars = [];
    show(false, byId('beside-text'), byId('beside-use'));
  }

  /** Continue a text under the run that was chosen, if one was. */
  async write(text, settings, signal) {
    const run = byId('beside-run').value, pane = byId('beside-text');
    if (!run) return;
    this.clear();
    show(true, pane);
    pane.textContent = '';
    try {
      for await (const piece of this.desk.page.engine.forRun(run).generate(text, settings, signal)) {
        this.chars.push(...Array.from(piece.text));
        pane.append(visibleText(piece.text));
      }
    } catch (error) {
      pane.textContent = error.message;
    }
    show(this.chars.length > 0, byId('beside-use'));
  }
}
