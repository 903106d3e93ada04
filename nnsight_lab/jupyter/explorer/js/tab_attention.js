// Attention: all heads small, with scores to sort them; one head in full, and a row of it on the tokens.

import { ramps } from "./colours.js";
import { decimal, field, h, select, visible } from "./dom.js";
import { Heatmap } from "./heatmap.js";
import { Strip } from "./strip.js";

const SCORES = ["entropy", "previous", "induction", "first"];
const SORTS = [["layer", "layer"], ["entropy", "entropy, sharpest first"], ["previous", "previous token"],
  ["induction", "induction"], ["first", "first token"]];
const OVERVIEW = 144;

export function attentionTab(host) {
  const { tokens, layers } = host.about;
  const count = tokens.length;
  const heads = new Map(); // layer → { tiles, scores } as they come
  const tiles = new Map(); // "layer.head" → its button
  const state = { sort: "layer", sheet: null, start: 0, end: count, key: 0, asked: "" };
  const grid = h("div", { class: "nnl-heads", role: "group", "aria-label": "Heads: arrow keys move, Enter looks at one", onkeydown: (event) => keyed(event) });
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      target.seen = isIntersecting;
      if (isIntersecting) paint(target);
    }
  });
  const map = new Heatmap("Attention pattern, query by key", {
    tip: host.tip, hover: (row, column) => hover(row + state.start, column + state.start),
    pick: (row, column) => { state.key = column + state.start; host.select({ token: row + state.start }); },
  });
  const strip = new Strip("Where the selected token looks", {
    tip: host.tip, pick: (token) => host.select({ token }), hover: (key) => hover(host.selection.token, key),
  });
  const title = h("div", { class: "nnl-said", role: "status" });
  const row = h("div", { class: "nnl-said" });
  const overview = h("canvas", {
    class: "nnl-overview", "aria-hidden": "true", title: "drag to choose a range of tokens",
    onmousedown: (event) => brush(event), onmousemove: (event) => event.buttons && brush(event), onmouseup: () => drawHead(),
  });
  const ends = ["From", "To"].map((name, end) => h("input", {
    type: "number", min: end, max: count - 1 + end, "aria-label": `${name} position`, style: "width: 5em",
    onchange: () => range(Number(ends[0].value), Number(ends[1].value)),
  }));
  const whole = h("button", { class: "nnl-button", onclick: () => range(0, count) }, "All");
  const controls = h("div", { class: "nnl-controls" },
    field("Sort by", select(SORTS, state.sort, (by) => { state.sort = by; arrange(); }, "Sort heads by")));
  const side = h("div", { class: "nnl-side" }, count > 48 ? overview : null,
    h("div", { class: "nnl-controls" }, field("from", ends[0]), field("to", ends[1]), whole));

  // Heads

  function score(layer, head, name) {
    const { data, shape } = heads.get(layer).scores;
    return data[SCORES.indexOf(name) * shape[1] + head];
  }

  function tile(layer, head) {
    const label = `Layer ${layer}, head ${head}`;
    const said = SCORES.map((name) => `${name} ${decimal(score(layer, head, name))}`).join(", ");
    const canvas = h("canvas");
    const button = h("button", {
      class: "nnl-headtile", "aria-label": `${label}: ${said}`, "aria-pressed": "false", tabindex: tiles.size ? "-1" : "0",
      "data-layer": layer, "data-head": head, onclick: () => look(layer, head),
      onmousemove: (event) => host.tip.show(event.clientX, event.clientY, h("b", {}, label),
        ...SCORES.map((name) => h("div", {}, `${name} ${decimal(score(layer, head, name))}`))),
      onmouseleave: () => host.tip.hide(),
    }, canvas, h("span", {}));
    tiles.set(`${layer}.${head}`, button);
    seen.observe(button);
    return button;
  }

  // The picture of a head, when it is to be seen.
  function paint(button) {
    const canvas = button.firstChild;
    const { layer, head } = button.dataset;
    const held = heads.get(Number(layer)).tiles;
    const { dark } = ramps(button);
    if (canvas.drawn === held && canvas.dark === dark) return;
    canvas.drawn = held;
    canvas.dark = dark;
    const [, size] = held.shape;
    picture(canvas, size, held.data.subarray(head * size * size, (Number(head) + 1) * size * size));
  }

  function picture(canvas, size, steps) {
    const { sequential } = ramps(grid);
    const colours = Array.from({ length: 256 }, (_, step) => sequential(step / 255).rgb);
    canvas.width = canvas.height = size;
    const pen = canvas.getContext("2d");
    const image = pen.createImageData(size, size);
    steps.forEach((step, place) => image.data.set([...colours[step], 255], place * 4));
    pen.putImageData(image, 0, 0);
  }

  function arrange() {
    const order = [...heads.keys()].sort((one, other) => one - other)
      .flatMap((layer) => Array.from({ length: heads.get(layer).scores.shape[1] }, (_, head) => [layer, head]));
    for (const [layer, head] of order) if (!tiles.has(`${layer}.${head}`)) tile(layer, head);
    const button = ([layer, head]) => {
      const made = tiles.get(`${layer}.${head}`);
      const by = state.sort === "layer" ? head : `${layer}.${head} · ${score(layer, head, state.sort).toFixed(2).replace("NaN", "–")}`;
      made.lastChild.textContent = by;
      return made;
    };
    if (state.sort === "layer") {
      grid.replaceChildren(...[...heads.keys()].sort((one, other) => one - other).map((layer) =>
        h("div", { class: "nnl-headrow" }, h("span", { class: "nnl-said" }, `layer ${layer}`),
          ...order.filter(([own]) => own === layer).map(button))));
    } else {
      const sign = state.sort === "entropy" ? 1 : -1;
      const rank = ([layer, head]) => { const value = score(layer, head, state.sort); return Number.isFinite(value) ? sign * value : Infinity; };
      order.sort((one, other) => { const [a, b] = [rank(one), rank(other)]; return a === b ? 0 : a - b; });
      grid.replaceChildren(h("div", { class: "nnl-headrow" }, ...order.map(button)));
    }
    for (const made of tiles.values()) if (made.seen) paint(made);
    press();
  }

  function press() {
    const { layer, head } = host.selection;
    for (const [name, button] of tiles) {
      const now = name === `${layer}.${head}`;
      button.setAttribute("aria-pressed", String(now));
      button.tabIndex = now ? 0 : -1;
    }
    if (tiles.size && !tiles.has(`${layer}.${head}`)) tiles.values().next().value.tabIndex = 0;
  }

  function keyed(event) {
    const buttons = [...grid.querySelectorAll(".nnl-headtile")];
    const now = buttons.indexOf(event.target);
    const { left, top } = event.target.getBoundingClientRect();
    const near = (down) => buttons.map((button) => [button, button.getBoundingClientRect()])
      .filter(([, box]) => (down ? box.top > top + 2 : box.top < top - 2))
      .sort(([, a], [, b]) => Math.abs(a.top - top) - Math.abs(b.top - top) || Math.abs(a.left - left) - Math.abs(b.left - left))[0]?.[0];
    const next = { ArrowLeft: () => buttons[now - 1], ArrowRight: () => buttons[now + 1],
      ArrowUp: () => near(false), ArrowDown: () => near(true) }[event.key]?.();
    if (now < 0 || !event.key.startsWith("Arrow")) return;
    event.preventDefault();
    event.stopPropagation();
    next?.focus();
  }

  function look(layer, head) {
    host.select({ layer, head });
    if (host.pinned) drawHead();
  }

  // One head

  const held = () => state.sheet?.arrays.pattern;
  const within = (place) => held() && place >= state.sheet.plain.start && place < state.sheet.plain.start + held().shape[0];

  function weight(query, key) {
    if (!within(query) || !within(key)) return NaN;
    const { data, shape: [size] } = held();
    const { start } = state.sheet.plain;
    const value = data[(query - start) * size + key - start];
    return data instanceof Uint8Array ? (value / 255) ** 2 : value;
  }

  // What a cell's colour says; empty where a token cannot look ahead.
  function shade(query, key) {
    const value = weight(query, key);
    return key > query && value === 0 ? NaN : Math.sqrt(value);
  }

  function hover(query, key) {
    if (!held()) return [];
    return [h("div", {}, `${query} ${visible(tokens[query])} looks at ${key} ${visible(tokens[key])}`),
      h("b", {}, `${held().data instanceof Uint8Array ? "≈ " : ""}${decimal(weight(query, key), 4)}`)];
  }

  function range(from, to) {
    const start = Math.min(Math.max(Math.round(from) || 0, 0), count - 1);
    state.start = start;
    state.end = Math.min(Math.max(Math.round(to) || count, start + 1), count);
    drawHead();
    if (held() && !(within(state.start) && within(state.end - 1))) ask({});
  }

  function brush(event) {
    const box = overview.getBoundingClientRect();
    const at = Math.floor(((event.clientX - box.left) / box.width) * count);
    if (event.type === "mousedown") state.from = at;
    const [from, to] = [Math.min(state.from, at), Math.max(state.from, at) + 1];
    event.preventDefault();
    if (to - from < 4) return;
    [state.start, state.end] = [Math.max(from, 0), Math.min(to, count)];
    drawOverview();
  }

  function drawOverview() {
    ends[0].value = state.start;
    ends[1].value = state.end;
    const { layer, head } = host.selection;
    const small = heads.get(layer)?.tiles;
    if (!small || count <= 48) return;
    const source = h("canvas");
    const [, size] = small.shape;
    picture(source, size, small.data.subarray(head * size * size, (head + 1) * size * size));
    overview.width = overview.height = OVERVIEW;
    const pen = overview.getContext("2d");
    pen.imageSmoothingEnabled = false;
    const across = Math.ceil(count / size) * size; // the last squares may reach beyond the prompt
    const used = (size * count) / across;
    pen.drawImage(source, 0, 0, used, used, 0, 0, OVERVIEW, OVERVIEW);
    pen.strokeStyle = ramps(grid).mark;
    pen.lineWidth = 2;
    const scale = OVERVIEW / count;
    const wide = (state.end - state.start) * scale;
    pen.strokeRect(state.start * scale + 1, state.start * scale + 1, wide - 2, wide - 2);
  }

  function drawHead() {
    const { layer, head, token } = host.selection;
    drawOverview();
    const scores = heads.has(layer) ? SCORES.map((name) => `${name} ${decimal(score(layer, head, name))}`).join(" · ") : "";
    title.textContent = `Layer ${layer}, head ${head}${scores ? `: ${scores}` : ""}`;
    const right = state.sheet && state.sheet.plain.layer === layer && state.sheet.plain.head === head;
    if (!right) {
      row.textContent = host.pinned ? "Only one head's whole pattern was pinned." : "";
      if (!state.sheet) return;
    }
    const shown = tokens.slice(state.start, state.end);
    const least = shown.length > 110 ? 4 : 15;
    map.el.style.opacity = right ? 1 : 0.4;
    map.show({
      rows: shown.map((text, place) => `${state.start + place} ${visible(text)}`), columns: shown.map(visible),
      value: (query, key) => shade(query + state.start, key + state.start), low: 0, high: 1,
      widths: [least, 30], height: Math.min(Math.max(Math.floor(400 / shown.length), least), 24),
      describe: (query, key) => `query ${query + state.start} ${shown[query]}, key ${key + state.start} ${shown[key]}: ${decimal(weight(query + state.start, key + state.start), 4)}`,
    });
    const inside = token >= state.start && token < state.end;
    map.mark(inside ? token - state.start : null, Math.min(Math.max(state.key - state.start, 0), shown.length - 1));
    if (right) row.textContent = `From position ${token} ${visible(tokens[token])}: where it looks; colour, the square root of the weight`;
    strip.show({ tokens, value: (key) => shade(token, key), low: 0, high: 1 });
    strip.select(token);
  }

  // What is missing: layers that have not come, and the head that is selected.
  function ask() {
    const missing = Array.from({ length: layers }, (_, layer) => layer).filter((layer) => !heads.has(layer));
    state.asked = `${host.selection.layer}.${host.selection.head}`;
    host.ask({ tiles: missing });
  }

  function draw() {
    const { layer, head } = host.selection;
    if (!host.pinned && state.asked && state.asked !== `${layer}.${head}`) ask();
    for (const made of tiles.values()) if (made.seen) paint(made);
    press();
    drawHead();
  }

  return {
    el: h("div", {}, controls, grid, title, h("div", { class: "nnl-focus" }, map.el, side), row, strip.el),
    wanted: () => ({ layer: host.selection.layer, head: host.selection.head, start: state.start, end: state.end }),
    open: ask,
    data({ plain, arrays }) {
      if (plain.topic === "head") {
        state.sheet = { plain, arrays };
        state.asked ||= `${plain.layer}.${plain.head}`;
        if (!within(state.start) || !within(state.end - 1)) {
          state.start = plain.start;
          state.end = plain.start + arrays.pattern.shape[0];
        }
        drawHead();
      } else {
        heads.set(plain.layer, arrays);
        arrange();
        if (plain.layer === host.selection.layer) drawHead();
      }
    },
    selected: draw,
    draw,
    picture: () => map.picture(),
  };
}
