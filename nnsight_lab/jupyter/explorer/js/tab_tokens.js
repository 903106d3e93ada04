// Tokens: the prompt as the model reads it.

import { decimal, field, h, largest, select, visible } from "./dom.js";
import { Strip } from "./strip.js";

export function tokensTab(host) {
  const { tokens, ids } = host.about;
  const state = { by: "surprisal", numbers: null };
  const controls = h("div", { class: "nnl-controls" });
  const strip = new Strip("Tokens of the prompt", {
    tip: host.tip,
    pick: (token) => host.select({ token }),
    hover: (index) => [
      h("b", {}, visible(tokens[index])), h("div", {}, `position ${index}, id ${ids[index]}`),
      h("div", {}, state.numbers ? `${state.by} ${decimal(state.numbers[index])}` : ""),
    ],
  });
  const said = h("p", { class: "nnl-said" });

  const draw = () => {
    const numbers = state.numbers || [];
    const finite = [...numbers].filter(Number.isFinite);
    const signed = finite.some((value) => value < 0);
    const high = largest(finite.map(Math.abs), 1e-9);
    strip.show({ tokens, ids, value: (index) => numbers[index], low: signed ? -high : 0, high, diverging: signed });
    strip.select(host.selection.token);
    const { token } = host.selection;
    said.textContent = `${tokens.length} tokens. Position ${token}: ${visible(tokens[token])}, id ${ids[token]}` +
      (Number.isFinite(numbers[token]) ? `, ${state.by} ${decimal(numbers[token])}` : "");
  };

  return {
    el: h("div", {}, controls, strip.el, said),
    wanted: () => ({ by: state.by }),
    restore: ({ by }) => { state.by = by; },
    open: () => { draw(); host.ask(); },
    data({ plain, arrays }) {
      state.numbers = arrays.numbers.data;
      const choose = (by) => { state.by = by; host.ask(); };
      controls.replaceChildren(
        field("Colour", select(plain.choices.map((name) => [name, name]), state.by, choose, "Colour by")),
      );
      draw();
    },
    selected: draw,
    draw,
  };
}
