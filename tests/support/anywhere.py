"""One program, three ways: in this process, with its graph sent through bytes, and on a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

import nnsight_lab as nl
from nnsight_lab.contract import Emit, Executor, Inputs, ModelCard, RunRequest
from nnsight_lab.executors.local import load_local
from nnsight_lab.ir import Graph, ModuleSource, ModuleTree
from tests.server.lab_server import TOKEN, Serving

__all__ = ["ThroughBytes", "anywhere"]


class ThroughBytes:
    """An executor that hands on the graph it reads back from bytes."""

    def __init__(self, inner: Executor) -> None:
        self.inner = inner

    def card(self) -> ModelCard:
        return self.inner.card()

    def tree_for(self, inputs: Inputs) -> ModuleTree:
        return self.inner.tree_for(inputs)

    def source_of(self, path: str, inputs: Inputs) -> ModuleSource:
        return self.inner.source_of(path, inputs)

    def run(self, request: RunRequest, emit: Emit) -> None:
        again = Graph.from_bytes(request.graph.to_bytes())
        assert again == request.graph
        self.inner.run(replace(request, graph=again), emit)

    def cancel(self, run_id: str) -> None:
        self.inner.cancel(run_id)


@pytest.fixture(scope="session", params=["here", "bytes", "server"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[nl.LanguageModel]:
    """The bundled model, to be traced in each of the three ways."""
    if request.param == "here":
        yield nl.LanguageModel("tiny")
    elif request.param == "bytes":
        yield nl.LanguageModel.from_executor(ThroughBytes(load_local("tiny")))
    else:
        lab: Serving = request.getfixturevalue("lab")
        with nl.connect(lab.url, TOKEN) as connected:
            yield connected.model("tiny")
