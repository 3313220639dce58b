'use strict';
// The tabs: one view is shown; arrow keys, Home and End move between them.

class Tabs {
  /** @param {(name: string) => void} entered is called with the name of the view that is shown */
  constructor(entered) {
    this.tabs = [...byId('tabs').querySelectorAll('[role=tab]')];
    this.entered = entered;
    this.tabs.forEach((tab, i) => {
      tab.addEventListener('click', () => this.open(i));
      tab.addEventListener('keydown', (event) => this.press(event, i));
    });
    addEventListener('hashchange', () => this.openNamed());
  }

  /** Show the view named in the address, or the first. */
  openNamed() {
    const named = this.tabs.findIndex((tab) => `#${tab.getAttribute('aria-controls')}` === location.hash);
    this.open(Math.max(0, named));
  }

  open(chosen) {
    this.tabs.forEach((tab, i) => {
      tab.setAttribute('aria-selected', String(i === chosen));
      tab.tabIndex = i === chosen ? 0 : -1;
      byId(tab.getAttribute('aria-controls')).hidden = i !== chosen;
    });
    this.entered(this.tabs[chosen].getAttribute('aria-controls'));
  }

  press(event, i) {
    const n = this.tabs.length;
    const to = {ArrowRight: (i + 1) % n, ArrowLeft: (i + n - 1) % n, Home: 0, End: n - 1}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.tabs[to].focus();
    this.open(to);
  }
}
