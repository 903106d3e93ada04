// Lens: layers up, positions across; a click follows the token of that cell through the layers.

import { chances, decimal, field, h, largest, select, visible } from "./dom.js";
import { Heatmap } from "./heatmap.js";
import { lineChart } from "./lines.js";

const COLOURS = [["probability", "Probability"], ["entropy", "Entropy"], ["chance", "Target probability"], ["rank", "Target rank"]];

export function lensTab(host) {
  const { tokens } = host.about;
  const state = { by: "probability", targets: [], sheet: null, job: 0 };
  const map = new Heatmap("Logit lens, layer by position", {
    tip: host.tip, hover: (row, column) => hover(row, column), pick: (row, column) => pick(row, column),
  });
  const chips = h("span", { class: "nnl-chips" });
  const chart = h("div");
  const typed = h("input", {
    type: "text", size: "10", placeholder: "token", "aria-label": "Token to follow",
    onkeydown: (event) => { if (event.key === "Enter") { follow(typed.value); typed.value = ""; } event.stopPropagation(); },
  });
  const colour = select(COLOURS, state.by, (by) => { state.by = by; draw(); }, "Colour by");
  const controls = h("div", { class: "nnl-controls" }, field("Colour", colour), field("Follow", typed), chips);

  function at(name, row, column, last = 0, inner = 1) {
    const { data, shape } = state.sheet.arrays[name];
    return data[(row * shape[1] + column) * inner + last];
  }

  function top(row, column) {
    const { plain, arrays } = state.sheet;
    const count = arrays.tops.shape[2];
    const places = Array.from({ length: count }, (_, index) => at("tops", row, column, index, count));
    const probabilities = places.map((_, index) => at("probabilities", row, column, index, count));
    return { ids: places.map((place) => plain.ids[place]), words: places.map((place) => plain.words[place]), probabilities };
  }

  function ofTarget(name, target, row, column) {
    const { data, shape } = state.sheet.arrays[name];
    return data[(target * shape[1] + row) * shape[2] + column];
  }

  function hover(row, column) {
    if (!state.sheet) return [];
    const { words, probabilities } = top(row, column);
    const layer = state.sheet.plain.layers[row];
    return [
      h("div", {}, `${/^\d/.test(layer) ? `layer ${layer}` : layer}, position ${column} after ${visible(tokens[column])}`),
      chances(words, probabilities),
      h("div", {}, `entropy ${decimal(at("entropy", row, column))} nats`),
    ];
  }

  function pick(row, column) {
    if (!state.sheet) return;
    const layer = Number.parseInt(state.sheet.plain.layers[row], 10);
    host.select({ token: column, ...(Number.isFinite(layer) ? { layer } : {}) });
    follow(top(row, column).ids[0]);
  }

  function follow(target) {
    if (target === "" || state.targets.includes(target)) return;
    state.targets = [...state.targets, target].slice(-6);
    ask();
  }

  function ask() {
    state.job = host.ask();
  }

  function value(row, column) {
    if (state.by === "entropy") return at("entropy", row, column);
    if (state.by === "probability") return top(row, column).probabilities[0];
    if (!state.sheet.plain.targets.length) return NaN;
    return state.by === "chance" ? ofTarget("chances", 0, row, column) : -Math.log10(ofTarget("ranks", 0, row, column) + 1);
  }

  function limits() {
    if (state.by === "entropy") return [0, largest(state.sheet.arrays.entropy.data)];
    if (state.by === "rank") return [-Math.log10(largest(state.sheet.arrays.ranks.data, 9) + 1), 0];
    return [0, 1];
  }

  function draw() {
    if (!state.sheet) return;
    const { layers } = state.sheet.plain;
    const [low, high] = limits();
    map.show({
      rows: layers, columns: tokens.map(visible), value, low, high, rowsUp: true,
      text: (row, column) => visible(top(row, column).words[0]),
      describe: (row, column) => {
        const { words, probabilities } = top(row, column);
        return `layer ${layers[row]}, position ${column}: ${words[0]}, probability ${decimal(probabilities[0])}`;
      },
    });
    const shown = layers.indexOf(String(host.selection.layer));
    map.mark(shown < 0 ? null : shown, host.selection.token);
    drawTargets();
  }

  function seen() {
    const { ids, targets } = state.sheet.plain;
    return targets.map((place) => ids[place]);
  }

  function drawTargets() {
    const { plain } = state.sheet;
    const remove = (id) => { state.targets = state.targets.filter((target) => target !== id); ask(); };
    chips.replaceChildren(...plain.targets.map((place) =>
      h("button", { class: "nnl-chip", "aria-label": `Stop following ${plain.words[place]}`, onclick: () => remove(plain.ids[place]) },
        `${visible(plain.words[place])} ✕`)));
    const column = host.selection.token;
    if (!plain.targets.length) {
      chart.replaceChildren(h("p", { class: "nnl-said" }, "Click a cell to follow its token through the layers."));
      return;
    }
    const series = (name) => plain.targets.map((place, index) => ({
      name: visible(plain.words[place]),
      values: plain.layers.map((_, row) => ofTarget(name, index, row, column)),
    }));
    const after = `after position ${column} ${visible(tokens[column])}`;
    chart.replaceChildren(h("div", { class: "nnl-charts" },
      lineChart({ title: `Probability ${after}`, places: plain.layers, series: series("chances"), low: 0, el: map.el }),
      lineChart({ title: `Rank ${after}`, places: plain.layers, series: series("ranks"), low: 0, log: true, el: map.el })));
  }

  return {
    el: h("div", {}, controls, map.el, chart),
    wanted: () => ({ top: 5, targets: state.targets }),
    shown: () => ({ top: 5, targets: state.sheet ? seen() : [] }),
    open: ask,
    data(sheet) {
      state.sheet = sheet;
      // Not where more was asked for since: that answer is still to come.
      if (sheet.plain.job >= state.job) state.targets = seen();
      draw();
    },
    selected: draw,
    draw,
    picture: () => map.picture(),
  };
}
