// A strip of tokens: whitespace visible, a colour each, one of them selected. Arrow keys move.
//
//   const strip = new Strip("Prompt", { pick(index), hover(index), tip });
//   strip.show({ tokens, ids, value(index), low, high, diverging });

import { ramps } from "./colours.js";
import { h, visible } from "./dom.js";

export class Strip {
  constructor(label, { pick = () => {}, hover = () => [], tip } = {}) {
    this.on = { pick, hover, tip };
    this.chips = [];
    this.el = h("div", {
      class: "nnl-strip", role: "listbox", "aria-label": label, "aria-orientation": "horizontal",
      onkeydown: (event) => this.keyed(event), onmouseleave: () => tip?.hide(),
    });
  }

  show(spec) {
    const before = this.spec;
    this.spec = spec;
    const same = before && before.tokens.length <= spec.tokens.length &&
      before.tokens.every((token, index) => token === spec.tokens[index]);
    if (!same) {
      this.chips = [];
      this.el.replaceChildren();
    }
    for (let index = this.chips.length; index < spec.tokens.length; index++) this.append(index);
    this.colour();
  }

  append(index) {
    const token = this.spec.tokens[index];
    const chip = h("span", {
      class: "nnl-token", role: "option", tabindex: this.chips.length ? "-1" : "0",
      "data-index": index, "aria-selected": "false",
      onclick: () => this.pick(index), onmousemove: (event) => this.hovered(event, index),
      onfocus: (event) => this.focused(event, index),
    }, visible(token));
    this.chips.push(chip);
    this.el.append(chip);
    if (token.includes("\n")) this.el.append(h("br"));
  }

  colour() {
    const { value, low = 0, high = 1, diverging } = this.spec;
    const colours = ramps(this.el);
    const ramp = diverging ? colours.diverging : colours.sequential;
    this.chips.forEach((chip, index) => {
      const number = value ? value(index) : NaN;
      const found = Number.isFinite(number) ? ramp((number - low) / (high - low || 1)) : null;
      chip.style.background = found ? found.fill : "transparent";
      chip.style.color = found ? found.ink : "";
    });
  }

  select(index) {
    this.chips.forEach((chip, place) => {
      chip.setAttribute("aria-selected", String(place === index));
      chip.tabIndex = place === index ? 0 : -1;
    });
  }

  pick(index) {
    this.select(index);
    this.on.pick(index);
  }

  hovered(event, index) {
    const content = this.on.hover(index);
    if (content.length) this.on.tip?.show(event.clientX, event.clientY, ...content);
  }

  focused(event, index) {
    const box = event.target.getBoundingClientRect();
    const content = this.on.hover(index);
    if (content.length && event.target.matches(":focus-visible")) {
      this.on.tip?.show(box.right, box.bottom, ...content);
    }
  }

  keyed(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const now = this.chips.indexOf(document.activeElement?.closest?.(".nnl-token"));
    const next = Math.min(Math.max(now + step, 0), this.chips.length - 1);
    this.pick(next);
    this.chips[next].focus();
  }
}
