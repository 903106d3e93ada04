// The live view: sliders, tokens as they are sampled, values and curves as they come.
// `view.py` says what it is told. Everything is drawn from what was told; nothing is asked for.
import { connect, keepKeys } from "../channel.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDE = 480, HIGH = 120, EDGE = 6;

const make = (tag, className = "", text = "") => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
};
const numbersOf = (view) =>
  new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
const short = (x) => (Number.isFinite(x) ? Number(x.toPrecision(4)).toString() : String(x));

function section(parent, label) {
  const node = make("section", "nnl-live-part");
  node.setAttribute("aria-label", label);
  node.hidden = true;
  parent.append(node);
  return node;
}

// One chart for each name: a curve over steps, or the last of several vectors with those before it.
function chart(name) {
  const figure = make("figure", "nnl-live-chart");
  figure.dataset.name = name;
  const caption = make("figcaption", "", name);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDE} ${HIGH}`);
  svg.setAttribute("role", "img");
  const last = make("span", "nnl-live-last");
  caption.append(" ", last);
  figure.append(caption, svg);
  const rows = [];
  let queued = false;
  const curve = (values, low, high, className) => {
    const across = (WIDE - 2 * EDGE) / Math.max(values.length - 1, 1);
    const scale = (HIGH - 2 * EDGE) / (high - low || 1);
    const points = Array.from(values, (y, i) =>
      Number.isFinite(y) ? `${(EDGE + i * across).toFixed(1)},${(HIGH - EDGE - (y - low) * scale).toFixed(1)}` : "");
    const line = document.createElementNS(SVG, "polyline");
    line.setAttribute("points", points.filter(Boolean).join(" "));
    line.setAttribute("class", className);
    svg.append(line);
    if (values.length === 1) {
      const dot = document.createElementNS(SVG, "circle");
      const [x, y] = (points[0] || "0,0").split(",");
      for (const [key, value] of Object.entries({ cx: x, cy: y, r: 3 })) dot.setAttribute(key, value);
      svg.append(dot);
    }
  };
  const paint = () => {
    queued = false;
    const scalar = rows.every((row) => row.length === 1);
    const drawn = scalar ? [Float32Array.from(rows, (row) => row[0])] : rows.slice(-12);
    const flat = drawn.flatMap((row) => Array.from(row)).filter(Number.isFinite);
    const low = Math.min(...flat), high = Math.max(...flat);
    svg.replaceChildren();
    drawn.forEach((row, i) => curve(row, low, high, i === drawn.length - 1 ? "nnl-now" : "nnl-before"));
    const now = scalar ? short(drawn[0].at(-1)) : `step ${rows.length}`;
    last.textContent = `${now}  (${short(low)} to ${short(high)})`;
    svg.setAttribute("aria-label", `${name}: ${now}, from ${short(low)} to ${short(high)}, ${rows.length} steps`);
    figure.dataset.points = rows.length;
  };
  return {
    figure,
    add(values) {
      rows.push(values);
      if (!queued) requestAnimationFrame(paint);
      queued = true;
    },
    only(values) {
      rows.length = 0;
      this.add(values);
    },
  };
}

function bars(node, { name, labels }, values) {
  node.dataset.name = name;
  const most = Math.max(...values.map(Math.abs), 1e-9);
  const list = make("ol", "nnl-live-bars");
  labels.forEach((label, i) => {
    const row = make("li");
    const bar = make("span", "nnl-live-bar");
    bar.style.width = `${(100 * Math.abs(values[i])) / most}%`;
    const track = make("span", "nnl-live-track");
    track.append(bar);
    const text = make("span", "nnl-live-label", label);
    text.title = label;
    row.append(text, track, make("span", "nnl-live-number", short(values[i])));
    list.append(row);
  });
  node.replaceChildren(make("div", "nnl-live-name", name), list);
}

export default {
  async render({ model, el }) {
    const root = make("div", "nnl-live");
    keepKeys(root); // arrow keys are the slider's, not the notebook's
    root.addEventListener("keydown", (event) => event.stopPropagation());
    const head = make("div", "nnl-live-head");
    const title = make("strong"), status = make("span", "nnl-live-state");
    status.setAttribute("role", "status");
    const cancel = make("button", "nnl-live-cancel", "Cancel");
    cancel.type = "button";
    cancel.hidden = true;
    head.append(title, status, cancel);
    root.append(head);
    el.append(root);
    const controls = section(root, "Sliders"), strip = section(root, "Tokens");
    const pictures = section(root, "Pictures"), values = section(root, "Values");
    strip.classList.add("nnl-live-tokens");
    strip.setAttribute("role", "log");
    strip.tabIndex = 0;
    const charts = new Map(), named = new Map(), barred = new Map(), inputs = new Map();
    const me = Math.random().toString(36).slice(2); // another tab may show the same sliders
    let moves = 0, rows = [], asked = false;
    const begun = new Map();

    const clear = () => {
      for (const part of [strip, pictures, values]) { part.replaceChildren(); part.hidden = true; }
      charts.clear(); named.clear(); barred.clear();
      rows = [];
      root.dataset.tokens = 0;
    };
    const chartOf = (name) => {
      if (!charts.has(name)) {
        charts.set(name, chart(name));
        pictures.append(charts.get(name).figure);
        pictures.hidden = false;
      }
      return charts.get(name);
    };
    const token = (texts) => {
      strip.hidden = false;
      texts.forEach((text, row) => {
        if (!rows[row]) strip.append((rows[row] = make("div", "nnl-live-row")));
        rows[row].append(make("span", "nnl-live-token", text));
        if (text.endsWith("↵")) rows[row].append("\n"); // beside the token, not in it
      });
      root.dataset.tokens = rows[0]?.childElementCount ?? 0;
      strip.scrollTop = strip.scrollHeight;
    };
    const slider = ({ name, low, high, step, value }) => {
      const label = make("label", "nnl-live-slider"), input = make("input"), shown = make("output", "", short(value));
      Object.assign(input, { type: "range", min: low, max: high, step: step ?? (high - low) / 200, value });
      input.setAttribute("aria-label", `${name}, ${short(low)} to ${short(high)}`);
      input.dataset.name = name;
      input.addEventListener("input", () => {
        shown.textContent = short(Number(input.value));
        begun.set(++moves, performance.now());
        root.dataset.moves = moves;
        if (!channel.say("move", { name, value: Number(input.value), move: moves, by: me })) status.textContent = "no kernel";
      });
      inputs.set(name, (to) => {
        input.value = to;
        shown.textContent = short(Number(input.value));
      });
      label.append(make("span", "", name), input, shown);
      controls.append(label);
      controls.hidden = false;
    };
    const stand = (by, at) => {
      if (by === me) return; // the hand is here, and may be elsewhere by now
      for (const [name, value] of Object.entries(at)) inputs.get(name)?.(value);
    };
    const painted = ([move, by]) => {
      if (by !== me || !begun.has(move)) return;
      const from = begun.get(move);
      for (const old of begun.keys()) if (old <= move) begun.delete(old);
      // After the next frame it is on the screen.
      requestAnimationFrame(() => setTimeout(() => {
        root.dataset.painted = move;
        root.dataset.lag = (performance.now() - from).toFixed(1);
      }));
    };

    const on = {
      sliders({ items }) { controls.replaceChildren(); inputs.clear(); items.forEach(slider); },
      begin(said) { title.textContent = said.title; clear(); asked = false; },
      token({ texts }) { token(texts); },
      tokens({ rows: all }) {
        strip.replaceChildren();
        rows = [];
        for (let i = 0; i < (all[0] || []).length; i++) token(all.map((row) => row[i]));
      },
      point({ name }, buffers) { chartOf(name).add(numbersOf(buffers[0])); },
      line({ name }, buffers) { chartOf(name).only(numbersOf(buffers[0])); },
      bars(said, buffers) {
        if (!barred.has(said.name)) barred.set(said.name, pictures.appendChild(make("div", "nnl-live-picture")));
        bars(barred.get(said.name), said, Array.from(numbersOf(buffers[0])));
        pictures.hidden = false;
      },
      value({ name, text }) {
        if (!named.has(name)) named.set(name, values.appendChild(make("div", "nnl-live-value")));
        named.get(name).replaceChildren(make("span", "nnl-live-name", name), " ", make("span", "", text));
        values.hidden = false;
      },
      state({ word, text, move, at }) {
        painted(move);
        stand(move[1], at);
        root.dataset.state = word;
        asked &&= word === "running";
        status.textContent = asked ? "cancelling" : text;
        cancel.hidden = word !== "running";
        cancel.disabled = asked;
      },
    };
    const channel = await connect(model, el, {
      told: (kind, content, buffers) => on[kind]?.(content, buffers || []),
      reset: () => { clear(); controls.replaceChildren(); inputs.clear(); },
      state: (word) => {
        root.dataset.channel = word;
        cancel.title = word === "waiting" ? "Heard when the cell that runs now has ended." : "";
        if (word !== "closed") return;
        cancel.hidden = true;
        if (!["done", "failed"].includes(root.dataset.state)) status.textContent = "no kernel";
      },
    });
    cancel.addEventListener("click", () => {
      asked = channel.say("cancel");
      cancel.disabled = asked;
      status.textContent = asked ? "cancelling" : "no kernel";
    });
    return () => channel.close();
  },
};
