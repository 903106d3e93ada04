// Steering: a direction, a strength, and two texts side by side while they are written.

import { decimal, field, h, largest, select, visible } from "./dom.js";
import { Strip } from "./strip.js";

export function steeringTab(host) {
  const { layers } = host.about;
  const state = { sheet: null, strength: 1, kind: "prompts", inputs: {} };
  const lines = (area) => area.value.split("\n").filter((line) => line !== "");
  let typing = 0;
  const typed = () => { clearTimeout(typing); typing = setTimeout(ask, 400); };
  const area = (label, hint) => h("textarea", { rows: "3", "aria-label": label, placeholder: hint, oninput: typed });
  const toward = area("Prompts to steer toward", "one prompt a line");
  const away = area("Prompts to steer away from", "one prompt a line");
  const prompts = h("div", { class: "nnl-two" }, field("Toward", toward), field("Away from", away));
  const number = (label, name, value, min, max, step = 1) => {
    state[name] = value;
    const made = h("input", {
      type: "number", min, max, step, value, "aria-label": label,
      onchange: () => { state[name] = Number(made.value); ask(); },
    });
    state.inputs[name] = made;
    return field(label, made);
  };
  const layer = select(Array.from({ length: layers }, (_, index) => [String(index), String(index)]), String(host.selection.layer),
    (value) => host.select({ layer: Number(value) }), "Layer");
  const kind = h("span");
  const shown = h("output", { class: "nnl-number" });
  const slider = h("input", {
    type: "range", min: "-4", max: "4", step: "0.05", value: String(state.strength), "aria-label": "Strength", class: "nnl-strength",
    oninput: () => follow(),
  });
  const reach = h("input", {
    type: "number", min: "0.5", max: "1000", step: "any", value: "4", "aria-label": "Largest strength",
    onchange: () => { stretch(Math.abs(Number(reach.value)) || 4); follow(); },
  });
  shown.textContent = decimal(state.strength, 2);
  const said = h("p", { class: "nnl-said", role: "status" });
  const sides = ["As it is", "Steered"].map((title, side) => {
    const strip = new Strip(title, { tip: host.tip, hover: (index) => hover(side, index) });
    const box = h("div", { class: "nnl-text" }, h("h4", {}, title), strip.el);
    return { strip, box };
  });

  function ask() {
    state.layer = host.selection.layer;
    host.ask();
  }

  // What the slider says counts, also when its range has changed below it.
  function follow() {
    if (state.strength === Number(slider.value)) return;
    state.strength = Number(slider.value);
    shown.textContent = decimal(state.strength, 2);
    ask();
  }

  function stretch(far) {
    const most = Math.min(Math.max(far, 0.5), 1000);
    reach.value = String(most);
    [slider.min, slider.max, slider.step] = [String(-most), String(most), String(most / 80)];
  }

  function along(side, index) {
    const { data, shape } = state.sheet.arrays.along;
    return data[side * shape[1] + index];
  }

  function hover(side, index) {
    return [h("b", {}, visible(state.sheet.plain.words[side][index])), h("div", {}, `token ${index}, along the direction ${decimal(along(side, index))}`)];
  }

  function drawKind() {
    const { choices } = state.sheet.plain;
    const options = [["prompts", "difference of prompts"], ...choices.map((name) => [`=${name}`, `vector ${name}`])];
    kind.replaceChildren(field("Direction", select(options, state.kind, (value) => {
      state.kind = value;
      prompts.hidden = value !== "prompts";
      ask();
    }, "Direction")));
  }

  function draw() {
    if (!state.sheet) return;
    const { words, length, said: text, wanted } = state.sheet.plain;
    said.textContent = text || `The direction at layer ${wanted.layer} has length ${decimal(length, 2)}; the push, ${decimal(length * Math.abs(state.sheet.plain.strength), 2)}. Colour: how far along it each token's stream is.`;
    if (!words) return;
    const all = [...state.sheet.arrays.along.data].filter(Number.isFinite);
    const high = largest(all.map(Math.abs), 1e-9);
    sides.forEach(({ strip }, side) => strip.show({
      tokens: words[side], value: (index) => along(side, index), low: -high, high, diverging: true,
    }));
    sides[1].box.firstChild.textContent = `Steered by ${decimal(state.sheet.plain.strength, 2)}`;
  }

  // As the controls stood when this was asked.
  function restore({ layer: held, strength, toward: one = [], away: other = [], variable, ...numbers }) {
    Object.assign(state, { layer: held, strength, kind: variable ? `=${variable}` : "prompts" });
    for (const [name, input] of Object.entries(state.inputs)) input.value = state[name] = numbers[name];
    [toward.value, away.value] = [one.join("\n"), other.join("\n")];
    prompts.hidden = Boolean(variable);
    if (Math.abs(strength) > Number(reach.value)) stretch(Math.abs(strength));
    slider.value = String(strength);
    shown.textContent = decimal(strength, 2);
  }

  return {
    el: h("div", {},
      h("div", { class: "nnl-controls" }, kind, field("Layer", layer), number("Tokens", "count", 12, 1, 200),
        number("Temperature", "temperature", 0, 0, 5, 0.1), number("Seed", "seed", 0, 0, 99999)),
      prompts,
      h("div", { class: "nnl-controls" }, field("Strength", slider), shown, field("up to", reach)),
      said, h("div", { class: "nnl-two" }, sides[0].box, sides[1].box)),
    wanted: () => ({
      layer: host.selection.layer, strength: state.strength, count: state.count, temperature: state.temperature, seed: state.seed,
      ...(state.kind === "prompts" ? { toward: lines(toward), away: lines(away) } : { variable: state.kind.slice(1) }),
    }),
    restore,
    open: ask,
    data(sheet) {
      const first = !state.sheet || String(sheet.plain.choices) !== String(state.sheet.plain.choices);
      state.sheet = sheet;
      if (first) drawKind();
      draw();
    },
    selected() {
      layer.value = String(host.selection.layer);
      if (state.layer === host.selection.layer) draw();
      else ask();
    },
    draw,
  };
}
