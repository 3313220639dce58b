'use strict';
// The tables of the view Inside: predictions at several stages of a model.

/** The likeliest characters, a row each, with the probability that each of `columns` gives them. */
function changedTable(columns, truth) {
  const texts = new Map();
  for (const [, list] of columns) for (const {text, p} of list) texts.set(text, Math.max(p, texts.get(text) ?? 0));
  const rows = [...texts].sort((a, b) => b[1] - a[1]).slice(0, 8).map(([text]) => text);
  if (truth !== undefined && texts.has(truth) && !rows.includes(truth)) rows.push(truth);
  const cell = (list, text) => {
    const found = list.find((each) => each.text === text);
    const least = Math.min(...list.map(({p}) => p)); // characters not in the list are less likely
    return make('td', {}, found ? percent(found.p) : `< ${percent(least).replace('< ', '')}`, makeBar(found ? found.p : 0));
  };
  return make('table', {},
    make('thead', {}, make('tr', {}, make('th', {scope: 'col'}, 'Character'),
      ...columns.map(([name]) => make('th', {scope: 'col'}, name)))),
    make('tbody', {}, ...rows.map((text) => make('tr', {}, make('th', {scope: 'row'}, truthMarked(text, truth)),
      ...columns.map(([, list]) => cell(list, text))))));
}

/** The five likeliest characters after each stage, a row a stage. */
function lensTable(stages, truth) {
  return make('table', {class: 'lens'}, make('tbody', {}, ...stages.map(([name, list]) => make('tr', {},
    make('th', {scope: 'row'}, name), ...list.slice(0, 5).map(({text, p}) => make('td', {}, truthMarked(text, truth),
      make('span', {class: 'p'}, percent(p))))))));
}

/** A character, underlined if it is the actual one in the text. */
function truthMarked(text, truth) {
  const element = charElement(text);
  if (text !== truth) return element;
  return make('span', {}, make('span', {class: 'truth', title: 'stands in the text'}, element),
    make('span', {class: 'unseen'}, ' (stands in the text)'));
}
