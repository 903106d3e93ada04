"""A graph, drawn: what flows where, and which line of the user's each node was written on.

Pointing at a box, or at a line below the drawing, marks what belongs together; a box also tells
its line by itself. The drawing is an image with its own colours, legible on light and dark; the
lines and the text form stand below it, for where images or handlers are left out. A graph of many
nodes is drawn one box a line, and one of very many lines is only listed.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from nnsight_lab.errors import SourceLine
from nnsight_lab.ir import Graph, Node
from nnsight_lab.ir.nodes import dependencies, has_value, nodes_within
from nnsight_lab.ir.text import node_to_text
from nnsight_lab.jupyter.axes import text_width
from nnsight_lab.jupyter.reprs.html import FAINT, MONO, Markup, code, folded, page, tag
from nnsight_lab.jupyter.reprs.layout import Box, Layout, laid_out
from nnsight_lab.jupyter.reprs.trees import in_words

__all__ = ["graph_html", "graph_svg"]

_NODES = 30
"""A graph of more nodes is drawn one box a line."""

_SIDE_BY_SIDE = 9
_LINES = 40
"""One of more lines is not drawn at all."""

_LISTED = 400
"""Lines of the text form that are kept; a saved notebook stays small."""

_COLOURS = {
    "read": ("#dbeafe", "#1d4ed8"),
    "write": ("#ffe4c7", "#c2570c"),
    "edit": ("#ffe4c7", "#c2570c"),
    "skip": ("#ffe4c7", "#c2570c"),
    "const": ("#eceff3", "#5b6472"),
    "weight": ("#d3f3ee", "#0f766e"),
    "gradient": ("#eee3ff", "#7c3aed"),
    "if": ("#fdf0b8", "#92700c"),
    "for": ("#fdf0b8", "#92700c"),
    "while": ("#fdf0b8", "#92700c"),
}
_OTHER = ("#f6f7f9", "#5b6472")

_MARK = (
    "var t=event.target.closest('[data-line]');"
    "this.querySelectorAll('[data-line]').forEach(function(e){"
    "e.style.outline=t&&t.dataset.line&&e.dataset.line===t.dataset.line?'2px solid #f59e0b':''})"
)
"""Marks the boxes and the row of the line under the mouse, or under the keyboard."""


@dataclass
class _Drawn:
    """A box to draw: its texts, its kind, its line, and what it depends on."""

    texts: list[str]
    kind: str
    where: SourceLine | None
    needs: list[int] = field(default_factory=list)
    told: str = ""


def _plain(text: str, most: int) -> str:
    """A text for one line of a box: only what can be seen, and not too long."""
    seen = "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
    return seen if len(seen) <= most else f"{seen[: most - 1]}…"


def _kind(node: Node) -> str:
    return node_to_text(node).split(maxsplit=1)[0]


def _saves(graph: Graph) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for output in graph.outputs:
        found.setdefault(output.node, []).append(output.name)
    return found


def _by_node(graph: Graph) -> list[_Drawn]:
    saves = _saves(graph)
    drawn = []
    for node in graph:
        name = f"%{node.id} = " if has_value(node) else ""
        texts = [_plain(name + node_to_text(node), 40)]
        inside = sum(1 for _ in nodes_within(node)) - 1
        if inside:
            texts.append(f"{in_words(inside, 'node')} inside")
        if node.id in saves:
            texts.append(_plain("save " + ", ".join(saves[node.id]), 40))
        told = name + node_to_text(node)
        drawn.append(_Drawn(texts, _kind(node), node.where, [*dependencies(node)], told))
    return drawn


def _by_line(graph: Graph) -> list[_Drawn]:
    """One box for each line of the user's, in the order in which they were first come by."""
    places: dict[SourceLine | None, int] = {}
    members: list[list[Node]] = []
    of_node: list[int] = []
    for node in graph:
        place = places.setdefault(node.where, len(places))
        if place == len(members):
            members.append([])
        members[place].append(node)
        of_node.append(place)
    saves = _saves(graph)
    drawn = []
    for where, place in places.items():
        nodes = members[place]
        needs = {of_node[need] for node in nodes for need in dependencies(node)} - {place}
        names = [name for node in nodes for name in saves.get(node.id, ())]
        counted = Counter(map(_what, nodes)).most_common(3)
        told = ", ".join(f"{count} {what}" for what, count in counted)
        texts = [
            _plain(_line_text(where), 52),
            _plain(f"{in_words(len(nodes), 'node')}: {told}", 52),
        ]
        if names:
            texts.append(_plain(f"save {', '.join(names)}", 52))
        kind = "write" if any(_kind(node) == "write" for node in nodes) else _kind(nodes[0])
        drawn.append(_Drawn(texts, kind, where, sorted(needs), texts[1]))
    return drawn


def _what(node: Node) -> str:
    return str(getattr(node, "op", "")) or _kind(node)


def _line_text(where: SourceLine | None) -> str:
    return "no line" if where is None else f"{where.line}: {where.text}"


def _drawn(graph: Graph) -> tuple[list[_Drawn], Layout | None]:
    """The boxes, and where they stand; no places where there would be too many."""
    if len(graph) <= _NODES:
        boxes = _by_node(graph)
        found = _placed(boxes)
        if found.widest <= _SIDE_BY_SIDE:
            return boxes, found
    boxes = _by_line(graph)
    return boxes, _placed(boxes) if len(boxes) <= _LINES else None


def _placed(drawn: Sequence[_Drawn]) -> Layout:
    sizes = [
        Box(max(map(text_width, box.texts)) + 20, 15 * len(box.texts) + 9, tuple(box.needs))
        for box in drawn
    ]
    return laid_out(sizes)


def graph_svg(graph: Graph) -> str:
    """The drawing by itself; empty for a graph that is only listed."""
    drawn, layout = _drawn(graph)
    return "" if layout is None else _svg(drawn, layout)


def _svg(drawn: Sequence[_Drawn], layout: Layout) -> str:
    size = f'width="{layout.width:.0f}" height="{layout.height:.0f}"'
    look = 'font-family="ui-monospace, \'DejaVu Sans Mono\', monospace" font-size="11"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {look}>']
    parts += [_arrow(points) for points in layout.arrows]
    for box, place in zip(drawn, layout.boxes, strict=True):
        parts += _box(box, place)
    return "".join([*parts, "</svg>"])


def _arrow(points: Sequence[tuple[float, float]]) -> str:
    (x, y), *rest = points
    way = f"M{x:.0f} {y:.0f}"
    for to_x, to_y in rest:
        half = (y + to_y) / 2
        way += f"C{x:.0f} {half:.0f} {to_x:.0f} {half:.0f} {to_x:.0f} {to_y:.0f}"
        x, y = to_x, to_y
    head = f"M{x - 4:.0f} {y - 7:.0f}L{x:.0f} {y:.0f}L{x + 4:.0f} {y - 7:.0f}"
    return f'<path d="{way}{head}" fill="none" stroke="#8a8f98" stroke-width="1.4"/>'


def _box(box: _Drawn, place: Box) -> Iterator[str]:
    fill, ink = _COLOURS.get(box.kind, _OTHER)
    yield (
        f'<rect x="{place.x:.0f}" y="{place.y:.0f}" width="{place.width:.0f}" '
        f'height="{place.height:.0f}" rx="5" fill="{fill}" stroke="{ink}"/>'
    )
    for row, text in enumerate(box.texts):
        bold = ' font-weight="700"' if text.startswith("save ") else ""
        yield (
            f'<text x="{place.middle:.0f}" y="{place.y + 16 + 15 * row:.0f}" fill="#16191f" '
            f'text-anchor="middle"{bold}>{escape(text)}</text>'
        )


def _numbered(graph: Graph) -> dict[SourceLine | None, str]:
    """A number for each line, which its boxes and its row have in common."""
    lines = dict.fromkeys(node.where for node in graph)
    return {where: str(place) for place, where in enumerate(lines)}


def _picture(graph: Graph, numbers: dict[SourceLine | None, str]) -> Markup:
    drawn, layout = _drawn(graph)
    if layout is None:
        return tag("div", f"{len(graph):,} nodes: too many to draw.", style=FAINT)
    svg = _svg(drawn, layout)
    uri = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    size = {"width": f"{layout.width:.0f}", "height": f"{layout.height:.0f}"}
    image = tag("img", src=uri, alt=f"{graph!r}", style="max-width: none; display: block", **size)
    spots = []
    for box, place in zip(drawn, layout.boxes, strict=True):
        where = (
            f"position: absolute; left: {place.x:.0f}px; top: {place.y:.0f}px; border-radius: 5px; "
            f"width: {place.width:.0f}px; height: {place.height:.0f}px"
        )
        told = f"{box.told}\n{box.where}: {box.where.text}" if box.where else box.told
        spots.append(tag("span", title=told, style=where, tabindex="0", role="img",
                         aria_label=told, data_line=numbers[box.where]))  # fmt: skip
    sheet = f"position: relative; width: {layout.width:.0f}px; height: {layout.height:.0f}px"
    return tag("div", tag("div", image, *spots, style=sheet), style="overflow-x: auto")


def _lines(graph: Graph, numbers: dict[SourceLine | None, str]) -> Markup:
    """The user's lines, each with the nodes it made."""
    made: dict[SourceLine | None, list[str]] = {}
    for node in graph:
        made.setdefault(node.where, []).append(f"%{node.id}" if has_value(node) else _kind(node))
    cell = f"text-align: left; padding: 1px 12px 1px 0; {MONO}"
    rows = []
    ordered = sorted(made, key=lambda where: (where.file, where.line) if where else ("", 0))
    for where in ordered[:_LISTED]:
        nodes = made[where]
        few = ", ".join(nodes[:8]) + (f", … {len(nodes)} in all" if len(nodes) > 8 else "")
        told = ("", "made without a line") if where is None else (str(where.line), where.text)
        cells = (tag("td", told[0], style=f"{cell}; {FAINT}"), tag("td", code(told[1]), style=cell),
                 tag("td", few, style=f"{cell}; {FAINT}"))  # fmt: skip
        rows.append(tag("tr", *cells, data_line=numbers[where]))
    names = [tag("th", name, style=f"{cell}; {FAINT}") for name in ("line", "source", "nodes")]
    look = "border-collapse: collapse; border: none; margin: 6px 0"
    return tag("table", tag("thead", tag("tr", *names)), tag("tbody", *rows), style=look)


def graph_html(graph: Graph) -> Markup:
    """A graph, drawn or summarised, with its lines and its text form."""
    numbers = _numbered(graph)
    names = [output.name for output in graph.outputs]
    saved = ", ".join(names[:6]) + (f", … {len(names)} in all" if len(names) > 6 else "")
    counts = ((len(graph), "node"), (len(graph.reads()), "read"), (len(graph.writes()), "write"))
    told = ", ".join(in_words(count, what) for count, what in counts)
    head = tag("div", tag("b", "Graph"), " ", tag("span", told, style=FAINT), " ",
               tag("span", f"saves {saved or 'nothing'}"))  # fmt: skip
    lines = str(graph).splitlines()
    rest = [f"… {len(lines) - _LISTED:,} lines more: print(graph)"] * (len(lines) > _LISTED)
    text = tag("pre", "\n".join([*lines[:_LISTED], *rest]), style=f"{MONO}; overflow-x: auto")
    return page(
        "graph", head, _picture(graph, numbers), _lines(graph, numbers),
        folded(tag("span", "text form", style=FAINT), text),
        onmouseover=_MARK, onclick=_MARK, onkeyup=_MARK,
    )  # fmt: skip
