"""Runs under way in this process: who watches is told of each, and may cancel one.

    with watching(lambda run, event: print(run.model.name, event)):
        ...                                     # every run made here, on any thread, is told of

Progress bars, the sidebar, and `--live` are watchers. A watcher is called on the thread that runs,
between two events, so it must be quick; what it raises ends the run that it was told of.

    with asked_by(Asker()) as mine:
        ...                                     # run.asker is mine for each run made here
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

from nnsight_lab.contract import Done, Failed, Inputs, RunEvent
from nnsight_lab.errors import Cancelled, LabError
from nnsight_lab.ir import Graph
from nnsight_lab.models.following import on_a_terminal
from nnsight_lab.models.progress import Progress

if TYPE_CHECKING:
    from nnsight_lab.models.traced import TracedModel

__all__ = [
    "Asker",
    "RunUnderWay",
    "Watcher",
    "asked_by",
    "asker_now",
    "follow_always",
    "runs_under_way",
    "under_way",
    "watching",
]


class Asker:
    """Who asks for runs, to tell its own from those of others.

    view: whether it is a view that makes runs of its own, as a hand moves in it.
    """

    def __init__(self, *, view: bool = False) -> None:
        self.view = view


_asker: ContextVar[Asker | None] = ContextVar("asker", default=None)


def asker_now() -> Asker | None:
    """Who asks for what is run here and now; None where nobody said so."""
    return _asker.get()


@contextmanager
def asked_by(asker: Asker) -> Iterator[Asker]:
    """What is run in the block, and begun in it to go on behind, is asked for by `asker`."""
    before = _asker.set(asker)
    try:
        yield asker
    finally:
        _asker.reset(before)


class RunUnderWay:
    """One run that has not ended: what it runs, since when, on which thread.

    id: as in its `RunRequest`. began: `time.perf_counter()`. thread: `threading.get_ident()` of the
    thread that waits for it. asker: who asked for it. last: the last event there was. progress: how
    far it is. why: what it fails with when it is cancelled, if not with `Cancelled`. over: whether it
    has ended, in any way.
    """

    def __init__(self, id: str, model: TracedModel, graph: Graph, inputs: Inputs, prompt: Any):
        self.id = id
        self.model = model
        self.graph = graph
        self.inputs = inputs
        self.prompt = prompt
        self.began = time.perf_counter()
        self.thread = threading.get_ident()
        self.asker = asker_now()
        self.last: RunEvent | None = None
        self.progress = Progress(graph, inputs, self.began)
        self.why: LabError | None = None
        self.over = False
        self._cancelled = False

    def cancel(self, why: LabError | None = None) -> None:
        """Ask it to stop, from any thread; it then fails with `why`, or with `Cancelled`."""
        self.why = self.why or why
        self._cancelled = True
        self.model.executor.cancel(self.id)

    def tell(self, event: RunEvent | None) -> None:
        """Note an event, and tell the watchers of it."""
        first = self.last is None
        self.last = event
        if event is not None:
            self.progress.note(event)
        if self._cancelled and first and event is not None:
            self.model.executor.cancel(self.id)  # before, it was not there yet to be cancelled
        for watcher in _watchers:
            watcher(self, event)

    def __repr__(self) -> str:
        return f"<run {self.id[:8]} under way on {self.model.name}>"


Watcher: TypeAlias = Callable[[RunUnderWay, RunEvent | None], None]
"""Told `None` when a run begins, then each of its events; `Done` or `Failed` is the last."""

_lock = threading.Lock()
_watchers: tuple[Watcher, ...] = (on_a_terminal,)
_running: dict[str, RunUnderWay] = {}


def follow_always(watcher: Watcher) -> Callable[[], None]:
    """Tell `watcher` of every run of this process from now on; gives what ends that."""
    global _watchers  # noqa: PLW0603 - replaced whole, so that a run reads it without the lock
    with _lock:
        _watchers = (*_watchers, watcher)

    def end() -> None:
        global _watchers  # noqa: PLW0603
        with _lock:
            _watchers = tuple(other for other in _watchers if other is not watcher)

    return end


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Tell `watcher` of every run of this process while the block lasts."""
    end = follow_always(watcher)
    try:
        yield
    finally:
        end()


def runs_under_way() -> tuple[RunUnderWay, ...]:
    """The runs of this process that have not ended, oldest first."""
    with _lock:
        return tuple(_running.values())


@contextmanager
def under_way(run: RunUnderWay) -> Iterator[Callable[[RunEvent], None]]:
    """While the block lasts, `run` is under way; what it gives tells the watchers of an event."""
    with _lock:
        _running[run.id] = run
    try:
        run.tell(None)
        yield run.tell
    except KeyboardInterrupt:
        if not isinstance(run.last, Done | Failed):  # nobody is there any more to hear of its end
            run.tell(Failed(Cancelled("The run was interrupted.")))
        raise
    finally:
        run.over = True
        with _lock:
            del _running[run.id]
