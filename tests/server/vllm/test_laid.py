"""Graphs that runs bring again are found again, with the lines and the schedules that are theirs."""

from __future__ import annotations

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.contract import Generation, TokenRows
from nnsight_lab.errors import BadInput
from nnsight_lab.ir import Graph
from nnsight_lab.passes import Part, Stages, schedule
from nnsight_lab_server.vllm.laid import Laid

TRACE = TokenRows(((1, 2, 3),))
LONGER = TokenRows(((4, 5, 6, 7, 8),))
TEXT = TokenRows(((1, 2, 3),), Generation(3, stop_ids=()))


@pytest.fixture(scope="module")
def lm() -> nl.LanguageModel:
    return nl.LanguageModel("tiny")


def reading(lm: nl.LanguageModel) -> Graph:
    with lm.trace([[1, 2, 3]]) as tracer:
        h = lm.layers[1].output
        h.save()
    return tracer.graph


def along(lm: nl.LanguageModel, inputs: TokenRows) -> Stages:
    return Stages((Part(inputs, lm.card.tree, lm.card.decode),))


def test_the_same_graph_is_laid_along_the_model_once(lm: nl.LanguageModel) -> None:
    laid, data = Laid({}), reading(lm).to_bytes()
    first, again = laid.graph(data), laid.graph(bytes(bytearray(data)))

    assert first is again
    assert laid.along(first, along(lm, TRACE))[0] is laid.along(again, along(lm, LONGER))[0]


def test_along_a_text_it_lies_as_it_does_without_us(lm: nl.LanguageModel) -> None:
    laid = Laid({})
    graph = laid.graph(reading(lm).to_bytes())
    trace, _ = laid.along(graph, along(lm, TRACE))
    text, own = laid.along(graph, along(lm, TEXT))

    assert text is own
    assert trace is not text
    assert text.moments == schedule(graph, along(lm, TEXT)).moments


def test_a_graph_of_another_line_keeps_its_line(lm: nl.LanguageModel) -> None:
    one, other = reading(lm), Graph.from_bytes(reading(lm).to_bytes(sources=False))
    laid = Laid({})
    found = [laid.graph(graph.to_bytes()) for graph in (one, other)]

    assert one == other
    assert [graph.nodes[0].where for graph in found] == [one.nodes[0].where, None]


def test_what_cannot_be_laid_is_refused_each_time(lm: nl.LanguageModel) -> None:
    with lm.generate([[1, 2, 3]], max_new_tokens=3) as tracer:
        for _ in tracer.iter[2]:
            lm.layers[1].output.save()
    laid = Laid({})
    graph = laid.graph(tracer.graph.to_bytes())
    for _ in range(2):
        with pytest.raises(BadInput, match="Step 2"):
            laid.along(graph, along(lm, TRACE))
    assert laid.along(graph, along(lm, TEXT))


def test_only_so_many_are_kept_and_none_that_is_large(lm: nl.LanguageModel) -> None:
    def adding(count: int) -> bytes:
        with lm.trace([[1, 2, 3]]) as tracer:
            (lm.layers[1].output + torch.full((count, 1, 128), float(count))).save()
        return tracer.graph.to_bytes()

    laid, small, large = Laid({}), reading(lm).to_bytes(), adding(300)
    first = laid.graph(small)
    assert laid.graph(large) is not laid.graph(large)
    assert laid.graph(small) is first
    for count in range(1, 65):
        laid.graph(adding(count))
    again = laid.graph(small)
    assert again is not first
    # Whoever still holds one that is not kept any more has it laid all the same.
    assert (
        laid.along(first, along(lm, TRACE))[0].moments
        == laid.along(again, along(lm, TRACE))[0].moments
    )
