"""One program, three ways: as it was recorded, once more from its bytes, and on a server."""

from __future__ import annotations

from typing import Any

import torch

import nnsight_lab as nl
from nnsight_lab.kernels.infer import map_tensors
from tests.server.lab_server import Serving

__all__ = ["assert_three_ways"]


def assert_three_ways(lm: nl.LanguageModel, tracer: Any, lab: Serving) -> None:
    """The graph of a finished trace gives bit for bit what it gave: from bytes, and remotely."""
    run = tracer.run
    graph = nl.Graph.from_bytes(tracer.graph.to_bytes())
    assert graph == tracer.graph
    assert len(run) > 0
    again = lm.run(graph, run.prompt)
    there = nl.connect(lab.url, token="correct-horse-battery").model("tiny")  # noqa: S106
    remote = there.run(graph, run.prompt)
    for name in run:
        for other in (again, remote):
            _assert_equal(other[name], run[name], name)


def _assert_equal(one: Any, other: Any, name: str) -> None:
    found: list[torch.Tensor] = []
    for value in (one, other):
        map_tensors(value, found.append)
    half = len(found) // 2
    assert half > 0, name
    for left, right in zip(found[:half], found[half:], strict=True):
        assert torch.equal(left, right), name
