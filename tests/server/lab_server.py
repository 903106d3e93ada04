"""A real server in this process: uvicorn on a free port, the real app, engines of the test's choice.

`Serving` is the handle a test holds. The socket, the protocol and the client are what we ship.
`GatedEngine` is the real engine with doors in it, so that a test decides when a run goes on
instead of sleeping until it may have.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from websockets.sync.client import ClientConnection as Socket
from websockets.sync.client import connect

from nnsight_lab.contract import (
    Done,
    Emit,
    Executor,
    Failed,
    ModelCard,
    RunEvent,
    RunRequest,
    Saved,
    TokenRows,
)
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.executors.remote_client import LabClient
from nnsight_lab.ir import Address, Graph, ModuleSource, Output, Read
from nnsight_lab.settings import Settings
from nnsight_lab_server.app import create_app
from nnsight_lab_server.auth import TokenAuth
from nnsight_lab_server.config import ServedModel, ServerConfig, ServerLimits
from nnsight_lab_server.engines.base import Engine
from nnsight_lab_server.engines.transformers_engine import load_transformers
from nnsight_lab_server.serve import bind, make_server

__all__ = [
    "ROWS",
    "TOKEN",
    "GatedEngine",
    "Run",
    "Serving",
    "reads",
    "request_for",
    "serving",
    "serving_models",
    "tiny_engine",
    "values_of",
]

TOKEN = "correct-horse-battery"  # noqa: S105 - of servers that live for one test
ROWS = ((3, 4, 5, 6),)
WAIT_S = 60.0


def reads(*places: str) -> Graph:
    """A graph that saves these places, `layers.0.output` or `logits`, under their own names."""
    split = [place.rpartition(".") for place in places]
    nodes = tuple(
        Read(id=id, address=Address(path, port)) for id, (path, _, port) in enumerate(split)
    )
    return Graph(nodes, tuple(Output(place, id) for id, place in enumerate(places)))


def request_for(graph: Graph, rows: tuple[tuple[int, ...], ...] = ROWS) -> RunRequest:
    """A request with an id of its own."""
    return RunRequest(uuid4().hex, graph, TokenRows(rows))


def values_of(executor: Executor, request: RunRequest) -> dict[str, Any]:
    """Run to the end; the saved values. Raises what the run failed with."""
    events: list[RunEvent] = []
    executor.run(request, events.append)
    last = events[-1]
    if isinstance(last, Failed):
        raise last.error
    assert isinstance(last, Done)
    return {event.name: event.value for event in events if isinstance(event, Saved)}


def tiny_engine() -> Engine:
    """The engine `nnsight-lab serve tiny` has."""
    return load_transformers("tiny", "tiny", Settings())


class GatedEngine:
    """A real engine that waits at doors.

    `before` is passed before a run, `within` after its first saved value was handed over.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.before = threading.Event()
        self.within = threading.Event()
        self.running = threading.Event()
        self.saved = threading.Event()
        self.cancelled: list[str] = []
        self.finished: list[RunEvent] = []

    def card(self) -> ModelCard:
        return self.engine.card()

    def source_of(self, path: str) -> ModuleSource:
        return self.engine.source_of(path)

    def run(self, request: RunRequest, emit: Emit) -> None:
        self.running.set()
        assert self.before.wait(WAIT_S)

        def gated(event: RunEvent) -> None:
            if isinstance(event, Done | Failed):
                self.finished.append(event)  # before whoever waits for the end can look
            emit(event)
            if isinstance(event, Saved):
                self.saved.set()
                assert self.within.wait(WAIT_S)

        self.engine.run(request, gated)

    def cancel(self, run_id: str) -> None:
        self.cancelled.append(run_id)
        self.engine.cancel(run_id)

    def close(self) -> None:
        self.engine.close()

    def open(self) -> None:
        """Open every door."""
        self.before.set()
        self.within.set()


class Run:
    """A run on a thread of its own, and the events it was told so far."""

    def __init__(self, executor: RemoteExecutor, request: RunRequest) -> None:
        self.events: list[RunEvent] = []
        self.id = request.id
        self._heard = threading.Condition()
        self._thread = threading.Thread(target=executor.run, args=(request, self._hear))
        self._thread.start()

    def _hear(self, event: RunEvent) -> None:
        with self._heard:
            self.events.append(event)
            self._heard.notify_all()

    def wait_for(self, kind: type[RunEvent]) -> Any:
        """The first event of a kind, as soon as it is there."""
        with self._heard:
            assert self._heard.wait_for(lambda: self._first(kind) is not None, WAIT_S), self.events
        return self._first(kind)

    def _first(self, kind: type[RunEvent]) -> RunEvent | None:
        return next((event for event in self.events if isinstance(event, kind)), None)

    def end(self) -> RunEvent:
        """The last event, once the run has ended."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        return self.events[-1]


class Serving:
    """A server that runs."""

    def __init__(self, port: int, catalogue: Any) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.catalogue = catalogue

    def client(self, token: str | None = TOKEN) -> LabClient:
        """A client of this server."""
        return LabClient(self.url, token)

    @contextmanager
    def socket(self, token: str = TOKEN, **options: Any) -> Iterator[Socket]:
        """A bare websocket, for what our own client would never send."""
        headers = {"Authorization": f"Bearer {token}"}
        url = f"ws://127.0.0.1:{self.port}/ws"
        options = {"compression": None, "proxy": None, "max_size": None, **options}
        with connect(url, additional_headers=headers, close_timeout=0.2, **options) as socket:
            yield socket


@contextmanager
def serving(
    *engines: tuple[str, Callable[[], Engine]],
    limits: ServerLimits | None = None,
    wait: bool = True,
) -> Iterator[Serving]:
    """A server with these engines, each by name; it is gone when the block ends.

    wait: begin the block when every model is loaded.
    """
    models = tuple(ServedModel(name, load) for name, load in engines)
    with serving_models(models, limits=limits, wait_s=WAIT_S if wait else None) as running:
        yield running


@contextmanager
def serving_models(
    models: tuple[ServedModel, ...],
    *,
    limits: ServerLimits | None = None,
    wait_s: float | None = WAIT_S,
) -> Iterator[Serving]:
    """A server with these models. wait_s: how long loading may take; None begins at once."""
    config = ServerConfig(models, TokenAuth(TOKEN), limits or ServerLimits())
    app = create_app(config)
    listener = bind("127.0.0.1", 0)
    server = make_server(app, config.limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        for worker in app.state.catalogue if wait_s is not None else ():
            assert worker.settled.wait(wait_s)
        yield Serving(listener.getsockname()[1], app.state.catalogue)
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        listener.close()
        logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)
    assert not thread.is_alive()
