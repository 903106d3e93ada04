// A heatmap on a canvas: any number of cells, the visible ones drawn; mouse and keyboard alike.
//
//   const map = new Heatmap("Logit lens", { hover(row, column), pick(row, column), tip });
//   map.show({ rows, columns, value, text, describe, low, high, diverging, rowsUp, shade });
//
// value(row, column): a number, NaN for an empty cell. text: what is written in a wide cell.
// describe: one line for screen readers. shade: whether a cell is outside of what can matter.

import { ramps } from "./colours.js";
import { h, short } from "./dom.js";

const FONT = "11px var(--jp-code-font-family, monospace)";
const TALLEST = 460;
const DIMMED = 0.25;

export class Heatmap {
  constructor(label, { hover = () => [], pick = () => {}, tip, drag } = {}) {
    this.on = { hover, pick, tip, drag };
    this.at = null; // the cell the keyboard is on
    this.marked = null;
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.room = h("div", { class: "nnl-room" }, this.canvas);
    this.live = h("span", { class: "nnl-unseen", "aria-live": "polite" });
    this.scroller = h("div", {
      class: "nnl-heat", tabindex: "0", role: "application", "aria-roledescription": "heatmap",
      "aria-label": `${label}: arrow keys move, Enter picks`,
      onscroll: () => this.draw(), onmousemove: (event) => this.moved(event),
      onmouseleave: () => tip?.hide(), onclick: (event) => this.clicked(event),
      onkeydown: (event) => this.keyed(event), onblur: () => this.unfocused(),
      onmousedown: (event) => this.pressed(event), onmouseup: (event) => this.released(event),
    }, this.room);
    this.el = h("div", { class: "nnl-heatmap" }, this.scroller, this.live);
    new ResizeObserver(() => this.resized()).observe(this.scroller);
  }

  show(spec) {
    this.spec = spec;
    this.layout();
    this.draw();
  }

  resized() {
    if (this.spec && this.el.clientWidth !== this.laidOut) this.layout();
    this.draw();
  }

  mark(row, column) {
    this.marked = row === null ? null : { row, column };
    this.draw();
  }

  layout() {
    const { rows, columns } = this.spec;
    const pen = this.canvas.getContext("2d");
    pen.font = this.font();
    const widest = (labels, most) =>
      Math.min(most, labels.reduce((most, label) => Math.max(most, pen.measureText(short(label, 18)).width), 0));
    this.left = Math.ceil(widest(rows, 130)) + 14;
    this.laidOut = this.el.clientWidth;
    const space = Math.max((this.laidOut || 800) - this.left - 18, 200);
    const [least, most] = this.spec.widths || [15, 84];
    this.wide = Math.min(Math.max(Math.floor(space / columns.length), least), most);
    this.high = this.spec.height || Math.min(Math.max(Math.floor(320 / rows.length), 15), 24);
    const label = widest(columns, 110);
    this.upright = label > this.wide - 6;
    this.below = this.upright ? Math.ceil(label) + 12 : 20;
    this.room.style.width = `${this.left + this.wide * columns.length + 2}px`;
    this.room.style.height = `${this.high * rows.length + this.below}px`;
    this.scroller.style.maxHeight = `${TALLEST}px`;
  }

  font() {
    const family = getComputedStyle(this.el).getPropertyValue("--jp-code-font-family") || "monospace";
    return FONT.replace(/var\(.*\)$/, family.trim() || "monospace");
  }

  // Rows are counted from the bottom where they are layers.
  row(line) {
    return this.spec.rowsUp ? this.spec.rows.length - 1 - line : line;
  }

  draw() {
    if (!this.spec || !this.scroller.clientWidth) return;
    const { scroller, canvas, left, wide, high } = this;
    const width = scroller.clientWidth;
    const height = Math.min(scroller.clientHeight, this.room.offsetHeight);
    const dense = window.devicePixelRatio || 1;
    canvas.width = width * dense;
    canvas.height = height * dense;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(dense, dense);
    pen.font = this.font();
    this.paint(pen, width, height, scroller.scrollLeft, scroller.scrollTop);
  }

  paint(pen, width, height, x0, y0) {
    const { spec, left, wide, high, below } = this;
    const colours = ramps(this.el);
    const bottom = height - below;
    const first = Math.max(0, Math.floor(x0 / wide));
    const last = Math.min(spec.columns.length, Math.ceil((x0 + width - left) / wide));
    const top = Math.max(0, Math.floor(y0 / high));
    const end = Math.min(spec.rows.length, Math.ceil((y0 + bottom) / high));
    pen.textBaseline = "middle";
    pen.save();
    pen.beginPath();
    pen.rect(left, 0, width - left, bottom);
    pen.clip();
    pen.textAlign = "center";
    for (let line = top; line < end; line++) {
      for (let column = first; column < last; column++) {
        this.cell(pen, colours, this.row(line), column, left + column * wide - x0, line * high - y0);
      }
    }
    this.outline(pen, colours, x0, y0);
    pen.restore();
    this.labels(pen, colours, { bottom, first, last, top, end, x0, y0, width });
  }

  cell(pen, colours, row, column, x, y) {
    const { spec, wide, high } = this;
    const value = spec.value(row, column);
    const gap = wide > 6 && high > 6 ? 1 : 0;
    if (!Number.isFinite(value)) {
      pen.fillStyle = colours.line;
      pen.globalAlpha = 0.35;
      pen.fillRect(x, y, wide - gap, high - gap);
      pen.globalAlpha = 1;
      return;
    }
    const ramp = spec.diverging ? colours.diverging : colours.sequential;
    const { fill, ink } = ramp((value - spec.low) / (spec.high - spec.low || 1));
    const dimmed = spec.shade?.(row, column);
    pen.globalAlpha = dimmed ? DIMMED : 1;
    pen.fillStyle = fill;
    pen.fillRect(x, y, wide - gap, high - gap);
    pen.globalAlpha = 1;
    const text = wide > 30 && high > 11 ? spec.text?.(row, column) : "";
    if (text) {
      pen.fillStyle = dimmed ? colours.ink : ink; // the colour is dimmed; the text is still to be read
      pen.fillText(short(text, Math.floor((wide - 4) / 6.7)), x + wide / 2, y + high / 2);
    }
  }

  outline(pen, colours, x0, y0) {
    for (const [place, colour] of [[this.marked, colours.mark], [this.at, colours.ink]]) {
      if (!place) continue;
      const x = this.left + place.column * this.wide - x0;
      const y = this.row(place.row) * this.high - y0;
      pen.strokeStyle = colour;
      pen.lineWidth = 2;
      pen.strokeRect(x + 1, y + 1, this.wide - 3, this.high - 3);
    }
  }

  labels(pen, colours, { bottom, first, last, top, end, x0, y0, width }) {
    const { spec, left, wide, high } = this;
    pen.clearRect(0, 0, left, bottom + this.below);
    pen.clearRect(0, bottom, width, this.below);
    pen.fillStyle = colours.faint;
    pen.textAlign = "right";
    const apart = Math.ceil(13 / high);
    for (let line = top; line < end; line++) {
      if (line % apart) continue;
      const y = line * high - y0 + high / 2;
      if (y < bottom && y > 0) pen.fillText(short(spec.rows[this.row(line)], 18), left - 6, Math.max(y, 6));
    }
    const step = Math.ceil((this.upright ? 13 : wide) / wide);
    pen.save();
    pen.beginPath();
    pen.rect(left, bottom, width - left, this.below);
    pen.clip();
    for (let column = first; column < last; column++) {
      if (column % step) continue;
      pen.save();
      pen.translate(left + column * wide - x0 + wide / 2, bottom + (this.upright ? 5 : 11));
      if (this.upright) pen.rotate(-Math.PI / 2);
      pen.textAlign = this.upright ? "right" : "center";
      pen.fillText(short(spec.columns[column], 18), 0, 0);
      pen.restore();
    }
    pen.restore();
  }

  // Pointer and keys

  cellAt(event) {
    if (!this.spec) return null;
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left;
    const y = event.clientY - box.top;
    if (x < this.left || y < 0 || y > box.height - this.below) return null;
    const column = Math.floor((x - this.left + this.scroller.scrollLeft) / this.wide);
    const line = Math.floor((y + this.scroller.scrollTop) / this.high);
    if (column >= this.spec.columns.length || line >= this.spec.rows.length) return null;
    return { row: this.row(line), column };
  }

  moved(event) {
    const place = this.cellAt(event);
    if (!place) return this.on.tip?.hide();
    const content = this.on.hover(place.row, place.column);
    if (content?.length) this.on.tip?.show(event.clientX, event.clientY, ...content);
    return undefined;
  }

  pressed(event) {
    this.from = this.cellAt(event);
  }

  released(event) {
    const to = this.cellAt(event);
    const { from } = this;
    this.from = null;
    if (from && to && (from.row !== to.row || from.column !== to.column)) {
      this.dragged = true;
      this.on.drag?.(from, to);
    }
  }

  clicked(event) {
    if (this.dragged) {
      this.dragged = false;
      return;
    }
    const place = this.cellAt(event);
    if (!place) return;
    this.at = null;
    this.on.pick(place.row, place.column);
  }

  keyed(event) {
    if (!this.spec) return;
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const move = moves[event.key];
    if (event.key === "Enter" && this.at) this.on.pick(this.at.row, this.at.column);
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    const { rows, columns, rowsUp, describe } = this.spec;
    const from = this.at || this.marked || { row: rowsUp ? rows.length : -1, column: 0 };
    const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
    const row = within(from.row + (rowsUp ? -move[0] : move[0]), rows.length);
    const column = within(from.column + move[1], columns.length);
    this.at = { row, column };
    this.live.textContent = describe ? describe(row, column) : `${rows[row]}, ${columns[column]}`;
    this.reveal(row, column);
    const content = this.on.hover(row, column);
    const box = this.canvas.getBoundingClientRect();
    const x = box.left + this.left + (column + 1) * this.wide - this.scroller.scrollLeft;
    const y = box.top + this.row(row) * this.high - this.scroller.scrollTop;
    if (content?.length) this.on.tip?.show(x, y, ...content);
  }

  reveal(row, column) {
    const { scroller, left, wide, high, below } = this;
    const x = column * wide;
    const y = this.row(row) * high;
    const space = scroller.clientWidth - left - wide;
    if (x < scroller.scrollLeft) scroller.scrollLeft = x;
    if (x > scroller.scrollLeft + space) scroller.scrollLeft = x - space;
    const tall = scroller.clientHeight - below - high;
    if (y < scroller.scrollTop) scroller.scrollTop = y;
    if (y > scroller.scrollTop + tall) scroller.scrollTop = y - tall;
    this.draw();
  }

  unfocused() {
    this.at = null;
    this.live.textContent = "";
    this.on.tip?.hide();
    this.draw();
  }

  // The whole map as a picture of its own, as far as a canvas can be large.
  picture() {
    const whole = h("canvas");
    const width = Math.min(this.room.offsetWidth, 8000);
    const height = this.spec.rows.length * this.high + this.below;
    whole.width = width * 2;
    whole.height = height * 2;
    const pen = whole.getContext("2d");
    pen.scale(2, 2);
    pen.font = this.font();
    this.paint(pen, width, height, 0, 0);
    pen.globalCompositeOperation = "destination-over";
    pen.fillStyle = ramps(this.el).paper;
    pen.fillRect(0, 0, width, height);
    return whole;
  }
}
