"""Any program of reads, edits and operations, in any order, means what it means over hooks.

Hypothesis writes the programs. Each is run by an interpreter that uses plain PyTorch hooks and real
memory (`tests/support/programs.py`), and recorded: the numbers agree, here, through bytes, and on a
server; or both say that a place would have to be written from what comes after it.

The page: `docs/reference/reading-and-editing.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings

import nnsight_lab as nl
from nnsight_lab.errors import WriteTooEarly
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.ir import Graph
from tests.server.lab_server import serving, tiny_engine
from tests.support.programs import Hooked, Impossible, Step, interpret, programs
from tests.support.tensors import assert_same

IDS = [[3, 10, 40, 7, 21]]
_SLOW = [HealthCheck.too_slow]


class Recorded:
    """A program's world while it is recorded."""

    def __init__(self, lm: Any) -> None:
        self.lm = lm
        self.saved: list[Any] = []

    def read(self, place: str) -> Any:
        return self.lm.get(place).output

    def replace(self, place: str, value: Any) -> None:
        self.lm.get(place).output = value

    def new(self, value: Any, *made_from: Any) -> Any:
        return value

    def wrote(self, value: Any, *made_from: Any) -> None:
        """A recorded value knows itself what it was made from."""

    def save(self, value: Any) -> None:
        self.saved.append(value.save())


@pytest.fixture(scope="module")
def lm() -> Any:
    return nl.LanguageModel("tiny")


@pytest.fixture(scope="module")
def remote() -> Iterator[Any]:
    with serving(("tiny", tiny_engine)) as lab:
        client = lab.client()
        yield nl.LanguageModel.from_executor(RemoteExecutor(client, "tiny"))
        client.close()


def _expected(lm: Any, program: list[Step]) -> tuple[list[torch.Tensor], torch.Tensor] | None:
    world = Hooked(lm.module, IDS)
    try:
        logits = world.run(program)
    except Impossible:
        return None
    return world.saved, logits


def _recorded(lm: Any, program: list[Step]) -> tuple[list[torch.Tensor], Any, Graph]:
    world = Recorded(lm)
    with lm.trace(IDS) as tracer:
        interpret(program, world)
        logits = lm.logits.save()
    return [proxy.value for proxy in world.saved], logits, tracer.graph


@settings(max_examples=100, deadline=None, suppress_health_check=_SLOW)
@given(program=programs())
def test_a_program_means_what_it_means_over_hooks(lm: Any, program: list[Step]) -> None:
    expected = _expected(lm, program)
    if expected is None:
        event("impossible")
        with pytest.raises(WriteTooEarly):
            _recorded(lm, program)
        return
    saved, logits, graph = _recorded(lm, program)
    _agree([*saved, logits], [*expected[0], expected[1]])
    again = lm.run(Graph.from_bytes(graph.to_bytes()), IDS)
    _agree([again["logits"]], [expected[1]])


@settings(max_examples=25, deadline=None, suppress_health_check=_SLOW)
@given(program=programs())
def test_and_on_a_server(lm: Any, remote: Any, program: list[Step]) -> None:
    expected = _expected(lm, program)
    if expected is None:
        return
    saved, logits, _ = _recorded(remote, program)
    _agree([*saved, logits], [*expected[0], expected[1]])


def _agree(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other, atol=1e-4 * max(1.0, float(other.abs().max())))
