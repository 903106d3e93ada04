// Colour scales: told apart without colour vision, and dark where the page is dark.

const LIGHT = [[247, 251, 255], [158, 202, 225], [33, 113, 181], [8, 48, 107]];
const DARK = [[22, 27, 34], [24, 62, 105], [56, 132, 199], [205, 231, 255]];
const LIGHT_DIVERGING = [[178, 24, 43], [244, 165, 130], [247, 247, 247], [146, 197, 222], [33, 102, 172]];
const DARK_DIVERGING = [[255, 138, 128], [160, 58, 52], [30, 33, 38], [43, 104, 158], [130, 196, 255]];

// Whether the page behind an element is dark.
export function isDark(el) {
  const colour = getComputedStyle(el).getPropertyValue("--jp-layout-color1").trim();
  const probe = document.createElement("canvas").getContext("2d");
  probe.fillStyle = colour || "#ffffff";
  const [red, green, blue] = probe.fillStyle.match(/\w\w/g).map((part) => parseInt(part, 16));
  return luminance(red, green, blue) < 128;
}

function luminance(red, green, blue) {
  return 0.299 * red + 0.587 * green + 0.114 * blue;
}

// Black or white, whichever has more contrast (at least 4.58 on any colour, as WCAG counts it).
export function inkOn(rgb) {
  const [red, green, blue] = rgb.map((part) => (part <= 10 ? part / 3294.6 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179 ? "#ffffff" : "#000000";
}

function scale(stops) {
  return (fraction) => {
    const at = Math.min(Math.max(fraction, 0), 1) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    const part = at - low;
    const [red, green, blue] = stops[low].map((value, index) =>
      Math.round(value + (stops[low + 1][index] - value) * part),
    );
    const ink = inkOn([red, green, blue]);
    return { fill: `rgb(${red},${green},${blue})`, ink, rgb: [red, green, blue] };
  };
}

// From nothing to much; from one side of zero to the other (0.5 is zero).
export function ramps(el) {
  const dark = isDark(el);
  return {
    dark,
    sequential: scale(dark ? DARK : LIGHT),
    diverging: scale(dark ? DARK_DIVERGING : LIGHT_DIVERGING),
    ink: dark ? "#e6e6e6" : "#1f1f1f",
    faint: dark ? "#9aa4b0" : "#5f6b78",
    line: dark ? "#3a4049" : "#d5dae0",
    paper: getComputedStyle(el).getPropertyValue("--jp-layout-color1").trim() || "#ffffff",
    mark: dark ? "#ffb454" : "#d9480f",
  };
}

// Lines that can be told apart, on either page.
export const LINES = ["#3b82c4", "#d9730d", "#2a9d6f", "#b5489b", "#8a7300", "#7a5cc9"];
