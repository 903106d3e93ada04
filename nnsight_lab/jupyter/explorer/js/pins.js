// Pins: what a run's tabs showed, kept on the page to stand beside another run.

import { field, h } from "./dom.js";

const KEPT = Symbol.for("nnsight_lab.pinned"); // one list a page, for all its explorers
const CHANGED = "nnsight-lab:pinned";
globalThis[KEPT] ||= { count: 0, pins: [] };

export class Pins {
  // changed: called when another pin is to stand beside, or none.
  constructor(changed) {
    this.changed = changed;
    this.chosen = null;
    this.choice = h("select", { "aria-label": "Compare with", onchange: () => this.choose(Number(this.choice.value)) });
    this.remove = h("button", { class: "nnl-button", onclick: () => this.drop() }, "Remove pin");
    this.el = h("div", { class: "nnl-compare nnl-controls" }, field("Compare with", this.choice), this.remove);
    this.heard = () => this.list();
    globalThis.addEventListener(CHANGED, this.heard);
    this.list();
  }

  keep({ about, ...rest }) {
    const store = globalThis[KEPT];
    const number = ++store.count;
    const run = about.edited ? `${about.run}, a run on ${about.model}` : about.model;
    const title = `${number}: ${run}, ${about.tokens.length} tokens, ${new Date().toLocaleTimeString()}`;
    store.pins.push({ number, title, about, ...rest });
    globalThis.dispatchEvent(new Event(CHANGED));
    return number;
  }

  choose(number) {
    this.chosen = globalThis[KEPT].pins.find((pin) => pin.number === number) || null;
    this.list();
    this.changed();
  }

  drop() {
    const store = globalThis[KEPT];
    store.pins = store.pins.filter((pin) => pin !== this.chosen);
    this.choice.focus();
    globalThis.dispatchEvent(new Event(CHANGED));
  }

  list() {
    const { pins } = globalThis[KEPT];
    this.el.hidden = !pins.length;
    this.choice.replaceChildren(h("option", { value: 0 }, "nothing"), ...pins.map(({ number, title }) => h("option", { value: number }, title)));
    const gone = this.chosen && !pins.includes(this.chosen);
    if (gone) this.chosen = null;
    this.choice.value = String(this.chosen?.number ?? 0);
    this.remove.hidden = !this.chosen;
    if (gone) this.changed();
  }

  close() {
    globalThis.removeEventListener(CHANGED, this.heard);
  }
}
