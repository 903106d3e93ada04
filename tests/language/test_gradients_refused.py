"""Edits of gradients that cannot be, each refused at its line.

The page: `docs/reference/gradients.md`.
"""

from __future__ import annotations

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import (
    GraphError,
    NotSupported,
    OpFailed,
    OpNotAllowed,
    ShapeMismatch,
    WriteTooEarly,
)
from nnsight_lab.ir import Gradient, GradientWrite, Graph, Output
from nnsight_lab.passes import drop_dead_nodes
from tests.support.fixtures import IDS
from tests.support.lines import assert_at, frames_of_ours

PROMPT = "The capital of France is"
TOKEN = 7


def test_a_gradient_that_arrives_later_cannot_replace_this_one(lm: nl.LanguageModel) -> None:
    with pytest.raises(WriteTooEarly) as caught, lm.trace(IDS):
        first, second = lm.layers[0].output, lm.layers[1].output
        with lm.logits[0, -1, TOKEN].backward():
            early = first.grad  # it arrives last
            second.grad[:] = early  # it has gone on by then

    assert_at(caught.value, "it has gone on by then")
    assert "arrives last" in _line_of(caught.value)
    assert frames_of_ours(caught.value) <= 1


def _line_of(error: WriteTooEarly) -> str:
    """The text of the other line that a message names."""
    import linecache
    import re

    found = re.search(r"taken at (.*), line (\d+)\)", error.message)
    assert found is not None
    return linecache.getline(found[1], int(found[2]))


def test_a_circle_through_two_passes_is_found(lm: nl.LanguageModel) -> None:
    with pytest.raises(WriteTooEarly) as caught, lm.trace(IDS):
        first, second = lm.layers[0].output, lm.layers[1].output
        with lm.logits[0, -1, TOKEN].backward():
            early, late = first.grad, second.grad
        with lm.logits[0, -1, TOKEN].backward():
            late[:] = first.grad  # of the second pass, which knows nothing of the first yet
            second.grad = early  # round in a circle

    assert_at(caught.value, "round in a circle")


def test_a_graph_that_says_so_is_refused_before_it_runs(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT, execute=False) as tracer:
        first, second = tiny.layers[0].output, tiny.layers[1].output
        with tiny.logits[0, -1, TOKEN].backward():
            gradient = first.grad.save()
            second.grad *= 2.0
    del gradient
    graph = tracer.graph
    (taken,) = (n for n in graph if isinstance(n, Gradient) and n.at == 0)
    nodes = [
        GradientWrite(id=n.id, of=n.of, at=n.at, value=taken.id)
        if isinstance(n, GradientWrite)
        else n
        for n in graph
    ]
    bad = Graph(tuple(nodes), graph.outputs)
    with pytest.raises(WriteTooEarly):
        tiny.run(bad, PROMPT)


def test_an_edit_that_nothing_reads_falls_away(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT, execute=False) as tracer:
        with tiny.logits[0, -1, TOKEN].backward():
            tiny.layers[1].output.grad *= 2.0
        h = tiny.layers[0].output.save()
    del h
    assert not any(isinstance(node, Gradient | GradientWrite) for node in tracer.graph)
    kept = Graph(tracer.graph.nodes, (Output("h", 0),))
    assert drop_dead_nodes(kept) == kept


def test_a_gradient_of_another_shape_is_refused(lm: nl.LanguageModel) -> None:
    with pytest.raises(ShapeMismatch) as caught, lm.trace(IDS):
        h = lm.layers[1].output
        with lm.logits[0, -1, TOKEN].backward():
            h.grad = torch.zeros(3)  # too small
    assert_at(caught.value, "too small")
    with pytest.raises(OpNotAllowed), lm.trace(IDS):
        h = lm.layers[1].output
        with lm.logits[0, -1, TOKEN].backward():
            h.grad = None


def test_an_edit_before_a_backward_pass_is_refused(lm: nl.LanguageModel) -> None:
    with pytest.raises(GraphError) as caught, lm.trace(IDS):
        lm.layers[1].output.grad = 0.0  # nothing to edit
    assert_at(caught.value, "nothing to edit")


def test_an_edit_off_the_way_back_is_said(lm: nl.LanguageModel) -> None:
    with pytest.raises(OpFailed) as caught, lm.trace(IDS):
        beside = lm.layers[0].output * 2
        with lm.logits[0, -1, TOKEN].backward():
            beside.grad *= 2.0
            beside.grad.save()  # the loss came from elsewhere
    assert "does not depend" in caught.value.message

    with pytest.raises(GraphError, match="before this value") as early, lm.trace(IDS):
        later = lm.layers[1].output
        with lm.layers[0].output.sum().backward():
            later.grad *= 2.0  # the loss came before
    assert_at(early.value, "the loss came before")


def test_options_that_a_graph_cannot_keep_are_refused(lm: nl.LanguageModel) -> None:
    with pytest.raises(NotSupported) as caught, lm.trace(IDS):
        lm.logits[0, -1, TOKEN].backward(create_graph=True)  # twice
    assert_at(caught.value, "twice")
