// Features: what a sparse autoencoder sees at the chosen token, and where else it sees that.

import { decimal, field, h, largest, visible } from "./dom.js";
import { Strip } from "./strip.js";

export function featuresTab(host) {
  const { tokens, ids } = host.about;
  const state = { feature: null, sheet: null };
  const strip = new Strip("Activation of the feature at each token", {
    tip: host.tip,
    pick: (token) => { state.feature = null; host.select({ token }); },
    hover: (index) => [
      h("b", {}, visible(tokens[index])),
      h("div", {}, state.sheet ? `feature ${state.sheet.plain.feature}: ${decimal(state.sheet.arrays.strip.data[index])}` : ""),
    ],
  });
  const number = h("input", {
    type: "number", min: 0, step: 1, "aria-label": "Feature", onchange: () => choose(Number.parseInt(number.value, 10)),
  });
  const said = h("p", { class: "nnl-said", "aria-live": "polite" });
  const list = h("div", { class: "nnl-features", role: "listbox", "aria-label": "Features at the token", onkeydown: (event) => keyed(event) });
  const says = h("div");

  function choose(feature) {
    if (!Number.isFinite(feature)) return;
    state.feature = feature;
    host.ask();
  }

  function keyed(event) {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const rows = [...list.children];
    const next = rows[rows.indexOf(document.activeElement) + step];
    next?.focus();
    next?.click();
  }

  // A row of a list with a bar as long as its number.
  function bar(name, value, most, more = {}) {
    return h("button", { class: "nnl-longbar", ...more }, h("span", {}, name),
      h("span", { class: "nnl-long", style: `--long:${Math.max(value / most, 0) * 100}%` }), h("span", { class: "nnl-number" }, decimal(value)));
  }

  function draw() {
    if (!state.sheet) return;
    const { plain, arrays } = state.sheet;
    const held = document.activeElement?.dataset?.feature;
    const values = arrays.strip.data;
    strip.show({ tokens, ids, value: (index) => values[index] || NaN, low: 0, high: largest(values, 1e-9) });
    strip.select(plain.token);
    number.max = plain.count - 1;
    if (number !== document.activeElement) number.value = plain.feature;
    const most = largest(arrays.values.data, 1e-9);
    list.replaceChildren(...plain.features.map((feature, index) => bar(String(feature), arrays.values.data[index], most, {
      role: "option", "aria-selected": String(feature === plain.feature), "data-feature": feature,
      tabindex: feature === plain.feature || (index === 0 && !plain.features.includes(plain.feature)) ? "0" : "-1",
      "aria-label": `feature ${feature}, activation ${decimal(arrays.values.data[index])}`, onclick: () => choose(feature),
    })));
    if (held) list.querySelector(`[data-feature="${held}"]`)?.focus();
    said.textContent = `Layer ${plain.layer}, position ${plain.token} ${visible(tokens[plain.token])}: ${plain.active} of ${plain.count} features are active.`;
    drawLogits(plain, arrays);
  }

  function drawLogits({ words, feature }, { logits }) {
    if (!logits) {
      says.replaceChildren(h("p", { class: "nnl-said" }, "This autoencoder has no decoder."));
      return;
    }
    const most = largest(logits.data, 1e-9);
    says.replaceChildren(h("div", { class: "nnl-said" }, `What feature ${feature} says: its direction through norm and unembedding`),
      h("div", { role: "list" }, ...words.map((word, index) => {
        const row = bar(visible(word), logits.data[index], most, { role: "listitem", tabindex: "-1" });
        row.disabled = true;
        return row;
      })));
  }

  return {
    el: h("div", {}, strip.el, h("div", { class: "nnl-controls" }, field("Feature", number), said),
      h("div", { class: "nnl-sides" }, h("div", { class: "nnl-main" }, list), h("div", { class: "nnl-main" }, says))),
    wanted: () => ({ token: host.selection.token, feature: state.feature, top: 10 }),
    restore: ({ feature }) => { state.feature = feature; },
    open: () => host.ask(),
    data(sheet) {
      state.sheet = sheet;
      draw();
    },
    selected({ token }) {
      if (token === state.sheet?.plain.token) return draw();
      state.feature = null;
      return host.ask();
    },
    draw,
  };
}
