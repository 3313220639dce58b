'use strict';
// The sampling settings of the desk.

class DeskSettings {
  constructor() {
    const shown = {temperature: (x) => x.toFixed(2), 'top-p': (x) => (x < 1 ? x.toFixed(2) : 'off'),
      'min-p': (x) => (x > 0 ? x.toFixed(2) : 'off')};
    for (const [id, words] of Object.entries(shown)) {
      const update = () => {
        const said = words(byId(id).valueAsNumber);
        byId(`${id}-value`).textContent = said;
        byId(id).setAttribute('aria-valuetext', said);
        this.update();
      };
      byId(id).addEventListener('input', update);
      update();
    }
    if (matchMedia('(max-width: 56rem)').matches) byId('choosing').open = false;
  }

  /** Disable top-p and min-p at a temperature of 0, where they have no effect. */
  update() {
    const isGreedy = byId('temperature').valueAsNumber === 0;
    byId('top-p').disabled = byId('min-p').disabled = isGreedy;
  }

  /** Read the settings; null if one is out of range, which is then pointed out. */
  read() {
    for (const id of ['length', 'seed']) {
      if (!byId(id).checkValidity()) {
        byId('choosing').open = true;
        byId(id).reportValidity();
        return null;
      }
    }
    const stop = unescaped(byId('stop').value), seed = byId('seed').value;
    const topP = byId('top-p'), minP = byId('min-p');
    return {
      length: byId('length').valueAsNumber || Number(byId('length').defaultValue),
      temperature: byId('temperature').valueAsNumber,
      topP: topP.disabled || topP.valueAsNumber === 1 ? null : topP.valueAsNumber,
      minP: minP.disabled || minP.valueAsNumber === 0 ? null : minP.valueAsNumber,
      stop: stop ? [stop] : [],
      seed: seed === '' ? null : Number(seed),
    };
  }
}
