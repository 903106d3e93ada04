"""Sliders in a graph: data with a name and limits, read back as they were, and moved as values."""

from __future__ import annotations

import pytest

from nnsight_lab.errors import BadSlider
from nnsight_lab.ir import Constant, Graph, Output, SliderRange
from nnsight_lab.ir.sliders import slider_data


def _graph(value: float = 2.5, low: float = 0, high: float = 8, step: float | None = None) -> Graph:
    limits = SliderRange("strength", low, high, step)
    node = Constant(id=0, value=slider_data(limits, value), slider=limits)
    return Graph((node,), (Output("x", 0),))


@pytest.mark.parametrize("value", [0.0, 0.1, 2.5, 7.999, 1 / 3])
def test_a_slider_is_read_back_as_it_was(value: float) -> None:
    graph = _graph(value)
    again = Graph.from_bytes(graph.to_bytes())
    assert again == graph
    assert again.sliders == graph.sliders
    assert graph.sliders["strength"].value == pytest.approx(value, rel=1e-6)


def test_moving_makes_another_graph_that_is_planned_alike() -> None:
    graph = _graph()
    moved = graph.at(strength=3)
    assert moved != graph
    assert moved.quick_key == graph.quick_key
    assert moved.quick_key == Graph.from_bytes(moved.to_bytes()).quick_key
    assert moved.at(strength=2.5) == graph
    assert _graph(high=9).quick_key != graph.quick_key
    assert _graph(2, step=1).quick_key != _graph(2).quick_key


def test_whole_numbers_stay_whole() -> None:
    graph = _graph(2, step=1)
    assert graph.sliders["strength"].value == 2
    assert type(graph.at(strength=5.0).sliders["strength"].value) is int


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'["strength",0,8,null]', b'["strength",0,2,null]'),  # outside its limits
        (b'["strength",0,8,null]', b'["strength",8,0,null]'),
        (b'["strength",0,8,null]', b'["stre gth",0,8,null]'),
        (b'["strength",0,8,null]', b'["strength",0,8,   1]'),  # whole, and the tensor is not
    ],
)
def test_a_slider_that_came_from_somebody_is_checked(old: bytes, new: bytes) -> None:
    data = _graph().to_bytes()
    assert old in data
    with pytest.raises(BadSlider):
        Graph.from_bytes(data.replace(old, new))


def test_two_of_one_name_stand_together() -> None:
    one, other = _graph(), _graph(high=9)
    with pytest.raises(BadSlider, match="two sliders"):
        _ = Graph((*one.nodes, *other.nodes)).sliders
