'use strict';
// The page: its views around an engine, which computes in the page (LocalEngine) or on a server (RemoteEngine).

class Page {
  /** @param {Object} engine has the methods open, next, generate, score, inside, and forRun if there are several runs */
  constructor(engine) {
    this.engine = engine;
    this.data = JSON.parse(byId('page-data').textContent);
    this.desk = new Desk(this);
    this.surprise = new Surprise(this);
    this.inside = new Inside(this);
    this.tabs = new Tabs((name) => name === 'inside' && this.info && this.inside.enter());
    byId('run').addEventListener('change', () => this.use(byId('run').value));
  }

  /** Open the model and show the views. */
  async open() {
    try {
      this.take(await this.engine.open());
    } catch (error) {
      this.fail(error);
      return;
    }
    byId('opening').hidden = true;
    this.tabs.openNamed();
  }

  /** Switch to another run of the engine. */
  async use(name) {
    this.desk.stop();
    const engine = this.engine.forRun(name);
    try {
      const info = await engine.open();
      this.engine = engine;
      this.take(info);
    } catch (error) {
      this.fail(error);
      byId('run').value = this.info.name;
    }
  }

  /** Show everything of a run. */
  take(info) {
    this.info = info;
    byId('run-name').textContent = visibleText(info.name);
    byId('run-line').textContent = lineOf(info);
    document.title = `${visibleText(info.name)} · charlm`;
    const names = info.runs.map(({name}) => name);
    show(names.length > 1, byId('run-chooser'));
    byId('run').replaceChildren(...names.map((name) => make('option', {value: name, ...(name === info.name ?
      {selected: true} : {})}, visibleText(name))));
    this.desk.beside.offer(names.filter((name) => name !== info.name));
    this.surprise.forget();
    this.inside.open();
    showAbout(info, this.data.notes);
    byId('notice').hidden = true;
  }

  /** The reference values for the bits of a text: names and bits per character. */
  yardstick() {
    const known = this.info.about.figures.filter(({key}) => key === 'held-out' || key === 'baseline');
    return [...known.map(({label, value}) => [label, value]),
      [`All ${count(this.info.nSymbols)} symbols alike`, Math.log2(this.info.nSymbols)]];
  }

  fail(error) {
    byId('opening').hidden = true;
    byId('notice').textContent = error.message;
    byId('notice').hidden = false;
  }
}

/** Describe a run in one line: its kind and size. */
function lineOf({kind, members, blockSize, units}) {
  const unit = units === 'bytes' ? 'bytes' : 'characters';
  const what = kind === 'mixture' ? `mixture of ${members.map((member) => member.kind).join(', ')}` :
    kind === 'ngram' ? 'n-gram model' : `transformer, ${members[0].nLayer} layers of width ${members[0].nEmbd}`;
  return kind === 'ngram' ? what : `${what}; sees ${count(blockSize)} ${unit}`;
}

/** Open the page around an engine. */
function startPage(engine) {
  const page = new Page(engine);
  page.open();
  return page;
}
