// Small things every tab needs: elements, tokens one can see, numbers, the hover box.

// An element: h("button", { class: "x", onclick: f, "aria-label": "Go" }, "text", other).
export function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

// A token with its whitespace visible: spaces as ·, line ends as ↵, tabs as ⇥.
export function visible(token) {
  const shown = token.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll("\r", "␍");
  return shown === "" ? "∅" : shown;
}

export function short(text, length) {
  const letters = [...text];
  return letters.length > length ? `${letters.slice(0, length - 1).join("")}…` : text;
}

export function decimal(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  if (value !== 0 && Math.abs(value) < 0.5 * 10 ** -digits) return value.toExponential(1);
  return value.toFixed(digits);
}

// The largest of many numbers and of `least`. As arguments of Math.max they would overflow the stack.
export function largest(numbers, least = -Infinity) {
  let most = least;
  for (const number of numbers) if (number > most) most = number;
  return most;
}

const KINDS = {
  float32: Float32Array, int32: Int32Array, uint8: Uint8Array, int8: Int8Array, uint16: Uint16Array,
};

// The arrays of a message as { name: { data, shape } }, from its list and its buffers.
export function unpacked(listed, buffers) {
  const found = {};
  listed.forEach(({ name, kind, shape }, index) => {
    const view = buffers[index];
    const raw = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
    found[name] = { data: new KINDS[kind](raw), shape };
  });
  return found;
}

// A labelled control.
export function field(label, control) {
  return h("label", { class: "nnl-field" }, h("span", {}, label), control);
}

export function select(options, value, onchange, label) {
  const made = h("select", { "aria-label": label, onchange: () => onchange(made.value) });
  for (const [name, text] of options) made.append(h("option", { value: name }, text));
  made.value = value;
  return made;
}

// The box beside the pointer. One for an explorer.
export class Tip {
  constructor() {
    this.el = h("div", { class: "nnl-tip", role: "tooltip", hidden: true });
  }

  show(x, y, ...content) {
    this.el.replaceChildren(...content);
    this.el.hidden = false;
    // Where a page contains its panels, "fixed" is counted from the panel: see where it really is.
    this.el.style.left = this.el.style.top = "0px";
    const { width, height, left: x0, top: y0 } = this.el.getBoundingClientRect();
    const left = x + 14 + width > window.innerWidth ? x - width - 10 : x + 14;
    const top = y + 14 + height > window.innerHeight ? y - height - 10 : y + 14;
    this.el.style.left = `${Math.max(0, left) - x0}px`;
    this.el.style.top = `${Math.max(0, top) - y0}px`;
  }

  hide() {
    this.el.hidden = true;
  }
}

// Rows of "probability, token" for a hover box.
export function chances(words, probabilities) {
  const rows = words.map((word, index) =>
    h("tr", {}, h("td", { class: "nnl-number" }, decimal(probabilities[index])), h("td", {}, visible(word))),
  );
  return h("table", { class: "nnl-chances" }, ...rows);
}
