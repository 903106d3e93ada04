"""Edits that need of each row only that row: told apart from those that need more, and never wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.ir import Call, Constant, Graph, Read, Write
from nnsight_lab.kernels import kernel, tensor_from_data, to_python
from nnsight_lab.passes import writes_by_row

PROMPT = [5, 6, 7, 8, 9, 10]
V = torch.arange(128.0)
Program = Callable[[Any], None]


def adds(lm: Any) -> None:
    lm.layers[1].output[:] += V


def adds_at_the_end(lm: Any) -> None:
    lm.layers[1].output[:, -1] += 3 * V


def scales(lm: Any) -> None:
    lm.layers[1].output = lm.layers[1].output * 2 + 1


def zeroes_a_part(lm: Any) -> None:
    lm.layers[1].output[0, 2:4, 5:8] = 0


def knocks_out(lm: Any) -> None:
    lm.layers[1].attn.pattern[:, 1, :, 0] = 0


def puts_in_another_place(lm: Any) -> None:
    lm.layers[1].output[:, -1] = lm.layers[0].output[:, -1]


def edits_twice(lm: Any) -> None:
    lm.layers[1].output[:, 0] *= 2
    lm.layers[1].output[:, -1] -= V


def takes_the_mean_off(lm: Any) -> None:
    h = lm.layers[1].output
    lm.layers[1].output = h - h.mean(1, keepdim=True)


def copies_a_row(lm: Any) -> None:
    lm.layers[1].output[:, -1] = lm.layers[1].output[:, 0]


def turns_around(lm: Any) -> None:
    lm.layers[1].output = lm.layers[1].output.flip(1)


def adds_another_row(lm: Any) -> None:
    h = lm.layers[1].output
    lm.layers[1].output[:] = h + h[:, :1]


def chooses_by_the_largest(lm: Any) -> None:
    h = lm.layers[1].output
    lm.layers[1].output = torch.where(h == h.amax(1, keepdim=True), h, 0.0)


BY_ROW = (
    adds, adds_at_the_end, scales, zeroes_a_part, knocks_out, puts_in_another_place, edits_twice,
)  # fmt: skip
NEED_MORE = (
    takes_the_mean_off, copies_a_row, turns_around, adds_another_row, chooses_by_the_largest,
)  # fmt: skip


def recorded(program: Program) -> Graph:
    lm = nl.LanguageModel("tiny")
    with lm.trace(PROMPT) as tracer:
        program(lm)
        lm.logits.save()
    return tracer.graph


def value_of(graph: Graph, write: Write, own: torch.Tensor, other: torch.Tensor) -> Any:
    """What a write puts, from what its own place and any other hold. By hand, from the nodes."""
    values: dict[int, Any] = {}
    for node in graph.nodes[: write.value + 1]:
        match node:
            case Read(address=address):
                values[node.id] = own if address == write.address else other
            case Call():
                args = [to_python(arg, values.__getitem__) for arg in node.args]
                kwargs = {key: to_python(arg, values.__getitem__) for key, arg in node.kwargs}
                values[node.id] = kernel(node.op)(*args, **kwargs)
            case Constant(value=value):
                values[node.id] = tensor_from_data(value)
    return values[write.value]


@pytest.mark.parametrize("program", BY_ROW, ids=lambda program: program.__name__)
def test_a_row_is_edited_alike_whichever_other_rows_are_there(program: Program) -> None:
    graph = recorded(program)
    (write,) = (node for node in graph.nodes if isinstance(node, Write))
    assert writes_by_row(graph) == {write.id}
    shape = (1, 4, 6, 6) if write.address.port == "pattern" else (1, 6, 128)
    axis = len(shape) - 2
    whole, other = torch.randn(shape), torch.randn(shape)
    wanted = value_of(graph, write, whole, other)
    assert not torch.equal(wanted, whole)
    for begin in range(6):
        for filled in (0.0, float("nan"), 1e9):
            rows = torch.arange(6) < begin
            partly = whole.clone().index_fill_(axis, rows.nonzero().flatten(), filled)
            found = value_of(graph, write, partly, other)
            kept = (~rows).nonzero().flatten()
            assert torch.equal(found.index_select(axis, kept), wanted.index_select(axis, kept))


@pytest.mark.parametrize("program", NEED_MORE, ids=lambda program: program.__name__)
def test_what_needs_other_rows_waits_for_them(program: Program) -> None:
    assert writes_by_row(recorded(program)) == frozenset()
