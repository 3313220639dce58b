'use strict';
// A line chart of several curves over training steps.

const CHART = {width: 720, height: 300, left: 52, right: 12, top: 12, bottom: 44};

/**
 * @param {{name: string, points: [number, ?number][]}[]} curves steps and bits per character; null splits a curve
 * @returns {HTMLElement} a figure with a legend
 */
function makeChart(curves) {
  const drawn = curves.filter(({points}) => points.length), all = drawn.flatMap(({points}) => points.filter(([, y]) => y !== null));
  const xs = all.map(([x]) => x), ys = all.map(([, y]) => y);
  const tops = [...ys].sort((a, b) => a - b), low = tops[0], high = tops[Math.floor(0.97 * (tops.length - 1))];
  const room = 0.06 * (high - low || 1), span = {x: [Math.min(...xs, 0), Math.max(...xs, 1)], y: [Math.max(0, low - room), high + room]};
  const across = (x) => CHART.left + (x - span.x[0]) / (span.x[1] - span.x[0]) * (CHART.width - CHART.left - CHART.right);
  const down = (y) => Math.max(CHART.top, CHART.top + (span.y[1] - y) / (span.y[1] - span.y[0]) * (CHART.height - CHART.top - CHART.bottom));
  const base = CHART.height - CHART.bottom, right = CHART.width - CHART.right, parts = [];
  for (const {value, label} of ticks(span.y, 6)) {
    parts.push(makeSvg('path', {class: 'grid', d: `M${CHART.left} ${down(value)}H${right}`}),
      makeSvg('text', {class: 'end', x: CHART.left - 10, y: down(value) + 4}, label));
  }
  for (const {value, label} of ticks(span.x, 5)) {
    parts.push(makeSvg('text', {class: 'middle', x: across(value), y: base + 20}, label));
  }
  parts.push(makeSvg('path', {class: 'axis', d: `M${CHART.left} ${base}H${right}`}),
    makeSvg('text', {class: 'middle', x: (CHART.left + right) / 2, y: base + 40}, 'steps'));
  [...drawn].reverse().forEach(({points}, i) => parts.push(makeSvg('path', {
    class: `line-${drawn.length - 1 - i}${points.length === 1 ? ' dot' : ''}`,
    d: lineThrough(points.map(([x, y]) => [across(x), y === null ? null : down(y)]))})));
  const ends = drawn.map(({name, points}) => `${name} ends at ${points.at(-1)[1].toFixed(2)}`).join(', ');
  const drawing = makeSvg('svg', {viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: 'img',
    'aria-label': `Bits per character against steps: ${ends}`}, ...parts);
  return make('figure', {}, make('figcaption', {}, make('span', {}, 'Bits per character'),
    ...drawn.map(({name}, i) => make('span', {}, make('i', {class: `line-${i}`}), name))), drawing);
}

/** The path through points; a single one is a dot. A new line begins where y is null or steps fall back. */
function lineThrough(points) {
  let path = '', last = Infinity;
  for (const [x, y] of points) {
    if (y !== null) path += `${x > last ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}${x > last ? '' : 'h0.1'}`;
    last = y === null ? Infinity : x;
  }
  return path;
}

/** About `most` round values within a span, with their labels. */
function ticks([low, high], most) {
  const least = (high - low) / most, power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].map((m) => m * power).find((each) => each >= least);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9)), found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) {
    found.push({value: i * step, label: (i * step).toLocaleString('en', {minimumFractionDigits: decimals, maximumFractionDigits: decimals})});
  }
  return found;
}
