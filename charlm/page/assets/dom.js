'use strict';
// Helpers to make elements of the page. Text is only ever inserted as text.

/** The element with that id. */
function byId(id) {
  return document.getElementById(id);
}

/**
 * Make an element.
 * @param {string} tag
 * @param {Object<string, string|boolean|number|Function>} [attributes] `class`, other attributes, or `on...` listeners
 * @param {...(Node|string|null)} children
 */
function make(tag, attributes = {}, ...children) {
  return dressed(document.createElement(tag), attributes, children);
}

/** Make an SVG element. */
function makeSvg(tag, attributes = {}, ...children) {
  return dressed(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
}

function dressed(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Show or hide elements. */
function show(isShown, ...elements) {
  for (const element of elements) element.hidden = !isShown;
}

/** A bar filled to a share between 0 and 1, hidden from screen readers, since the number stands beside it. */
function makeBar(share, className = '') {
  const filled = make('span');
  filled.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  return make('span', {class: `bar ${className}`, 'aria-hidden': 'true'}, filled);
}

/** Debounce `act`: call it once it has not been asked for again within so many milliseconds. */
function delayed(act, milliseconds) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...values), milliseconds);
  };
}

/** Fill a fieldset with radio buttons of these labels; `choose` is called with the index of the one chosen. */
function fillChips(fieldset, name, labels, chosen, choose) {
  for (const label of fieldset.querySelectorAll('label')) label.remove();
  labels.forEach((text, i) => {
    const radio = make('input', {type: 'radio', name, value: i, onchange: () => choose(i)});
    radio.checked = i === chosen;
    fieldset.append(make('label', {}, radio, make('span', {}, text)));
  });
}

/** Format a probability. */
function percent(p) {
  if (p >= 0.0995) return `${(100 * p).toFixed(0)} %`;
  return p >= 0.00095 ? `${(100 * p).toFixed(1)} %` : '< 0.1 %';
}
