// Points on two axes: hover, pick, and a lasso; arrow keys go from point to point, Space takes one.
//
//   const map = new Scatter("Plane", { tip, hover(index), pick(index), choose(indices) });
//   map.show({ points: [[x, y]], axes: [label, label], chosen: new Set(), current, name(index), describe(index) });

import { ramps } from "./colours.js";
import { decimal, h, short } from "./dom.js";

const [TALL, EDGE, NEAR, NAMED] = [360, 34, 14, 60];

export class Scatter {
  constructor(label, { tip, hover = () => [], pick = () => {}, choose = () => {} } = {}) {
    this.on = { tip, hover, pick, choose };
    this.at = null; // the point the keyboard is on
    this.line = []; // the lasso being drawn
    this.canvas = h("canvas", {
      "aria-hidden": "true", onmousedown: (event) => this.pressed(event), onmousemove: (event) => this.moved(event),
      onmouseup: (event) => this.released(event), onmouseleave: () => { this.line = []; tip?.hide(); this.draw(); },
    });
    this.live = h("span", { class: "nnl-unseen", "aria-live": "polite" });
    this.el = h("div", {
      class: "nnl-scatter", tabindex: "0", role: "application", "aria-roledescription": "scatter plot",
      "aria-label": `${label}: arrow keys move, Space chooses, Enter selects the token`,
      onkeydown: (event) => this.keyed(event), onblur: () => { this.at = null; this.live.textContent = ""; tip?.hide(); this.draw(); },
    }, this.canvas, this.live);
    new ResizeObserver(() => this.draw()).observe(this.el);
  }

  show(spec) {
    this.spec = spec;
    this.draw();
  }

  place(index) {
    const [x, y] = this.spec.points[index];
    const { low, span, width } = this;
    return [EDGE + ((x - low[0]) / span[0]) * (width - 2 * EDGE), TALL - EDGE - ((y - low[1]) / span[1]) * (TALL - 2 * EDGE)];
  }

  measure() {
    const { points } = this.spec;
    this.width = Math.min(this.el.clientWidth, 640);
    this.low = [0, 1].map((axis) => points.reduce((least, point) => Math.min(least, point[axis]), Infinity));
    this.span = [0, 1].map((axis) => points.reduce((most, point) => Math.max(most, point[axis]), -Infinity) - this.low[axis] || 1);
  }

  draw() {
    if (!this.spec || !this.el.clientWidth) return;
    this.measure();
    const { canvas, width, spec } = this;
    const dense = window.devicePixelRatio || 1;
    canvas.width = width * dense;
    canvas.height = TALL * dense;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${TALL}px`;
    const pen = canvas.getContext("2d");
    pen.scale(dense, dense);
    this.paint(pen);
  }

  paint(pen) {
    const { spec, width, low, span } = this;
    const colours = ramps(this.el);
    pen.font = "11px monospace";
    pen.strokeStyle = colours.line;
    pen.strokeRect(EDGE - 12, 8, width - 2 * EDGE + 24, TALL - EDGE - 4);
    pen.beginPath(); // the mean, where both axes are zero
    const [x0, y0] = [EDGE - (low[0] / span[0]) * (width - 2 * EDGE), TALL - EDGE + (low[1] / span[1]) * (TALL - 2 * EDGE)];
    pen.moveTo(EDGE - 12, y0);
    pen.lineTo(width - EDGE + 12, y0);
    pen.moveTo(x0, 8);
    pen.lineTo(x0, TALL - EDGE + 4);
    pen.stroke();
    pen.fillStyle = colours.faint;
    pen.fillText(`${spec.axes[0]} →`, EDGE - 12, TALL - 12);
    pen.textAlign = "right";
    pen.fillText(`${spec.axes[1]} ↑`, width - EDGE + 12, TALL - 12);
    const named = [];
    spec.points.forEach((_, index) => {
      const [x, y] = this.place(index);
      const taken = spec.chosen.has(index);
      pen.beginPath();
      pen.arc(x, y, taken ? 6 : 4.5, 0, 7);
      pen.globalAlpha = spec.chosen.size && !taken ? 0.45 : 1;
      pen.fillStyle = colours.sequential(0.15 + (0.85 * index) / Math.max(spec.points.length - 1, 1)).fill;
      pen.fill();
      pen.lineWidth = taken ? 2 : 1;
      pen.strokeStyle = taken ? colours.mark : colours.faint;
      pen.stroke();
      pen.fillStyle = colours.faint;
      if (spec.points.length <= NAMED) this.name(pen, index, x, y, named);
      pen.globalAlpha = 1;
    });
    for (const [index, colour] of [[spec.current, colours.mark], [this.at, colours.ink]]) {
      if (index === null || !spec.points[index]) continue;
      const [x, y] = this.place(index);
      pen.strokeStyle = colour;
      pen.lineWidth = 2;
      pen.strokeRect(x - 8, y - 8, 16, 16);
    }
    if (this.line.length > 1) {
      pen.beginPath();
      this.line.forEach(([x, y]) => pen.lineTo(x, y));
      pen.closePath();
      pen.strokeStyle = colours.mark;
      pen.stroke();
    }
  }

  // The token beside its point, unless another's is there already.
  name(pen, index, x, y, named) {
    if (named.some(([across, down]) => Math.abs(across - x) < 60 && Math.abs(down - y) < 12)) return;
    named.push([x, y]);
    pen.textAlign = x > this.width - 90 ? "right" : "left";
    pen.fillText(short(this.spec.name(index), 10), x + (pen.textAlign === "left" ? 8 : -8), y - 5);
  }

  // Pointer and keys

  spot(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  nearest([x, y]) {
    let [best, least] = [null, NEAR];
    this.spec?.points.forEach((_, index) => {
      const [px, py] = this.place(index);
      const far = Math.hypot(px - x, py - y);
      if (far < least) [best, least] = [index, far];
    });
    return best;
  }

  pressed(event) {
    this.line = [this.spot(event)];
  }

  moved(event) {
    if (event.buttons && this.line.length) {
      this.line.push(this.spot(event));
      this.on.tip?.hide();
      this.draw();
      return;
    }
    const index = this.nearest(this.spot(event));
    if (index === null) this.on.tip?.hide();
    else this.on.tip?.show(event.clientX, event.clientY, ...this.on.hover(index));
  }

  released(event) {
    const { line } = this;
    this.line = [];
    if (line.length > 4) {
      const chosen = this.spec.points.map((_, index) => index).filter((index) => inside(this.place(index), line));
      this.on.choose(chosen);
    } else {
      const index = this.nearest(this.spot(event));
      if (index !== null) this.on.pick(index);
    }
    this.draw();
  }

  keyed(event) {
    const { spec } = this;
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!spec || !(step || [" ", "Enter"].includes(event.key))) return;
    event.preventDefault();
    event.stopPropagation();
    const last = spec.points.length - 1;
    if (step) this.at = Math.min(Math.max((this.at ?? (spec.current ?? 0) - step) + step, 0), last);
    if (this.at === null) return;
    if (event.key === "Enter") this.on.pick(this.at);
    if (event.key === " " || (step && event.shiftKey)) {
      const chosen = new Set(spec.chosen);
      if (event.key === " " && chosen.has(this.at)) chosen.delete(this.at);
      else chosen.add(this.at);
      this.on.choose([...chosen]);
    }
    const [x, y] = this.place(this.at);
    const box = this.canvas.getBoundingClientRect();
    this.on.tip?.show(box.left + x, box.top + y, ...this.on.hover(this.at));
    const [across, up] = spec.points[this.at];
    this.live.textContent = `${spec.describe(this.at)}: ${decimal(across)}, ${decimal(up)}${spec.chosen.has(this.at) ? ", chosen" : ""}`;
    this.draw();
  }

  picture() {
    const whole = h("canvas", { width: this.width * 2, height: TALL * 2 });
    const pen = whole.getContext("2d");
    pen.scale(2, 2);
    pen.fillStyle = ramps(this.el).paper;
    pen.fillRect(0, 0, this.width, TALL);
    this.paint(pen);
    return whole;
  }
}

// Whether a point is inside of a closed line.
function inside([x, y], line) {
  return line.reduce((found, [x1, y1], index) => {
    const [x2, y2] = line[(index + 1) % line.length];
    const crosses = y1 > y !== y2 > y && x < x1 + ((y - y1) / (y2 - y1)) * (x2 - x1);
    return crosses ? !found : found;
  }, false);
}
