"""One worker and one fair queue per model: whose job runs next, and how a job ends.

    submit ──► Accepted, Queued(place) ──► Started ──► Saved … ──► Done or Failed
                        └── cancel ──────────────────────────────► Failed(Cancelled)

A `ModelWorker` owns a thread; the engine is loaded, run and closed there and nowhere else.
Clients take turns: each has its own line, and the worker serves the lines round and round. Every
job ends with exactly one `Done` or `Failed`, whatever the engine does. Jobs know nothing of
sockets: `emit` may be called from the worker's thread or the submitter's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import chain, zip_longest

from nnsight_lab.contract import (
    Accepted,
    Done,
    Emit,
    Failed,
    Queued,
    RunEvent,
    RunRequest,
    Saved,
    Started,
    Token,
)
from nnsight_lab.errors import Cancelled, EngineFailed, LabError, LimitExceeded
from nnsight_lab.ir import ModuleSource
from nnsight_lab_server.engines.base import Engine

__all__ = ["Job", "ModelState", "ModelWorker"]

_log = logging.getLogger(__name__)
_SEE_THE_LOG = "The server's log says why; lab.models() lists what is served."


class ModelState(Enum):
    """How far a model is."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(eq=False, slots=True)
class Job:
    """A job that passed admission.

    owner: whose line it stands in. may_start: whether its client can take its results now.
    saved_bytes: what it may send back.
    """

    request: RunRequest
    owner: Hashable
    emit: Emit
    saved_bytes: int
    may_start: Callable[[], bool] = lambda: True
    queued_at: float = field(default_factory=time.perf_counter)
    place: int | None = None
    cancelled: bool = False


class ModelWorker:
    """Runs the jobs of one model, one after another, fairly among clients.

    settled: set once the model is loaded, or could not be. looking: a thread to ask `source_of` on,
        so that whoever waits for a run to end keeps nobody else waiting.
    """

    def __init__(self, name: str, load: Callable[[], Engine], *, queued: int) -> None:
        self.name = name
        self.state = ModelState.LOADING
        self.error: LabError | None = None
        self.engine: Engine | None = None
        self.settled = threading.Event()
        self._load = load
        self._most = queued
        self._lines: OrderedDict[Hashable, deque[Job]] = OrderedDict()
        self._running: Job | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self.looking = ThreadPoolExecutor(1, thread_name_prefix=f"look-{name}")
        self._thread = threading.Thread(target=self._work, name=f"model-{name}", daemon=True)

    def start(self) -> None:
        """Begin to load; jobs may be submitted at once."""
        self._thread.start()

    def stop(self) -> None:
        """Cancel everything and wait for the thread to end."""
        with self._changed:
            self._stopping = True
            for job in self._waiting():
                self._end(job, Cancelled("The server is stopping."))
            self._lines.clear()
            running = self._running
            self._changed.notify_all()
        if running is not None:
            self._stop_run(running)
        self.looking.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, job: Job) -> None:
        """Put a job in its owner's line.

        Raises:
            LimitExceeded: too many jobs wait already.
            EngineFailed: the model has stopped or could not be loaded.
        """
        with self._changed:
            if self._stopping or self.state in {ModelState.FAILED, ModelState.STOPPED}:
                raise EngineFailed(
                    f"The model {self.name!r} is not running on this server.", hint=_SEE_THE_LOG
                )
            if len(self._waiting()) >= self._most:
                raise LimitExceeded(
                    f"{self._most} jobs wait for {self.name!r} already.",
                    hint="Try again in a while.",
                )
            self._lines.setdefault(job.owner, deque()).append(job)
            job.emit(Accepted())
            self._tell_places()
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """End a job, queued or running; no effect on one that has ended."""
        with self._changed:
            job.cancelled = True
            line = self._lines.get(job.owner, deque())
            if job in line:
                line.remove(job)
                self._end(job, Cancelled("The run was cancelled while it waited."))
                self._tell_places()
            running = self._running is job
        if running:
            self._stop_run(job)

    def source_of(self, path: str) -> ModuleSource:
        """What the forward of one module of the model calls; waits for a run to end."""
        if self.engine is None:
            raise EngineFailed(
                f"The model {self.name!r} is not running on this server.", hint=_SEE_THE_LOG
            )
        return self.engine.source_of(path)

    def wake(self) -> None:
        """Look again whether a job may start; called when a client has caught up."""
        with self._changed:
            self._changed.notify_all()

    # ---------------------------------------------------------------- lines, under the lock

    def _waiting(self) -> list[Job]:
        """The queued jobs in the order they are served if every client keeps up."""
        rounds = zip_longest(*self._lines.values())
        return [job for job in chain.from_iterable(rounds) if job is not None]

    def _tell_places(self) -> None:
        before = 1 if self._running is not None else 0
        for place, job in enumerate(self._waiting(), start=before):
            if job.place != place:
                job.place = place
                job.emit(Queued(place))

    def _take(self) -> Job | None:
        """The next job that may start; its owner goes to the end of the round."""
        for owner, line in list(self._lines.items()):
            if not line:
                del self._lines[owner]
            elif line[0].may_start():
                self._lines.move_to_end(owner)
                return line.popleft()
        return None

    def _end(self, job: Job, error: LabError) -> None:
        job.emit(Failed(error))

    def _next(self) -> Job | None:
        with self._changed:
            self._running = None
            while not self._stopping:
                job = self._take()
                if job is not None:
                    self._running = job
                    self._tell_places()
                    return job
                self._changed.wait()
        return None

    # ---------------------------------------------------------------- the worker's thread

    def _work(self) -> None:
        loaded = self._loaded()
        self.settled.set()
        if not loaded:
            return
        while (job := self._next()) is not None:
            self._run(job)
        self.state = ModelState.STOPPED
        if self.engine is not None:
            self.engine.close()

    def _loaded(self) -> bool:
        try:
            self.engine = self._load()
        except LabError as exc:
            self._fail(exc)
            return False
        except Exception:  # noqa: BLE001 - a seam: loading a model runs whatever its library does
            _log.exception("The model %r could not be loaded.", self.name)
            self._fail(self._not_loaded())
            return False
        with self._changed:
            self.state = ModelState.READY
        return True

    def _fail(self, error: LabError) -> None:
        with self._changed:
            self.error, self.state = error, ModelState.FAILED
            for job in self._waiting():
                self._end(job, self._not_loaded())
            self._lines.clear()

    def _not_loaded(self) -> EngineFailed:
        return EngineFailed(f"The model {self.name!r} could not be loaded.", hint=_SEE_THE_LOG)

    def _stop_run(self, job: Job) -> None:
        if self.engine is not None:
            self.engine.cancel(job.request.id)

    def _run(self, job: Job) -> None:
        tale = _Tale(job, self._stop_run)
        if job.cancelled:
            tale.tell(Failed(Cancelled("The run was cancelled before it began.")))
            return
        job.emit(Started())
        try:
            if self.engine is not None:
                self.engine.run(job.request, tale.tell)
        except Exception:  # noqa: BLE001 - a seam: a job must not take the worker down with it
            _log.exception("The engine of %r broke its contract.", self.name)
        if not tale.ended:
            why = EngineFailed("The engine stopped without saying why.", hint=_SEE_THE_LOG)
            tale.tell(Failed(why))


class _Tale:
    """What a client is told of a run: values within bounds, then exactly one end."""

    def __init__(self, job: Job, stop: Callable[[Job], None]) -> None:
        self.ended = False
        self._job = job
        self._stop = stop
        self._begun = time.perf_counter()
        self._sent = 0

    def tell(self, event: RunEvent) -> None:
        if self.ended:
            return
        match event:
            case Saved(value=value):
                self._sent += value.sent_bytes
                if self._sent > self._job.saved_bytes:
                    self._over()
                else:
                    self._job.emit(event)
            case Token():
                self._job.emit(event)
            case Failed(error=error):
                self._finish(Failed(_told(error)))
            case Done(seconds=seconds):
                waited = self._begun - self._job.queued_at
                told = {**seconds, "queued": waited}
                self._finish(replace(event, seconds=told, sent_bytes=self._sent))

    def _over(self) -> None:
        self._finish(
            Failed(
                LimitExceeded(
                    f"The run saves more than the {self._job.saved_bytes} bytes it may.",
                    hint="Save less at a time: one position instead of all, or fewer prompts.",
                )
            )
        )
        self._stop(self._job)

    def _finish(self, event: RunEvent) -> None:
        self.ended = True
        self._job.emit(event)


def _told(error: LabError) -> LabError:
    """What a client may know of an error: an engine's own words stay in the server's log."""
    if not isinstance(error, EngineFailed):
        return error
    _log.error("A run stopped the engine.", exc_info=error)
    cause = type(error.__cause__).__name__ if error.__cause__ is not None else "no reason given"
    return EngineFailed(
        f"The engine stopped while running this job ({cause}).",
        hint="Other jobs are not affected. The server's log says more.",
        node=error.node,
    )
