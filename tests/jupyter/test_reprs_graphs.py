"""A graph in a notebook: every node in the drawing, at its line, and no box on another."""

from __future__ import annotations

import base64
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from nnsight_lab.ir import Graph
from nnsight_lab.ir.nodes import dependencies
from nnsight_lab.jupyter.reprs import html_of
from nnsight_lab.jupyter.reprs.layout import Box, laid_out
from tests.support.html_tree import Element, parsed

SVG = "{http://www.w3.org/2000/svg}"


def graph_of(notebook: Any, *lines: str) -> Graph:
    """What a cell with this block records."""
    body = "\n".join(f"    {line}" for line in lines)
    notebook.ran(f'with lm.trace("a b c", execute=False) as tracer:\n{body}')
    found: Graph = notebook.names["tracer"].graph
    return found


def drawing(page: Element) -> ET.Element:
    (image,) = page.every("img")
    head = "data:image/svg+xml;base64,"
    data = base64.b64decode(image.attributes["src"].removeprefix(head))
    return ET.fromstring(data)  # noqa: S314 - our own drawing


def shown(graph: Graph, notebook: Any) -> Element:
    html = html_of(graph, notebook.shell)
    assert html is not None
    return parsed(html)


STEERED = (
    "h = lm.layers[2].output",
    "h[:, -1] += 4",
    "probs = lm.logits[:, -1].softmax(-1).save()",
)


def test_every_node_is_a_box_that_tells_its_own_line(notebook: Any) -> None:
    graph = graph_of(notebook, *STEERED)
    page = shown(graph, notebook)
    boxes = page.every("span", role="img")

    assert len(boxes) == len(graph) > 5
    for node, box in zip(graph, boxes, strict=True):
        assert node.where is not None
        assert (
            box.attributes["title"]
            .splitlines()[-1]
            .endswith(f"line {node.where.line}: {node.where.text}")
        )
    assert len(drawing(page).findall(f"{SVG}rect")) == len(graph)
    arrows = sum(len(set(dependencies(node))) for node in graph)
    assert len(drawing(page).findall(f"{SVG}path")) == arrows


def test_a_box_and_its_line_share_a_number(notebook: Any) -> None:
    page = shown(graph_of(notebook, *STEERED), notebook)
    for row in page.every("table")[0].every("tr")[1:]:
        line, source, nodes = (cell.text for cell in row.every("td"))
        assert source == STEERED[int(line) - 2]
        boxes = page.every("span", role="img", data_line=row.attributes["data-line"])
        assert len(boxes) == len(nodes.split(", "))
        assert all(source in box.attributes["title"] for box in boxes)


def test_a_saved_value_says_its_name_in_its_box(notebook: Any) -> None:
    page = shown(graph_of(notebook, *STEERED), notebook)

    assert "save probs" in [text.text for text in drawing(page).iter(f"{SVG}text")]


def test_a_graph_of_many_nodes_is_drawn_by_line(notebook: Any) -> None:
    graph = graph_of(
        notebook, "total = 0", "for layer in lm.layers:", "    for each in range(20):",
        "        total = total + layer.output.norm() * each", "total.save()",
    )  # fmt: skip
    page = shown(graph, notebook)

    assert len(graph) > 200
    assert len(drawing(page).findall(f"{SVG}rect")) == len({node.where for node in graph})
    assert f"{len(graph):,} nodes" in page.text


def test_a_graph_of_very_many_lines_is_listed_and_stays_small(notebook: Any) -> None:
    lines = (f"h{place} = lm.layers[1].output.norm().save()" for place in range(600))
    graph = graph_of(notebook, *lines)
    html = html_of(graph, notebook.shell)
    assert html is not None

    assert "too many to draw" in parsed(html).text
    assert len(html) < 300_000


def test_a_graph_with_branches_and_loops_is_drawn(notebook: Any) -> None:
    graph = graph_of(
        notebook, "import nnsight_lab as nl", "h = lm.layers[1].output",
        "x = nl.cond(h.mean() > 0, lambda: h * 2, lambda: h - 1)", "x.save()",
    )  # fmt: skip

    assert "nodes inside" in " ".join(t.text or "" for t in drawing(shown(graph, notebook)).iter())


def test_text_of_the_users_is_text_in_the_drawing(notebook: Any) -> None:
    graph = graph_of(notebook, "x = lm.logits.norm().save()  # </title><script>alert(1)</script>")
    page = shown(graph, notebook)

    assert "<script>alert(1)</script>" in page.text
    assert not page.every("script")


def test_a_graph_without_nodes_is_shown(notebook: Any) -> None:
    assert "0 nodes" in shown(Graph(()), notebook).text


def test_a_graph_that_is_displayed_is_its_text_form_where_there_is_no_html(notebook: Any) -> None:
    graph = graph_of(notebook, *STEERED)
    bundle, _ = notebook.shell.display_formatter.format(graph)

    assert bundle["text/plain"] == str(graph)


@pytest.mark.parametrize(
    "needs",
    [
        [(), (0,), (0,), (1, 2), (0,)],
        [(), (), (), (0, 1, 2), (3,), (0, 4)],
        [(2,), (0,), (1,)],  # a circle, as lines of a loop make it
        [()] * 12,
        [(), *((place,) for place in range(30))],
    ],
)
def test_no_box_stands_on_another_and_each_below_what_it_needs(
    needs: list[tuple[int, ...]],
) -> None:
    boxes = [Box(60 + 7 * (place % 5), 24, need) for place, need in enumerate(needs)]
    found = laid_out(boxes)

    for place, box in enumerate(boxes):
        assert 0 <= box.x <= box.x + box.width <= found.width
        assert 0 <= box.y <= box.y + box.height <= found.height
        for other in boxes[:place]:
            apart = box.x + box.width <= other.x or other.x + other.width <= box.x
            assert apart or box.y + box.height <= other.y or other.y + other.height <= box.y
    for place, need in enumerate(needs):
        for below in need:
            if below < place:
                assert boxes[below].y + boxes[below].height <= boxes[place].y
