// Patching: drag a place of the source onto a place of the target, or fill a map of all places.

import { chances, decimal, field, h, largest, select, visible } from "./dom.js";
import { Heatmap } from "./heatmap.js";

const PARTS = [["resid", "Residual stream"], ["attn", "Attention output"], ["mlp", "MLP output"]];
const METRICS = [["difference", "Logit difference"], ["probability", "Probability"]];
const SIDES = { source: 0, target: 1, patched: 1 };

export function patchingTab(host) {
  const { layers, tokens } = host.about;
  const state = { source: "", part: "resid", metric: "difference", answer: "", other: "", from: null, to: null, map: false };
  const grid = (label, name, pick) => new Heatmap(label, { tip: host.tip, hover: (row, column) => hover(name, row, column), pick });
  const source = grid("Source, layer by position", "source", (row, column) => choose("from", row, column));
  const target = grid("Target, layer by position", "target", (row, column) => choose("to", row, column));
  const result = grid("Result, layer by position", "patched", (row, column) => pickResult(row, column));
  const said = h("p", { class: "nnl-said", "aria-live": "polite" });
  const over = { source: h("div", { class: "nnl-said" }, "Source"), target: h("div", { class: "nnl-said" }, "Target: this prompt") };

  const typed = (name, label, size, done) => h("input", {
    type: "text", size, placeholder: label, "aria-label": label, onchange: (event) => { state[name] = event.target.value; done(); },
  });
  const stay = () => {};
  const text = typed("source", "Source prompt", 44, () => ask({ from: null, to: null, map: false }));
  const answer = typed("answer", "answer token", 9, stay);
  const other = typed("other", "other token", 9, stay);
  const part = select(PARTS, state.part, (name) => ask({ part: name }), "What is patched");
  const metric = select(METRICS, state.metric, (name) => { state.metric = name; other.hidden = name !== "difference"; }, "Metric of the map");
  const button = (name, title, onclick) => h("button", { class: "nnl-button", title, onclick }, name);
  const controls = h("div", { class: "nnl-controls" },
    field("Source", text), field("Patch", part), button("Patch", "Patch the selected cells (P)", () => patch()),
    h("span", { class: "nnl-together" }, field("Map of", metric), answer, other,
      button("Map", "Patch every layer and position, one by one", () => ask({ map: true }))));
  const side = (name, map) => h("div", { class: "nnl-main" }, over[name], map.el);
  const sides = h("div", { class: "nnl-sides nnl-drags" }, side("source", source), side("target", target));
  sides.addEventListener("mousedown", pressed);

  function ask(change = {}) {
    Object.assign(state, change);
    if (state.map && !state.source) {
      said.textContent = "Type a source prompt first.";
      text.focus();
    } else host.ask();
  }

  // Places

  // A cell of a grid as [layer, position]; null where there is nothing to patch.
  function place(row, column, at) {
    const position = state.sheet.plain.pairs[column][at];
    const least = state.part === "resid" ? 0 : 1;
    return position < 0 || row < least || row > layers ? null : [row - 1, position];
  }

  function choose(which, row, column) {
    const found = state.sheet && place(row, column, which === "from" ? 0 : 1);
    if (!found) {
      said.textContent = "Nothing can be patched there: choose a layer, at a token of this prompt.";
      return false;
    }
    state[which] = found;
    marks();
    if (which === "to") host.select({ token: found[1], ...(found[0] < 0 ? {} : { layer: found[0] }) });
    said.textContent = state.from && state.to ? `Press P to patch: source ${placed(state.from, state.sheet.plain.source_tokens)} in target ${placed(state.to, tokens)}.`
      : `Now choose a cell of the ${which === "from" ? "target" : "source"}.`;
    return true;
  }

  const placed = ([layer, position], names) => `${named(layer + 1)} ${visible(names[position])}`;

  // The cell of the target is the place that is selected in the other tabs, until another is chosen.
  function seed() {
    const { layer, token } = host.selection;
    const [held, at] = state.to || [];
    if (at !== token || (held !== layer && held !== -1) || (held === -1 && state.layer !== layer)) state.to = [layer, token];
    state.layer = layer;
  }

  function patch() {
    if (!state.sheet) return;
    for (const [map, which] of [[source, "from"], [target, "to"]]) {
      if (map.at && !choose(which, map.at.row, map.at.column)) return;
    }
    if (state.from && state.to) ask({ map: false });
    else said.textContent = "Choose a cell of the source and one of the target: Enter, or a click.";
  }

  function pickResult(row, column) {
    if (!state.sheet || state.sheet.plain.mode !== "map") return;
    const cell = row + 1;
    if (choose("from", cell, column) && choose("to", cell, column)) ask({ map: false });
  }

  function marks() {
    const column = (at, position) => state.sheet.plain.pairs.findIndex((pair) => pair[at] === position);
    for (const [map, found, at] of [[source, state.from, 0], [target, state.to, 1]]) {
      map.mark(found ? found[0] + 1 : null, found ? column(at, found[1]) : 0);
    }
  }

  function pressed(event) {
    const from = state.sheet && source.el.contains(event.target) && source.cellAt(event);
    if (!from) return;
    const moved = (move) => {
      sides.classList.add("nnl-dragging");
      const to = target.el.contains(move.target) && target.cellAt(move);
      if (to) target.mark(to.row, to.column);
    };
    const ends = (up) => {
      document.removeEventListener("mousemove", moved);
      sides.classList.remove("nnl-dragging");
      const to = target.el.contains(up.target) && target.cellAt(up);
      marks();
      if (to && choose("from", from.row, from.column) && choose("to", to.row, to.column)) ask({ map: false });
    };
    source.mark(from.row, from.column);
    document.addEventListener("mousemove", moved);
    document.addEventListener("mouseup", ends, { once: true });
  }

  // Numbers

  function best(name, row, column) {
    const { plain, arrays } = state.sheet;
    const position = plain.pairs[column][SIDES[name]];
    const held = arrays[`${name}_chances`];
    if (!held || position < 0) return null;
    const [, count, top] = held.shape;
    const start = (row * count + position) * top;
    const words = [...arrays[`${name}_ids`].data.slice(start, start + top)].map((index) => plain.words[index]);
    return { position, words, chances: [...held.data.slice(start, start + top)], change: arrays.change?.data[row * count + position] };
  }

  const named = (row) => (state.sheet.plain.layers[row].match(/^\d/) ? "layer " : "") + state.sheet.plain.layers[row];

  function hover(name, row, column) {
    if (!state.sheet) return [];
    const { plain } = state.sheet;
    if (name === "patched" && plain.mode === "map") return hoverMap(row, column);
    const found = best(name, row, column);
    if (!found) return [h("div", {}, "no token here: the other prompt has one more")];
    const names = name === "source" ? plain.source_tokens : tokens;
    const lines = [h("div", {}, `${name}, ${named(row)}, position ${found.position} after ${visible(names[found.position])}`), chances(found.words, found.chances)];
    if (name === "patched") lines.push(h("div", {}, `was ${visible(best("target", row, column).words[0])}; ${decimal(found.change)} of the probability moved`));
    return lines;
  }

  const cell = (row, column) => state.map_rows[row * state.sheet.plain.pairs.length + column];

  function hoverMap(row, column) {
    const value = cell(row, column);
    const [from, to] = state.sheet.plain.pairs[column];
    if (!Number.isFinite(value)) return [h("div", {}, Math.min(from, to) < 0 ? "one prompt has no token here" : "not yet")];
    const { corrupt, clean } = state.ends;
    return [
      h("div", {}, `layer ${row}, position ${to} after ${visible(tokens[to])}`),
      h("div", {}, `${decimal(value)} (target ${decimal(corrupt)}, source ${decimal(clean)})`),
    ];
  }

  // Pictures

  function show(map, name) {
    const { plain, arrays } = state.sheet;
    const at = SIDES[name];
    const names = at ? tokens : plain.source_tokens;
    const moved = name === "patched";
    const found = moved && plain.places && plain.places[1];
    map.show({
      rows: plain.layers, columns: plain.pairs.map((pair) => (pair[at] < 0 ? "–" : visible(names[pair[at]]))), rowsUp: true,
      height: moved ? undefined : Math.min(Math.max(Math.floor(190 / plain.layers.length), 13), 20),
      value: (row, column) => { const it = best(name, row, column); return it ? (moved ? it.change : it.chances[0]) : NaN; },
      low: 0, high: moved ? largest(arrays.change.data, 0.05) : 1,
      text: (row, column) => visible(best(name, row, column).words[0]),
      shade: found ? (row, column) => row < found[0] + 1 || plain.pairs[column][1] < found[1] : undefined,
      describe: (row, column) => {
        const it = best(name, row, column);
        const end = it && moved ? `, ${decimal(it.change)} moved` : "";
        return it ? `${named(row)}, position ${it.position}: ${it.words[0]}, probability ${decimal(it.chances[0])}${end}` : "no token here";
      },
    });
  }

  function showMap() {
    const { plain } = state.sheet;
    const value = (row, column) => cell(row, column) - state.ends.corrupt;
    const far = (number) => Math.abs(number - state.ends.corrupt);
    const most = largest(state.map_rows.map(far), largest([far(state.ends.clean)], 1e-6));
    result.show({
      rows: plain.layers.slice(1, -1), columns: plain.pairs.map(([, to]) => (to < 0 ? "–" : visible(tokens[to]))), rowsUp: true,
      value, low: -most, high: most, diverging: true, text: (row, column) => value(row, column).toFixed(2).replace(/^-(0\.00)$/, "$1"),
      describe: (row, column) => `layer ${row}, position ${plain.pairs[column][1]}: ${decimal(value(row, column))}`,
    });
  }

  function tell() {
    const { plain } = state.sheet;
    if (plain.mode === "grids") {
      said.textContent = plain.source ? "Drag a cell of the source onto a cell of the target; or choose both and press P." :
        "Type a source prompt: its activations can then be put into this one.";
    } else if (plain.mode === "map") {
      const name = plain.metric === "difference" ? `logit of ${visible(plain.answer)} minus ${visible(plain.other)}` : `probability of ${visible(plain.answer)}`;
      said.textContent = `Each cell: what patching it adds to the ${name}. ${state.done} of ${layers} layers. ` +
        (state.done ? `Target ${decimal(state.ends.corrupt)}, source ${decimal(state.ends.clean)}. ` : "") + "Click a cell to patch it alone.";
    } else {
      const [[fromRow, from], [toRow, to]] = plain.places;
      const last = plain.pairs.findLastIndex((pair) => pair[1] >= 0);
      const row = plain.layers.length - 1;
      const [was, now] = [best("target", row, last), best("patched", row, last)];
      said.textContent = `Result: source ${placed([fromRow, from], plain.source_tokens)} in target ${placed([toRow, to], tokens)}. ` +
        `At the end ${visible(was.words[0])} ${decimal(was.chances[0])} → ${visible(now.words[0])} ${decimal(now.chances[0])}. ` +
        "Colour: probability that moved; dimmed: what the patch cannot reach.";
    }
  }

  function draw() {
    if (!state.sheet) return;
    const { plain } = state.sheet;
    over.source.parentElement.hidden = !plain.source;
    sides.classList.toggle("nnl-stacked", plain.pairs.length > 9);
    if (plain.source) show(source, "source");
    show(target, "target");
    marks();
    result.el.hidden = plain.mode === "grids";
    if (plain.mode === "patch") show(result, "patched");
    if (plain.mode === "map") showMap();
    tell();
  }

  function data(sheet) {
    const { plain, arrays } = sheet;
    if (arrays.row) {
      if (!state.sheet) return;
      state.map_rows.set(arrays.row.data, plain.layer * arrays.row.data.length);
    } else {
      state.sheet = sheet;
      Object.assign(state, { source: plain.source, part: plain.what, metric: plain.metric, map: plain.mode === "map" });
      [state.answer, state.other] = plain.typed;
      if (plain.places) [state.from, state.to] = plain.places;
      seed();
      if (arrays.map) state.map_rows = arrays.map.data.slice();
      for (const [box, value] of [[text, state.source], [answer, state.answer], [other, state.other], [part, state.part], [metric, state.metric]]) {
        if (box !== document.activeElement) box.value = value;
      }
      other.hidden = state.metric !== "difference";
    }
    if (plain.mode === "map") {
      state.done = plain.done;
      state.ends = { clean: plain.clean ?? NaN, corrupt: plain.corrupt ?? NaN };
    }
    draw();
  }

  const wanted = () => {
    const { source: given, part: what, from, to, map, metric: by, answer: one, other: two } = state;
    return { source: given, part: what, from, to, map, metric: by, answer: one, other: two };
  };

  return {
    el: h("div", {}, controls, sides, said, result.el),
    wanted,
    // Other cells may have been chosen since, and not been patched.
    shown() {
      if (!state.sheet) return wanted();
      const { source: given, what, metric: by, mode, places, typed: [one, two] } = state.sheet.plain;
      const [from, to] = places || [state.from, state.to];
      return { source: given, part: what, from, to, map: mode === "map", metric: by, answer: one, other: two };
    },
    open: () => host.ask(),
    data,
    selected() {
      if (state.sheet) seed();
      draw();
    },
    draw,
    key: (event) => event.key.toLowerCase() === "p" && (patch(), true),
    picture: () => (result.el.hidden ? target : result).picture(),
  };
}
