"""What a reader sees of an element, and what one without a mouse or without eyes can reach of it.

Contrast is that of WCAG 2.2: the colour of every visible text, and of what a chart is drawn with,
against what is really behind it, half-transparent layers and all.
"""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, Page

__all__ = ["faint_texts", "reachable", "unnamed", "unreachable"]

_COLOURS = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const parsed = (text) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = "#0000";
  canvas.fillStyle = text;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = ([r, g, b, a], below) => [r, g, b].map((c, i) => c * a + below[i] * (1 - a));
const light = (rgb) => {
  const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (one, two) => {
  const [low, high] = [light(one), light(two)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const behind = (element) => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) {
    const colour = parsed(getComputedStyle(at).backgroundColor);
    if (colour[3] > 0) layers.push(colour);
    if (colour[3] === 1) break;
  }
  return layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255]);
};
const opacity = (element) => {
  let all = 1;
  for (let at = element; at; at = at.parentElement) all *= Number(getComputedStyle(at).opacity);
  return all;
};
const shown = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true })
  && element.getBoundingClientRect().width > 1;
"""

_FAINT = f"""root => {{
{_COLOURS}
const found = [];
const look = (element, colour, what, needed) => {{
  const below = behind(element);
  const [r, g, b, a] = parsed(colour);
  const ratio = contrast(over([r, g, b, a * opacity(element)], below), below);
  if (ratio < needed) found.push(`${{what}}: ${{ratio.toFixed(2)}} of ${{needed}}, ${{colour}} on ${{below.map(Math.round)}}`);
}};
let texts = 0;
for (const element of [root, ...root.querySelectorAll("*")]) {{
  if (!shown(element) || element.closest(":disabled, [aria-disabled=true], script, style, .nnl-unseen")) continue;
  const style = getComputedStyle(element);
  const name = `${{element.tagName.toLowerCase()}}.${{element.getAttribute("class") || ""}}`;
  const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join("").trim();
  const svg = element instanceof SVGElement;
  if (text || (element.value && element.matches("input:not([type=range]), select, textarea"))) {{
    texts++;
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    look(element, svg ? style.fill : style.color, `${{name}} "${{text.slice(0, 30)}}"`, large ? 3 : 4.5);
  }}
  if (element.placeholder && !element.value) {{
    look(element, getComputedStyle(element, "::placeholder").color, `${{name}} placeholder`, 4.5);
  }}
  if (svg && element.matches("polyline:not(.nnl-before), path[stroke], circle") && style.display !== "none") {{
    const colour = style.stroke !== "none" ? style.stroke : style.fill;
    if (colour !== "none") look(element, colour, name, 3);
  }}
}}
return {{ texts, found: [...new Set(found)] }};
}}"""


def faint_texts(root: Locator) -> list[str]:
    """Each visible text of an element (and each line of a chart) with too little contrast."""
    seen: dict[str, Any] = root.evaluate(_FAINT)
    assert seen["texts"] > 0, "nothing to read"
    faint: list[str] = seen["found"]
    return faint


_CONTROLS = """root => {
  const name = (it) => `${it.tagName.toLowerCase()}.${it.className} "${(it.getAttribute("aria-label") || it.textContent).trim().slice(0, 40)}"`;
  const shown = (it) => it.checkVisibility({ visibilityProperty: true });
  const all = [...root.querySelectorAll("button, input, select, textarea, summary, a[href], [tabindex]")]
    .filter((it) => shown(it) && !it.disabled);
  // In a list of tabs or of options one is in the order of Tab, and arrow keys go to the others.
  const group = (it) => it.closest("[role=tablist], [role=listbox], [role=grid], .nnl-heads");
  const lost = all.filter((it) => it.tabIndex < 0 && !group(it)?.querySelector("[tabindex='0']"));
  const mice = [...root.querySelectorAll("*")].filter((it) => shown(it)
    && ["pointer", "crosshair", "grab", "copy"].includes(getComputedStyle(it).cursor)
    && !it.closest("button, input, select, textarea, summary, a[href], [tabindex], label"));
  return { order: all.filter((it) => it.tabIndex >= 0).map(name), lost: lost.map(name), mice: mice.map(name) };
}"""

_FOCUSED = """root => {
  const it = document.activeElement;
  if (!root.contains(it)) return null;
  const style = getComputedStyle(it);
  const ring = (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1) || style.boxShadow !== "none";
  return { name: `${it.tagName.toLowerCase()}.${it.className} "${(it.getAttribute("aria-label") || it.textContent).trim().slice(0, 40)}"`, ring };
}"""


def unreachable(root: Locator) -> list[str]:
    """What can be clicked in an element and not be reached by a keyboard."""
    found = root.evaluate(_CONTROLS)
    missing: list[str] = [*found["lost"], *found["mice"]]
    return missing


def reachable(page: Page, root: Locator, first: Locator) -> tuple[list[str], list[str], list[str]]:
    """What Tab comes to from the first control on; what it should; what shows no focus."""
    expected: list[str] = root.evaluate(_CONTROLS)["order"]
    came: list[str] = []
    without: list[str] = []
    first.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    for _ in range(len(expected) + 1):
        at = root.evaluate(_FOCUSED)
        if at is None:
            break
        came.append(at["name"])
        if not at["ring"]:
            without.append(at["name"])
        page.keyboard.press("Tab")
    return came, expected, without


_NAMED = {
    "button", "checkbox", "combobox", "listbox", "link", "radio", "searchbox", "slider", "spinbutton",
    "tab", "tabpanel", "textbox", "application", "option", "img", "image", "progressbar", "log", "DisclosureTriangle",
}  # fmt: skip


def unnamed(page: Page, selector: str) -> list[str]:
    """Controls and pictures of the accessibility tree below an element that have no name."""
    wire = page.context.new_cdp_session(page)
    wire.send("DOM.enable")
    wire.send("Accessibility.enable")
    found = wire.send("Runtime.evaluate", {"expression": f"document.querySelector({selector!r})"})[
        "result"
    ]["objectId"]
    nodes = wire.send("Accessibility.queryAXTree", {"objectId": found})["nodes"]
    kept = [node for node in nodes if not node.get("ignored")]
    roles = {node["role"]["value"] for node in kept}
    assert roles & _NAMED, roles
    nameless = [
        node["role"]["value"]
        for node in kept
        if node["role"]["value"] in _NAMED and not node.get("name", {}).get("value", "").strip()
    ]
    wire.detach()
    return nameless
