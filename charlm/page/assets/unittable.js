'use strict';
// A sortable table of the totals of words or lines.

const UNIT_COLUMNS = [
  {title: 'Text', value: (row) => row.begin, isText: true},
  {title: 'Bits', value: (row) => row.bits, words: (row) => row.bits.toFixed(2)},
  {title: 'Bits/char', value: (row) => row.bits / row.length, words: (row) => (row.bits / row.length).toFixed(2)},
  {title: 'Characters', value: (row) => row.length, words: (row) => count(row.length)},
];
const LONGEST_SHOWN = 120; // characters of a line

class UnitTable {
  /** @param {(at: number) => void} goTo is called with the beginning of the unit that was chosen */
  constructor(goTo) {
    Object.assign(this, {goTo, chars: [], bits: [], rows: [], sorted: 1, isDescending: true, shown: ROWS_SHOWN});
    byId('units').querySelector('tr').replaceChildren(...UNIT_COLUMNS.map(({title, isText}, i) => make('th',
      {scope: 'col', class: isText ? '' : 'n'}, make('button', {class: 'plain', onclick: () => this.sort(i)}, title))));
    for (const radio of document.querySelectorAll('input[name=unit]')) {
      radio.addEventListener('change', () => this.fill(this.chars, this.bits));
    }
    byId('units-more').addEventListener('click', () => {
      this.shown += 5 * ROWS_SHOWN;
      this.draw();
    });
  }

  /** Show the totals of a text whose characters have these bits. */
  fill(chars, bits) {
    Object.assign(this, {chars, bits, shown: ROWS_SHOWN});
    const isByWord = document.querySelector('input[name=unit]:checked').value === 'word';
    this.rows = (isByWord ? wordSpans(chars) : lineSpans(chars)).map(({begin, after, end}) => ({begin, after, end,
      length: end - begin, bits: sum(bits, begin, end)}));
    this.draw();
  }

  /** Sort by a column; a second time reverses the order. */
  sort(column) {
    this.isDescending = column === this.sorted ? !this.isDescending : column !== 0;
    this.sorted = column;
    this.draw();
  }

  draw() {
    const {value} = UNIT_COLUMNS[this.sorted], way = this.isDescending ? -1 : 1;
    const rows = [...this.rows].sort((a, b) => way * (value(a) - value(b)) || a.begin - b.begin);
    byId('units').querySelector('tbody').replaceChildren(...rows.slice(0, this.shown).map((row) => this.rowOf(row)));
    [...byId('units').querySelectorAll('th')].forEach((head, i) => {
      if (i === this.sorted) head.setAttribute('aria-sort', this.isDescending ? 'descending' : 'ascending');
      else head.removeAttribute('aria-sort');
    });
    show(rows.length > this.shown, byId('units-more'));
  }

  rowOf(row) {
    const text = this.chars.slice(row.begin, row.after), isLong = text.length > LONGEST_SHOWN;
    const said = visibleText(text.slice(0, LONGEST_SHOWN).join('')) + (isLong ? '…' : '');
    const go = make('button', {class: 'plain isolated', onclick: () => this.goTo(row.begin)}, said || '(white space)');
    return make('tr', {}, make('td', {}, go),
      ...UNIT_COLUMNS.slice(1).map(({words}) => make('td', {class: 'n'}, words(row))));
  }
}
