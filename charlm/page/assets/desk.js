'use strict';
// The view Desk: a text that a person and the model write together.

/** Decode the escapes \n, \t and \\ in the text of an option. */
function unescaped(text) {
  return text.replace(/\\([nt\\])/g, (_, char) => ({n: '\n', t: '\t', '\\': '\\'})[char]);
}

class Desk {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.editor = new Editor(byId('desk-editor'), {label: 'Text', described: 'desk-keys',
      hint: 'Write something, or nothing, and let the model continue it.',
      dress: (i) => (this.editor.origins[i] ? 'written' : '')});
    this.settings = new DeskSettings();
    this.choices = new Choices(this.editor, () => page.engine, (at, text) => this.choose(at, text));
    this.beside = new Beside(this);
    this.last = []; // continuations: {id, prefix, replaced, versions: string[][], version}
    this.ids = 0;
    this.running = null; // an AbortController
    this.listen();
    this.update();
  }

  listen() {
    const {editor} = this;
    byId('continue').addEventListener('click', () => (this.running ? this.stop() : this.continueAt(editor.caret)));
    byId('again').addEventListener('click', () => this.again());
    byId('back').addEventListener('click', () => this.takeBack());
    byId('alternatives').addEventListener('click', () => this.openChoices());
    byId('version-before').addEventListener('click', () => this.showVersion(-1));
    byId('version-after').addEventListener('click', () => this.showVersion(1));
    editor.area.addEventListener('keydown', (event) => this.press(event));
    editor.onType = () => this.running && this.stop();
    editor.onEdit = () => {
      this.choices.close();
      this.update();
    };
    editor.onPoint = (at, event) => event.buttons === 0 && !this.running && this.choices.rest(at);
    editor.area.addEventListener('click', (event) => {
      const at = event.pointerType === 'touch' ? editor.offsetAt(event.clientX, event.clientY) : null;
      if (at !== null && editor.origins[at] && !this.running) this.choices.open(at, true);
    });
  }

  press(event) {
    const {key} = event, isPlain = !event.ctrlKey && !event.metaKey && !event.altKey && !event.shiftKey;
    if (event.isComposing) return;
    if (key === 'Tab' && isPlain && byId('tab-writes').checked) {
      if (!this.running) this.continueAt(this.editor.caret);
    } else if (key === 'Enter' && (event.ctrlKey || event.metaKey)) this.again();
    else if (key === 'Escape' && isPlain) this.choices.isOpen ? this.choices.close() : this.takeBack();
    else if (key === 'ArrowDown' && event.altKey) this.openChoices();
    else if (key.toLowerCase() === 'm' && event.ctrlKey) this.switchTab();
    else return;
    event.preventDefault();
  }

  switchTab() {
    const box = byId('tab-writes');
    box.checked = !box.checked;
    this.say(box.checked ? 'The Tab key continues the text.' : 'The Tab key leaves the text.');
  }

  openChoices() {
    this.stop();
    this.choices.open(this.editor.caret, true);
  }

  /**
   * Continue the text at a position.
   * @param {number} at
   * @param {{prefix: string[], replaced: {chars: string[], origins: number[]}}} [chosen] characters that every version
   *   begins with, and what comes back when the continuation is taken back
   */
  async continueAt(at, {prefix = [], replaced = {chars: [], origins: []}} = {}) {
    const settings = this.settings.read();
    if (!settings) return;
    const seed = settings.seed ?? Math.floor(Math.random() * 2 ** 32);
    this.last.push({id: ++this.ids, prefix, replaced, versions: [], version: 0});
    await this.write(this.last.at(-1), at, {...settings, seed});
  }

  /** Write a version of a continuation at a position, as it is generated. */
  async write(continuation, at, settings) {
    this.stop();
    const running = this.running = new AbortController(), {editor, page} = this, {id, prefix} = continuation;
    const {signal} = running, before = editor.chars.slice(0, at).concat(prefix).join('');
    let waiting = [], chars = 0, bits = 0, place = at + prefix.length;
    if (prefix.length) editor.splice(at, 0, prefix, {origin: id, group: `continuation ${id}`});
    const flush = () => {
      if (signal.aborted || !waiting.length) return;
      const isFollowed = isInSight(editor.rectOf(place));
      editor.splice(place, 0, waiting, {origin: id, group: `continuation ${id}`});
      place += waiting.length;
      waiting = [];
      if (isFollowed) bringInSight(editor.rectOf(place));
      byId('desk-progress').textContent = `${chars} of ${settings.length} characters`;
    };
    this.update();
    this.say('Writing.');
    this.beside.write(before, settings, signal);
    const drawing = setInterval(flush, 40);
    let failure = '';
    try {
      for await (const piece of page.engine.generate(before, settings, signal)) {
        if (signal.aborted) break;
        const more = Array.from(piece.text);
        waiting.push(...more);
        chars += more.length;
        bits += piece.bits;
      }
    } catch (error) {
      failure = error.message;
    }
    clearInterval(drawing);
    flush();
    if (this.running === running) this.running = null;
    this.finish(continuation, {chars, bits, seed: settings.seed, failure, isStopped: signal.aborted});
  }

  finish(continuation, {chars, bits, seed, failure, isStopped}) {
    const written = this.charsOf(continuation.id);
    if (written.length) {
      continuation.version = continuation.versions.push(written) - 1;
    } else if (!continuation.versions.length) {
      this.last = this.last.filter((other) => other !== continuation);
    }
    const per = chars ? `, ${(bits / chars).toFixed(2)} bits per character` : '';
    const said = failure || `${isStopped ? 'Stopped: ' : ''}${chars} characters${per}, seed ${seed}`;
    byId('desk-progress').textContent = said;
    this.say(said);
    this.update();
  }

  charsOf(id) {
    return this.editor.chars.filter((_, i) => this.editor.origins[i] === id);
  }

  /** Stop the continuation being written; what is there so far stays. */
  stop() {
    this.running?.abort();
    this.running = null;
    this.update();
  }

  /** Stop the continuation being written, or else take the last one back. */
  takeBack() {
    if (this.running) return this.stop();
    const continuation = this.newest();
    if (!continuation) return this.say('There is nothing to take back.');
    const at = this.remove(continuation);
    if (continuation.replaced.chars.length) {
      const {chars, origins} = continuation.replaced;
      this.editor.splice(at, 0, chars, {origins, group: `back ${continuation.id}`, caret: at});
    }
    byId('desk-progress').textContent = 'Taken back';
    return this.say('Taken back.');
  }

  /** The last continuation that is still in the text, at least in part. */
  newest() {
    return this.last.filter(({id}) => this.editor.origins.includes(id)).at(-1);
  }

  /** Remove a continuation's text. Returns where it was. */
  remove({id}) {
    const {editor} = this, first = editor.origins.indexOf(id);
    for (let i = editor.length - 1; i >= first; i--) {
      if (editor.origins[i] !== id) continue;
      let from = i;
      while (from > 0 && editor.origins[from - 1] === id) from--;
      editor.splice(from, i + 1 - from, [], {group: `back ${id}`});
      i = from;
    }
    return first;
  }

  /** Replace the last continuation by another. */
  async again() {
    this.stop();
    const settings = this.settings.read(), continuation = this.newest();
    if (!settings) return;
    if (!continuation) {
      await this.continueAt(this.editor.caret);
      return;
    }
    const at = this.remove(continuation), seed = settings.seed === null ?
      Math.floor(Math.random() * 2 ** 32) : settings.seed + continuation.versions.length;
    await this.write(continuation, at, {...settings, seed});
  }

  /** Show the previous or next version of the last continuation. */
  showVersion(step) {
    const continuation = this.newest();
    const chars = continuation?.versions[continuation.version + step];
    if (!chars || this.running) return;
    continuation.version += step;
    const at = this.remove(continuation);
    this.editor.splice(at, 0, chars, {origin: continuation.id, group: `back ${continuation.id}`});
    this.say(`Version ${continuation.version + 1} of ${continuation.versions.length}.`);
  }

  /** Replace a character and continue from there; what followed it in the same stretch is replaced. */
  choose(at, text) {
    if (!this.settings.read()) return;
    const {editor} = this, origin = editor.origins[at];
    let end = at;
    while (end < editor.length && editor.origins[end] === origin) end++;
    const replaced = {chars: editor.chars.slice(at, end), origins: editor.origins.slice(at, end)};
    if (end > at) editor.splice(at, end - at, [], {group: `continuation ${this.ids + 1}`});
    this.continueAt(at, {prefix: Array.from(text), replaced});
  }

  /** Replace the last continuation by a given text, as another version. */
  use(chars) {
    const continuation = this.newest();
    if (!continuation || !chars.length) return;
    const at = this.remove(continuation);
    this.editor.splice(at, 0, chars, {origin: continuation.id, group: `back ${continuation.id}`});
    continuation.version = continuation.versions.push(chars) - 1;
    this.update();
  }

  /** Enable the controls that can be used now. */
  update() {
    const isRunning = this.running !== null, newest = this.newest();
    byId('continue').textContent = isRunning ? 'Stop' : 'Continue';
    byId('again').disabled = !newest;
    byId('back').disabled = !newest || isRunning;
    const versions = newest?.versions.length ?? 0;
    show(versions > 1 && !isRunning, byId('versions'));
    byId('version').textContent = `${(newest?.version ?? 0) + 1} of ${versions}`;
    byId('version-before').disabled = !newest || newest.version === 0;
    byId('version-after').disabled = !newest || newest.version >= versions - 1;
  }

  say(text) {
    byId('desk-status').textContent = text;
  }
}

/** Whether a line of text is visible above the toolbar. */
function isInSight(rect) {
  return rect.bottom < innerHeight + 2 * rect.height;
}

/** Scroll until a line is visible above the toolbar. */
function bringInSight(rect) {
  const below = rect.bottom + byId('continue').parentElement.offsetHeight + rect.height - innerHeight;
  if (below > 0) scrollBy({top: below, behavior: 'instant'});
}
