'use strict';
// The view About: figures, curves, settings and a sample of the run.

/** Fill the view from `info.about`, with the notes of the page before those of the run. */
function showAbout({about}, notesOfPage) {
  const {figures = [], curves = [], settings = [], sample = ''} = about, notes = [...notesOfPage, ...(about.notes ?? [])];
  byId('figures').replaceChildren(...figures.map(({label, value, error, unit}) => make('div', {}, make('dt', {}, label),
    make('dd', {}, figureText(value), error ? make('small', {}, ` ± ${error.toFixed(3)}`) : null,
      unit ? make('small', {class: 'unit'}, unit) : null))));
  byId('curves').replaceChildren(...(curves.some(({points}) => points.length) ? [makeChart(curves)] : []));
  byId('notes').replaceChildren(...notes.map((note) => make('li', {class: 'isolated'}, visibleText(note))));
  byId('sample').textContent = visibleText(sample);
  byId('settings').replaceChildren(make('table', {}, make('tbody', {}, ...settings.map(([name, value]) => make('tr', {},
    make('th', {scope: 'row'}, visibleText(name)), make('td', {class: 'cell'}, visibleText(String(value))))))));
  show(notes.length > 0, byId('notes-section'));
  show(sample !== '', byId('sample-section'));
  show(settings.length > 0, byId('settings-section'));
}

/** Format a figure: bits with three decimals, counts with separators of thousands. */
function figureText(value) {
  if (typeof value !== 'number') return visibleText(String(value));
  return Number.isInteger(value) ? count(value) : value.toFixed(3);
}
