// What is taken away from the page: text to the clipboard, pictures as files.

import { h } from "./dom.js";

const TWICE = 2;
const WIDEST = 16000; // pixels: no browser draws a much larger canvas

// Show code in a box, and copy it; whether it is in the clipboard now. A page over plain http may not
// write there: then the old way is tried, and where that fails, too, the code stays selected.
export async function copied(code, box) {
  box.replaceChildren(h("pre", {}, code));
  try {
    await navigator.clipboard.writeText(code);
    return true;
  } catch {
    return copiedTheOldWay(code, box);
  }
}

function copiedTheOldWay(code, box) {
  const before = document.activeElement;
  const area = h("textarea", {
    readonly: true, rows: Math.min(code.split("\n").length + 1, 24), "aria-label": "Code to copy", value: code,
  });
  box.replaceChildren(area);
  area.focus();
  area.select();
  if (!document.execCommand?.("copy")) return false;
  box.replaceChildren(h("pre", {}, code));
  before?.focus();
  return true;
}

export function saveAs(name, blob) {
  const href = URL.createObjectURL(blob);
  h("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10000);
}

export const vector = (svg) => new Blob([svg], { type: "image/svg+xml" });

export async function raster(canvas) {
  const blob = await new Promise((done) => { canvas.toBlob(done, "image/png"); });
  if (!blob) throw new Error("The picture is too large for a PNG.");
  return blob;
}

// An SVG on a canvas, at twice its size.
export async function drawn(svg) {
  const image = new Image();
  const href = URL.createObjectURL(vector(svg));
  try {
    image.src = href;
    await image.decode();
    const { naturalWidth: width, naturalHeight: height } = image;
    const scale = Math.min(TWICE, WIDEST / Math.max(width, height));
    const canvas = h("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return canvas;
  } finally {
    URL.revokeObjectURL(href);
  }
}
