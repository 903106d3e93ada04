// Norms and directions: the residual stream's length, its cosine to a direction, and a layer's main plane.

import { decimal, field, h, select, visible } from "./dom.js";
import { Heatmap } from "./heatmap.js";
import { Scatter } from "./scatter.js";

const SHOWS = [["norms", "norm"], ["cosines", "cosine to the direction"]];
const DIRECTIONS = [["", "none"], ["variable", "variable"], ["token", "token's unembedding"], ["difference", "token minus token"]];

export function normsTab(host) {
  const { tokens, layers } = host.about;
  const state = { show: "norms", sheet: null, at: "", skip: tokens.length > 3 ? 1 : 0, direction: "", of: "", minus: "", chosen: [], layer: host.selection.layer };
  const map = new Heatmap("Residual stream, layer by position", {
    tip: host.tip, hover: (row, column) => hover(row, column), pick: (row, column) => pick(row, column),
  });
  const plane = new Scatter("Main plane of the residual stream over positions", {
    tip: host.tip, hover: (index) => about(index + first()), pick: (index) => host.select({ token: index + first() }),
    choose: (indices) => choose(indices.map((index) => index + first())),
  });
  const list = `nnl-vectors-${Math.random().toString(36).slice(2)}`;
  const names = h("datalist", { id: list });
  const typed = ["of", "minus"].map((name) => h("input", {
    type: "text", size: "10", "aria-label": name === "of" ? "Direction" : "Minus token", hidden: true,
    onchange: (event) => {
      state[name] = event.target.value;
      if (complete()) shown.value = state.show = "cosines";
      ask();
    },
  }));
  const kind = select(DIRECTIONS, "", (value) => {
    Object.assign(state, { direction: value, of: "", minus: "" });
    typed.forEach((input) => { input.value = ""; });
    fields();
    if (!value) ask();
    else typed[0].focus();
  }, "Kind of direction");
  const shown = select(SHOWS, state.show, (show) => { state.show = show; draw(); }, "Show");
  const rows = ["embed", ...Array.from({ length: layers }, (_, layer) => String(layer))];
  const at = select(rows.map((name) => [name, name]), "embed", (name) => {
    state.at = name;
    if (name !== "embed") host.select({ layer: Number(name) });
    ask();
  }, "Layer of the plane");
  const skip = h("input", {
    type: "number", min: 0, max: Math.max(tokens.length - 3, 0), value: state.skip, style: "width: 4em", "aria-label": "Positions left out at the front",
    onchange: () => { state.skip = Math.max(Number(skip.value) || 0, 0); ask(); },
  });
  const positions = h("input", {
    type: "text", size: "18", placeholder: "0, 3-7", "aria-label": "Chosen positions", onchange: () => choose(ranges(positions.value)),
  });
  const said = h("p", { class: "nnl-said", role: "status" });
  const told = h("p", { class: "nnl-said" });

  const first = () => state.sheet?.plain.skip ?? 0;

  const complete = () => state.of && (state.direction !== "difference" || state.minus);

  function ask() {
    if (!state.direction || complete()) host.ask();
  }

  function fields() {
    typed[0].hidden = !state.direction;
    typed[1].hidden = state.direction !== "difference";
    typed[0].placeholder = state.direction === "variable" ? "variable" : "token";
    typed[1].placeholder = "minus token";
    if (state.direction === "variable") typed[0].setAttribute("list", list);
    else typed[0].removeAttribute("list");
  }

  function ranges(text) {
    return text.split(/[\s,]+/).flatMap((part) => {
      const found = /^(\d+)(?:-(\d+))?$/.exec(part);
      if (!found) return [];
      const [from, to] = [Number(found[1]), Math.min(Number(found[2] ?? found[1]), tokens.length - 1)];
      return Array.from({ length: Math.max(to - from + 1, 0) }, (_, index) => from + index);
    });
  }

  function choose(places) {
    showChosen([...new Set(places)].filter((place) => place < tokens.length).sort((one, other) => one - other));
    host.choose(state.chosen);
  }

  function showChosen(places) {
    state.chosen = places;
    positions.value = state.chosen.reduce((runs, place) => {
      const last = runs.at(-1);
      if (last && last[1] === place - 1) last[1] = place;
      else runs.push([place, place]);
      return runs;
    }, []).map(([from, to]) => (from === to ? from : `${from}-${to}`)).join(", ");
    draw();
  }

  function value(name, row, column) {
    const array = state.sheet.arrays[name];
    return array ? array.data[row * array.shape[1] + column] : NaN;
  }

  const named = (row) => (row ? `layer ${row - 1}` : "embed");

  function numbers(row, column) {
    const cosine = state.sheet.arrays.cosines ? [h("div", {}, `cosine to ${state.sheet.plain.direction}: ${decimal(value("cosines", row, column), 4)}`)] : [];
    return [h("div", {}, `norm ${decimal(value("norms", row, column))}`), ...cosine];
  }

  function hover(row, column) {
    return state.sheet ? [h("div", {}, `${named(row)}, position ${column} ${visible(tokens[column])}`), ...numbers(row, column)] : [];
  }

  function about(column) {
    return [h("b", {}, visible(tokens[column])), h("div", {}, `position ${column}`), ...numbers(rows.indexOf(state.sheet.plain.at), column)];
  }

  function pick(row, column) {
    host.select({ token: column, ...(row ? { layer: row - 1 } : {}) });
    if (row || state.at === "embed") return;
    state.at = "embed";
    ask();
  }

  function draw() {
    if (!state.sheet) return;
    const { plain, arrays } = state.sheet;
    const { layer, token } = host.selection;
    // The embedding is no layer: it stays until another layer is chosen, in whatever tab.
    const left = state.at === "embed" ? state.layer !== layer : state.at !== String(layer);
    state.layer = layer;
    if (!host.pinned && left) {
      state.at = String(layer);
      ask();
    }
    at.value = state.at;
    const cosine = state.show === "cosines";
    const logs = Array.from(arrays.norms.data, (norm) => Math.log(Math.max(norm, 1e-9)));
    const low = logs.reduce((least, log) => Math.min(least, log), Infinity);
    const high = logs.reduce((most, log) => Math.max(most, log), -Infinity);
    map.show({
      rows: plain.layers, columns: tokens.map(visible), rowsUp: true, diverging: cosine,
      low: cosine ? -1 : low, high: cosine ? 1 : high,
      value: (row, column) => (cosine ? value("cosines", row, column) : logs[row * tokens.length + column]),
      text: (row, column) => value(state.show, row, column).toFixed(cosine ? 2 : 1),
      describe: (row, column) => `${named(row)}, position ${column} ${tokens[column]}: ${state.show === "norms" ? "norm" : "cosine"} ${decimal(value(state.show, row, column))}`,
    });
    map.mark(state.at === "embed" ? 0 : Number(state.at) + 1, token);
    said.textContent = !cosine ? "Norm; colour on a log scale."
      : arrays.cosines ? `Cosine to ${plain.direction}, from −1 to 1.` : "Choose a direction to see the cosine to it.";
    drawPlane(plain, arrays, token);
  }

  function drawPlane({ at: row, skip: out }, { points, explained }, token) {
    plane.el.hidden = !points;
    if (!points) {
      told.textContent = "A plane needs three positions.";
      return;
    }
    const pairs = Array.from({ length: points.shape[0] }, (_, index) => [points.data[2 * index], points.data[2 * index + 1]]);
    plane.show({
      points: pairs, axes: [0, 1].map((axis) => `axis ${axis + 1}, ${decimal(100 * explained.data[axis], 0)}% of variance`),
      chosen: new Set(state.chosen.map((place) => place - out).filter((index) => index >= 0)),
      current: token >= out ? token - out : null, name: (index) => visible(tokens[index + out]), describe: (index) => `position ${index + out} ${tokens[index + out]}`,
    });
    const chosen = state.chosen.length ? ` ${state.chosen.length} chosen: explorer.selected has them.` : " Draw around points to choose them.";
    told.textContent = `${row === "embed" ? "Embeddings" : `Stream after layer ${row}`} on its two main axes; colour, the position.${chosen}`;
  }

  // As the controls stood when this was asked.
  function restore({ show, direction = "", of = "", minus = "" }) {
    Object.assign(state, { show, direction, of, minus });
    [shown.value, kind.value, typed[0].value, typed[1].value] = [show, direction, of, minus];
    fields();
  }

  fields();
  showChosen(host.chosen);
  const clear = h("button", { class: "nnl-button", onclick: () => choose([]) }, "Clear");
  return {
    el: h("div", {},
      h("div", { class: "nnl-controls" }, field("Show", shown), field("Direction", kind), ...typed, names), map.el, said,
      h("div", { class: "nnl-controls" }, field("Plane of layer", at), field("leave out first", skip), field("Chosen", positions), clear),
      plane.el, told),
    wanted: () => ({ show: state.show, at: state.at || String(host.selection.layer), skip: state.skip,
      ...(state.direction && state.of ? { direction: state.direction, of: state.of, ...(state.direction === "difference" ? { minus: state.minus } : {}) } : {}) }),
    restore,
    open: () => { state.at ||= String(host.selection.layer); host.ask(); },
    data(sheet) {
      state.sheet = sheet;
      state.at = sheet.plain.at;
      state.skip = sheet.plain.skip ?? state.skip;
      names.replaceChildren(...sheet.plain.choices.map((name) => h("option", { value: name })));
      draw();
    },
    selected: draw,
    chosen: showChosen,
    draw,
    figures: () => [{ title: "stream", picture: () => map.picture() },
      ...(plane.el.hidden ? [] : [{ title: "plane", wanted: { show: "plane" }, picture: () => plane.picture() }])],
  };
}
