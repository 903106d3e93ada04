// Steering: a direction, a strength, and two texts side by side while they are written.

import { decimal, field, h, select, visible } from "./dom.js";
import { Strip } from "./strip.js";

export function steeringTab(host) {
  const { layers } = host.about;
  const state = { sheet: null, layer: Math.floor(layers / 2), strength: 1, kind: "prompts" };
  const lines = (area) => area.value.split("\n").filter((line) => line !== "");
  let typing = 0;
  const typed = () => { clearTimeout(typing); typing = setTimeout(() => host.ask(), 400); };
  const area = (label, hint) => h("textarea", { rows: "3", "aria-label": label, placeholder: hint, oninput: typed });
  const toward = area("Prompts to steer toward", "one prompt a line");
  const away = area("Prompts to steer away from", "one prompt a line");
  const prompts = h("div", { class: "nnl-two" }, field("Toward", toward), field("Away from", away));
  const number = (label, name, value, min, max, step = 1) => {
    state[name] = value;
    const made = h("input", {
      type: "number", min, max, step, value, "aria-label": label,
      onchange: () => { state[name] = Number(made.value); host.ask(); },
    });
    return field(label, made);
  };
  const layer = select(Array.from({ length: layers }, (_, index) => [String(index), String(index)]), String(state.layer),
    (value) => { state.layer = Number(value); host.ask(); }, "Layer");
  const kind = h("span");
  const shown = h("output", { class: "nnl-number" });
  const slider = h("input", {
    type: "range", min: "-4", max: "4", step: "0.05", value: String(state.strength), "aria-label": "Strength", class: "nnl-strength",
    oninput: () => { state.strength = Number(slider.value); shown.textContent = decimal(state.strength, 2); host.ask(); },
  });
  const reach = h("input", {
    type: "number", min: "0.5", max: "1000", step: "any", value: "4", "aria-label": "Largest strength",
    onchange: () => { slider.max = reach.value; slider.min = String(-Number(reach.value)); slider.step = String(Number(reach.value) / 80); },
  });
  shown.textContent = decimal(state.strength, 2);
  const said = h("p", { class: "nnl-said", role: "status" });
  const sides = ["As it is", "Steered"].map((title, side) => {
    const strip = new Strip(title, { tip: host.tip, hover: (index) => hover(side, index) });
    const box = h("div", { class: "nnl-text" }, h("h4", {}, title), strip.el);
    return { strip, box };
  });

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
      host.ask();
    }, "Direction")));
  }

  function draw() {
    if (!state.sheet) return;
    const { words, length, said: text } = state.sheet.plain;
    said.textContent = text || `The direction has length ${decimal(length, 2)}; the push, ${decimal(length * Math.abs(state.sheet.plain.strength), 2)}. Colour: how far along it each token's stream is.`;
    if (!words) return;
    const all = [...state.sheet.arrays.along.data].filter(Number.isFinite);
    const high = Math.max(...all.map(Math.abs), 1e-9);
    sides.forEach(({ strip }, side) => strip.show({
      tokens: words[side], value: (index) => along(side, index), low: -high, high, diverging: true,
    }));
    sides[1].box.firstChild.textContent = `Steered by ${decimal(state.sheet.plain.strength, 2)}`;
  }

  return {
    el: h("div", {},
      h("div", { class: "nnl-controls" }, kind, field("Layer", layer), number("Tokens", "count", 12, 1, 200),
        number("Temperature", "temperature", 0, 0, 5, 0.1), number("Seed", "seed", 0, 0, 99999)),
      prompts,
      h("div", { class: "nnl-controls" }, field("Strength", slider), shown, field("up to", reach)),
      said, h("div", { class: "nnl-two" }, sides[0].box, sides[1].box)),
    wanted: () => ({
      layer: state.layer, strength: state.strength, count: state.count, temperature: state.temperature, seed: state.seed,
      ...(state.kind === "prompts" ? { toward: lines(toward), away: lines(away) } : { variable: state.kind.slice(1) }),
    }),
    open: () => host.ask(),
    data(sheet) {
      const first = !state.sheet || String(sheet.plain.choices) !== String(state.sheet.plain.choices);
      state.sheet = sheet;
      if (first) drawKind();
      draw();
    },
    draw,
  };
}
