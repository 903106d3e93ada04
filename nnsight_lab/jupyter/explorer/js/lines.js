// A small line chart: one line a series, numbers at hover.

import { LINES, ramps } from "./colours.js";
import { decimal, h, largest, short } from "./dom.js";

const NS = "http://www.w3.org/2000/svg";

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// series: [{ name, values }]; places: labels of the x axis; log: a logarithmic y axis from 1.
export function lineChart({ title, places, series, low, high, log, el, width = 430 }) {
  const height = 190;
  const [left, right, top, bottom] = [44, 96, 12, 34];
  const colours = ramps(el);
  const scaled = (value) => (log ? Math.log10(value + 1) : value);
  const flat = series.flatMap((line) => line.values).filter(Number.isFinite);
  const from = scaled(low ?? -largest(flat.map((value) => -value), 0));
  const to = scaled(high ?? largest(flat, 1e-9));
  const x = (index) => left + (index * (width - left - right)) / Math.max(places.length - 1, 1);
  const y = (value) => height - bottom - ((scaled(value) - from) / (to - from || 1)) * (height - top - bottom);
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": title, class: "nnl-lines",
  });
  for (const part of [0, 0.5, 1]) {
    const value = log ? 10 ** (from + (to - from) * part) - 1 : from + (to - from) * part;
    const at = height - bottom - part * (height - top - bottom);
    picture.append(svg("line", { x1: left, x2: width - right, y1: at, y2: at, stroke: colours.line }));
    const label = svg("text", { x: left - 6, y: at + 4, "text-anchor": "end", fill: colours.faint });
    label.textContent = log ? String(Math.round(value)) : decimal(value, 2);
    picture.append(label);
  }
  const step = Math.ceil(places.length / 10);
  places.forEach((place, index) => {
    if (index % step && index !== places.length - 1) return;
    const label = svg("text", { x: x(index), y: height - bottom + 16, "text-anchor": "middle", fill: colours.faint });
    label.textContent = short(place, 7);
    picture.append(label);
  });
  series.forEach(({ name, values }, number) => {
    const colour = LINES[number % LINES.length];
    const known = values.map((value, index) => [x(index), y(value)]).filter((point) => Number.isFinite(point[1]));
    picture.append(svg("polyline", {
      points: known.map((point) => point.join(",")).join(" "), fill: "none", stroke: colour, "stroke-width": 2,
    }));
    values.forEach((value, index) => {
      if (!Number.isFinite(value)) return;
      const dot = svg("circle", { cx: x(index), cy: y(value), r: 3, fill: colour });
      const said = svg("title");
      said.textContent = `${name}, ${places[index]}: ${decimal(value, 4)}`;
      dot.append(said);
      picture.append(dot);
    });
    const label = svg("text", { x: width - right + 10, y: top + 12 + number * 16, fill: colour });
    label.textContent = short(name, 12);
    picture.append(label);
  });
  return h("figure", { class: "nnl-chart" }, h("figcaption", {}, title), picture);
}
