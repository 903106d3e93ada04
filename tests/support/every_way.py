"""Every program of a folder of tests, three ways: as it is, through bytes, and on a server.

`EveryWay` stands in for `LocalExecutor.run` while a test runs. Each run of the test's own is made
once more with its graph read back from bytes, and once more at the end of a websocket, by a real
server that holds the same model; what was saved must be the same. A model that no server holds here
must at least be admitted by one. A test that counts runs is marked `one_way`.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch

from nnsight_lab.contract import Done, Emit, RunEvent, RunRequest, Saved, Several, Token, TokenRows
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.ir import Graph
from nnsight_lab_server.admission import admit
from nnsight_lab_server.config import ServerLimits
from nnsight_lab_server.engines.transformers_engine import TransformersEngine
from tests.server.lab_server import serving

__all__ = ["EveryWay"]

Run = Callable[[LocalExecutor, RunRequest, Emit], None]


class EveryWay:
    """Runs again what a test runs, and compares. compared: how many runs were, by way."""

    def __init__(self) -> None:
        self.compared = {"bytes": 0, "server": 0}
        self._run: Run = LocalExecutor.run
        self._stack = ExitStack()
        self._served: dict[int, RemoteExecutor] = {}
        self._own = threading.local()

    def serve(self, executor: Any) -> None:
        """From here on, runs on this executor are compared with runs on a server of it."""
        if not isinstance(executor, LocalExecutor) or id(executor) in self._served:
            return
        engine = _Served("model", executor, self.plainly)
        lab = self._stack.enter_context(serving(("model", lambda: engine)))
        client = lab.client()
        self._stack.callback(client.close)
        self._served[id(executor)] = RemoteExecutor(client, "model")

    def close(self) -> None:
        """Stop the servers."""
        self._stack.close()

    def run(self, executor: LocalExecutor, request: RunRequest, emit: Emit) -> None:
        """What stands in for `LocalExecutor.run`."""
        if getattr(self._own, "again", False):
            self._run(executor, request, emit)
            return
        seen: list[RunEvent] = []

        def note(event: RunEvent) -> None:
            seen.append(event)
            emit(event)

        self._run(executor, request, note)
        if not isinstance(seen[-1], Done) or not _repeats(request):
            return
        with self.plainly():
            self._compare(executor, request, seen)

    @contextmanager
    def plainly(self) -> Iterator[None]:
        """Runs that this thread makes in the block are not repeated, whatever other threads do."""
        self._own.again = True
        try:
            yield
        finally:
            self._own.again = False

    def _compare(self, executor: LocalExecutor, request: RunRequest, seen: list[RunEvent]) -> None:
        parts = _parts(request)
        data = request.graph.to_bytes()
        graph = Graph.from_bytes(data)
        assert graph == request.graph
        again: list[RunEvent] = []
        self._run(executor, replace(request, graph=graph), again.append)
        _assert_alike(seen, again)
        self.compared["bytes"] += 1
        if not parts:
            return
        remote = self._served.get(id(executor))
        if remote is None:
            card = executor.card()
            admit(
                data, parts, card, ServerLimits(), lambda path: executor.source_of(path, parts[0])
            )
            return
        there: list[RunEvent] = []
        remote.run(replace(request, id=uuid.uuid4().hex), there.append)
        _assert_alike(seen, there)
        self.compared["server"] += 1


class _Served(TransformersEngine):
    """The engine of the server, on whose thread nothing is repeated: it would wait for itself."""

    def __init__(
        self,
        name: str,
        executor: LocalExecutor,
        plainly: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__(name, executor)
        self._plainly = plainly

    def run(self, request: RunRequest, emit: Emit) -> None:
        with self._plainly():
            super().run(request, emit)


def _parts(request: RunRequest) -> tuple[TokenRows, ...]:
    inputs = request.inputs
    parts = inputs.parts if isinstance(inputs, Several) else (inputs,)
    return tuple(part for part in parts if isinstance(part, TokenRows))


def _repeats(request: RunRequest) -> bool:
    """Whether a second run gives the same: nothing is drawn at random, no code is called."""
    if request.functions:
        return False
    options = [part.generation for part in _parts(request) if part.generation is not None]
    return all(each.temperature == 0 or each.seed is not None for each in options)


def _assert_alike(one: list[RunEvent], other: list[RunEvent]) -> None:
    assert isinstance(other[-1], Done), other[-1]
    saved, again = _saved(one), _saved(other)
    assert list(saved) == list(again)
    for name, value in saved.items():
        _assert_same(again[name], value)
    tokens = [[event.ids for event in each if isinstance(event, Token)] for each in (one, other)]
    assert tokens[0] == tokens[1]


def _assert_same(one: Any, other: Any) -> None:
    assert _kind(one) is _kind(other)
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, equal_nan=True)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        _assert_same(list(one.values()), list(other.values()))
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for item, again in zip(one, other, strict=True):
            _assert_same(item, again)
    else:
        assert one == other


def _kind(value: Any) -> type:
    return tuple if isinstance(value, torch.Size) else type(value)  # a size travels as a tuple


def _saved(events: list[RunEvent]) -> dict[str, Any]:
    return {event.name: event.value for event in events if isinstance(event, Saved)}
