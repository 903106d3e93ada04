"""One worker and one fair queue per model: whose job runs next, and how a job ends.

    submit ──► Accepted, Queued(place) ──► Started ──► Saved … ──► Done or Failed
                        └── cancel ──────────────────────────────► Failed(Cancelled)

A `ModelWorker` owns a thread; the engine is loaded, started again and closed there and nowhere
else. One that takes a single run at a time also runs there; one that takes several has a thread for
each run. Clients take turns: each has its own line, and the worker serves the lines round and
round. Every job ends with exactly one `Done` or `Failed`, whatever the engine does (`tale.py`). Jobs
know nothing of sockets: `emit` may be called from the worker's threads or the submitter's.

An engine that dies is started again (`restarts.py`); its runs fail, and what is queued waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain, zip_longest

from nnsight_lab.contract import Accepted, Done, Emit, Failed, Queued, RunRequest, Started
from nnsight_lab.errors import Cancelled, EngineFailed, LabError, LimitExceeded
from nnsight_lab.ir import ModuleSource
from nnsight_lab_server.engines.base import Concurrent, Engine, Restartable
from nnsight_lab_server.restarts import Restarts
from nnsight_lab_server.tale import Tale

__all__ = ["Job", "ModelState", "ModelWorker"]

_log = logging.getLogger(__name__)
_LOADING_S = 15.0
_SEE_THE_LOG = "The server's log says why; lab.models() lists what is served."


class ModelState(Enum):
    """How far a model is."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(eq=False, slots=True)
class Job:
    """A job that passed admission.

    owner: whose line it stands in. may_start: whether its client can take its results now.
    saved_bytes: what it may send back. accepted: what its client is told first.
    """

    request: RunRequest
    owner: Hashable
    emit: Emit
    saved_bytes: int
    may_start: Callable[[], bool] = lambda: True
    accepted: Accepted = field(default_factory=Accepted)
    queued_at: float = field(default_factory=time.perf_counter)
    place: int | None = None
    cancelled: bool = False


class ModelWorker:
    """Runs the jobs of one model, as many at a time as its engine takes, fairly among clients.

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
        self._running: list[Job] = []
        self._at_once = 1
        self._restarts = Restarts()
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
            running = list(self._running)
            self._changed.notify_all()
        for job in running:
            self._stop_run(job)
        self.looking.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive():
            # Not everything that loads can be given up; what cannot ends with the process.
            self._thread.join(_LOADING_S if self.state is ModelState.LOADING else None)

    def submit(self, job: Job) -> None:
        """Put a job in its owner's line.

        Raises:
            LimitExceeded: too many jobs wait already.
            EngineFailed: the model has stopped, restarts, or could not be loaded; or it died
                twice while this graph ran.
        """
        with self._changed:
            if self.state is ModelState.RESTARTING:
                raise EngineFailed(
                    f"The engine of {self.name!r} restarts.", hint="Try again in a while."
                )
            if (refusal := self._restarts.refusal(job.request.graph)) is not None:
                raise refusal
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
            job.emit(job.accepted)
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
            running = job in self._running
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

    def counts(self) -> tuple[int, int]:
        """How many jobs run now, and how many wait, of all clients."""
        with self._changed:
            return len(self._running), len(self._waiting())

    # ---------------------------------------------------------------- lines, under the lock

    def _waiting(self) -> list[Job]:
        """The queued jobs in the order they are served if every client keeps up."""
        rounds = zip_longest(*self._lines.values())
        return [job for job in chain.from_iterable(rounds) if job is not None]

    def _tell_places(self) -> None:
        before = 1 if len(self._running) >= self._at_once else 0
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
        """The next job to run, once there is room for it; None when there will be none for now."""
        with self._changed:
            while not self._stopping and self.state is ModelState.READY:
                job = self._take() if len(self._running) < self._at_once else None
                if job is not None:
                    self._running.append(job)
                    self._tell_places()
                    return job
                self._changed.wait()
        return None

    def _lost(self) -> None:
        """The engine has died; called from any thread, before it ends the runs it had."""
        with self._changed:
            if self.state is ModelState.READY:
                self.state = ModelState.RESTARTING
                self._restarts.died(job.request.graph for job in self._running)
                self._changed.notify_all()

    # ---------------------------------------------------------------- the worker's thread

    def _work(self) -> None:
        loaded = self._loaded()
        self.settled.set()
        if not loaded:
            return
        with ThreadPoolExecutor(self._at_once, thread_name_prefix=f"run-{self.name}") as threads:
            while not self._stopping:
                while (job := self._next()) is not None:
                    if self._at_once == 1:
                        self._run(job)
                    else:
                        threads.submit(self._run, job)
                self._restart()
        self.state = ModelState.STOPPED
        if self.engine is not None:
            self.engine.close()

    def _is_stopping(self) -> bool:
        return self._stopping

    def _restart(self) -> None:
        """Start the engine again, however often it takes; returns at once when stopping."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._running)
        engine = self.engine
        while isinstance(engine, Restartable) and self.state is ModelState.RESTARTING:
            with self._changed:
                self._changed.wait_for(self._is_stopping, self._restarts.pause())
            if self._is_stopping():
                return
            try:
                engine.restart()
            except Exception:  # noqa: BLE001 - a seam: starting an engine runs what its library does
                if self._is_stopping():
                    return
                _log.exception("The engine of %r could not be started again.", self.name)
            else:
                with self._changed:
                    self.state = ModelState.READY

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
        if isinstance(self.engine, Concurrent):
            self._at_once = self.engine.concurrency
        with self._changed:
            self.state = ModelState.READY
        if isinstance(self.engine, Restartable):
            self.engine.watch(self._lost)
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
        try:
            self._told_run(job)
        finally:
            with self._changed:
                self._running.remove(job)
                self._changed.notify_all()

    def _told_run(self, job: Job) -> None:
        with self._changed:
            refusal: LabError | None = self._restarts.refusal(job.request.graph)
        if job.cancelled:
            refusal = Cancelled("The run was cancelled before it began.")
        if refusal is not None:
            job.emit(Failed(refusal))
            return
        tale = Tale(job, self._stop_run, lambda: self.state is ModelState.RESTARTING)
        job.emit(Started())
        try:
            if self.engine is not None:
                self.engine.run(job.request, tale.tell)
        except Exception:  # noqa: BLE001 - a seam: a job must not take the worker down with it
            _log.exception("The engine of %r broke its contract.", self.name)
        if tale.ended is None:
            why = EngineFailed("The engine stopped without saying why.", hint=_SEE_THE_LOG)
            tale.tell(Failed(why))
        if isinstance(tale.ended, Done):
            with self._changed:
                self._restarts.ended_well(job.request.graph)
