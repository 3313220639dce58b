'use strict';
// Undo and redo for a text that a program edits too, which the browser's own undo does not follow.

const JOINED_WITHIN = 1000; // milliseconds between keystrokes that are undone together

class EditHistory {
  constructor() {
    this.past = [];
    this.future = [];
  }

  /**
   * Record an edit. Consecutive edits of the same group are undone together; those of a group without a number
   * (`typing`) only if they follow soon.
   * @param {{at: number, removed: {chars: string[], origins: number[]}, inserted: {chars: string[], origins: number[]}}} edit
   * @param {string} group
   */
  add(edit, group) {
    const last = this.past.at(-1), now = performance.now();
    const joined = last && last.group === group && (group.includes(' ') || now - last.time < JOINED_WITHIN);
    if (joined) {
      last.edits.push(edit);
      last.time = now;
    } else {
      this.past.push({group, edits: [edit], time: now});
    }
    this.future = [];
  }

  /** The edits that undo the last group, in order; none if there is nothing to undo. */
  undo() {
    const step = this.past.pop();
    if (!step) return [];
    this.future.push(step);
    return step.edits.map(({at, removed, inserted}) => ({at, removed: inserted, inserted: removed})).reverse();
  }

  /** The edits that redo what was undone last. */
  redo() {
    const step = this.future.pop();
    if (!step) return [];
    this.past.push({...step, group: `${step.group} again`});
    return step.edits;
  }
}
