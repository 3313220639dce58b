'use strict';
// Another run's continuation of the same text, side by side with the desk.

class Beside {
  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    this.chars = [];
    this.running = new AbortController();
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
    const {value} = byId('beside-run');
    this.running.abort();
    this.chars = [];
    show(value !== '', byId('beside-pane'));
    byId('beside-name').textContent = `Continued by ${visibleText(value)}`;
    byId('beside-text').textContent = '';
    byId('beside-use').disabled = true;
  }

  /** Continue a text under the run that was chosen, if one was. */
  async write(text, settings, signal) {
    const run = byId('beside-run').value, pane = byId('beside-text');
    if (!run) return;
    this.clear();
    const running = this.running = new AbortController();
    signal.addEventListener('abort', () => running.abort());
    try {
      for await (const piece of this.desk.page.engine.forRun(run).generate(text, settings, running.signal)) {
        if (running.signal.aborted) return;
        this.chars.push(...Array.from(piece.text));
        pane.append(visibleText(piece.text));
      }
    } catch (error) {
      if (!running.signal.aborted) pane.textContent = error.message;
    }
    if (this.running === running) byId('beside-use').disabled = this.chars.length === 0;
  }
}
