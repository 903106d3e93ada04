"""RemoteExecutor: runs graphs on the lab's server, behind the same contract as a local run.

Events are handed over on the caller's thread as they arrive, values as torch tensors in the dtype
they have on the server. Interrupting the caller cancels the job. The socket is the business of
`remote_link.py`, bytes that of `nnsight_lab.wire`.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Generator, Iterator
from contextlib import closing

import torch

from nnsight_lab.contract import (
    Done,
    Emit,
    Failed,
    Inputs,
    ModelCard,
    RunEvent,
    RunRequest,
    Saved,
    Sending,
    Several,
    TokenRows,
)
from nnsight_lab.errors import LabError, NotSupported
from nnsight_lab.executors.remote_client import LabClient
from nnsight_lab.executors.remote_link import Link
from nnsight_lab.executors.remote_values import from_wire
from nnsight_lab.ir import Graph, ModuleSource, ModuleTree
from nnsight_lab.wire.events import JobTold

__all__ = ["RemoteExecutor"]


class RemoteExecutor:
    """Runs graphs on one model of a server. Implements `contract.Executor`."""

    def __init__(self, client: LabClient, model: str) -> None:
        self.client = client
        self.model = model
        self._card: ModelCard | None = None
        self._sources: dict[str, ModuleSource] = {}
        self._lock = threading.Lock()
        self._runs: dict[str, _Run] = {}

    def __repr__(self) -> str:
        return f"RemoteExecutor({self.client!r}, {self.model!r})"

    def card(self) -> ModelCard:
        """The model, described; asked for once."""
        if self._card is None:
            self._card = self.client.card(self.model)
        return self._card

    def tree_for(self, inputs: Inputs) -> ModuleTree:
        """The sites of one forward pass."""
        _parts(inputs)
        return self.card().tree

    def source_of(self, path: str, inputs: Inputs) -> ModuleSource:
        """What the forward of one module calls; asked for once."""
        _parts(inputs)
        if path not in self._sources:
            self._sources[path] = self.client.source(self.model, path)
        return self._sources[path]

    def run(self, request: RunRequest, emit: Emit) -> None:
        """Run to the end; never raises by itself, ends with `Done` or `Failed`."""
        run = _Run()
        with self._lock:
            self._runs[request.id] = run
        try:
            with closing(self._events(request, run)) as events:
                for event in events:
                    emit(event)
        finally:
            with self._lock:
                self._runs.pop(request.id, None)

    def _events(self, request: RunRequest, run: _Run) -> Generator[RunEvent]:
        try:
            for event in self._told(request, run):
                match event:
                    case Saved(name=name, value=value):
                        yield Saved(name, from_wire(value))
                    case Failed(error=error):
                        yield Failed(_located(error, request.graph))
                    case _:
                        yield event
        except LabError as exc:
            yield Failed(_located(exc, request.graph))

    def _told(self, request: RunRequest, run: _Run) -> Iterator[RunEvent]:
        _check_modes()
        parts = _parts(request.inputs)
        blobs = request.graph.large_constants
        graph = request.graph.to_bytes(sources=False, without=blobs)
        link, key = self.client.link(), uuid.uuid4().hex
        job, box = link.ask(
            lambda connection: connection.submit(self.model, graph, parts, key, blobs)
        )
        run.submitted(link, job)
        try:
            while True:
                told = box.take()
                if isinstance(told, Sending):
                    yield told
                elif isinstance(told, JobTold):
                    yield told.event
                    if isinstance(told.event, Done | Failed):
                        return
        except BaseException:
            # Ctrl-C, an error of whoever listens, or the lost link itself, where it does nothing.
            link.cancel(job)
            raise

    def cancel(self, run_id: str) -> None:
        """Ask the server to stop a run; it then fails with `Cancelled`."""
        with self._lock:
            run = self._runs.get(run_id)
        if run is not None:
            run.cancel()


class _Run:
    """Where a run is, so that another thread can cancel it, even while it is being sent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at: tuple[Link, int] | None = None
        self._cancelled = False

    def submitted(self, link: Link, job: int) -> None:
        with self._lock:
            self._at = (link, job)
            cancelled = self._cancelled
        if cancelled:
            link.cancel(job)

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            at = self._at
        if at is not None:
            link, job = at
            link.cancel(job)


def _check_modes() -> None:
    """Raise `NotSupported` where this thread would compute in another way than the server does."""
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise NotSupported(
            "torch.autocast is a mode of this process, and the model is on a server.",
            hint="Leave it out: the server computes in the precision the model is served in.",
        )


def _parts(inputs: Inputs) -> tuple[TokenRows, ...]:
    """What each trace is given. Raises `NotSupported` for what is no prompt."""
    parts = inputs.parts if isinstance(inputs, Several) else (inputs,)
    prompts = tuple(part for part in parts if isinstance(part, TokenRows))
    if len(prompts) < len(parts):
        raise NotSupported(
            "A server runs language models on prompts only.",
            hint="Run a wrapped module in this process: nl.wrap(module).",
        )
    return prompts


def _located(error: LabError, graph: Graph) -> LabError:
    """The error, tied to the user's line that made the node it names."""
    return error if error.node is None else error.at(graph.line_of(error.node, error.inside))
