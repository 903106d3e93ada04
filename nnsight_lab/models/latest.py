"""`Latest`: of what is wanted faster than it can be run, the newest only.

    latest = Latest(lambda strength: run.at(strength=strength), draw)
    latest.want(3.0)                     # from any thread, as often as the hand moves
    latest.want(3.1)                     # the run of 3.0 is cancelled, if that is worth it

One run is under way at a time, on a thread that lives until nothing has been wanted for some
seconds: a new one for each move would start its team of computing threads anew. What was wanted
last always runs to its end, and is delivered last.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from nnsight_lab.contract import Done, Failed, RunEvent
from nnsight_lab.errors import Cancelled
from nnsight_lab.models.under_way import Asker, RunUnderWay, asked_by, runs_under_way, watching

__all__ = ["Latest"]

WantedT = TypeVar("WantedT")
FoundT = TypeVar("FoundT")


class Latest(Generic[WantedT, FoundT]):
    """Runs what is wanted; what is wanted meanwhile supersedes it.

    find: makes the run. It is called on a thread of this object's own.
    deliver: is handed what was wanted and what was found, there too, in the order it was wanted.
    failed: is handed what was wanted and the error, likewise; without it errors are dropped.
    soon_s: a run is not cancelled when the one before it took less: it will be over soon.
    starving_s: nor when nothing has been delivered for that long and the one before took less than
        that, so that a hand which never rests sees something.
    idle_s: how long the thread waits for something more. It does not keep the program alive.

    Its runs are asked for by a view: `run.asker.view`.
    """

    def __init__(
        self,
        find: Callable[[WantedT], FoundT],
        deliver: Callable[[WantedT, FoundT], None],
        failed: Callable[[WantedT, Exception], None] = lambda _wanted, _error: None,
        *,
        soon_s: float = 0.05,
        starving_s: float = 1.0,
        idle_s: float = 5.0,
    ) -> None:
        self._find = find
        self._deliver = deliver
        self._failed = failed
        self._soon_s = soon_s
        self._starving_s = starving_s
        self._idle_s = idle_s
        self._asker = Asker(view=True)
        self._changed = threading.Condition()
        self._wanted: list[WantedT] = []
        self._thread: threading.Thread | None = None
        self._busy = False
        self._superseded = False
        self._took_s = float("inf")
        self._delivered = 0.0

    def want(self, wanted: WantedT) -> None:
        """Want this, and nothing that was wanted before. Returns at once."""
        with self._changed:
            self._wanted = [wanted]
            if not self._busy:
                self._busy, self._superseded = True, False
                self._delivered = time.monotonic()
                self._awake()
                return
            hungry = time.monotonic() - self._delivered > self._starving_s
            patience = self._starving_s if hungry else self._soon_s
            self._superseded = self._superseded or self._took_s >= patience
        self._cancel_superseded()

    def _awake(self) -> None:
        if self._thread is None or not self._thread.is_alive():  # a fork has none of its threads
            self._thread = threading.Thread(target=self._work, name="latest", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def cancel(self) -> None:
        """Want nothing any more, and stop what is under way. Nothing of it is delivered."""
        with self._changed:
            self._wanted = []
            self._superseded = self._busy
        self._cancel_superseded()

    @property
    def busy(self) -> bool:
        """Whether something is wanted or under way."""
        with self._changed:
            return self._busy

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until nothing is wanted and nothing under way; whether that was so in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, seconds)

    def _work(self) -> None:
        with asked_by(self._asker):
            while (wanted := self._next()) is not None:
                with watching(self._watch):
                    self._run(wanted[0])
                del wanted  # what it holds is nothing to keep while the thread waits

    def _next(self) -> list[WantedT] | None:
        with self._changed:
            while not self._wanted:
                self._busy = self._superseded = False
                self._changed.notify_all()
                if not self._changed.wait_for(lambda: self._busy, self._idle_s):
                    self._thread = None
                    return None
            wanted, self._wanted = self._wanted, []
            self._superseded = False
            return wanted

    def _run(self, wanted: WantedT) -> None:
        began = time.monotonic()
        try:
            found = self._find(wanted)
            self._took_s = time.monotonic() - began
            if not self._dropped():
                self._deliver(wanted, found)
        except Cancelled as error:
            if not self._superseded:  # somebody else's cancel
                self._failed(wanted, error)
        except Exception as error:  # noqa: BLE001 - whatever the run failed with is the caller's to show
            self._failed(wanted, error)
        else:
            self._delivered = time.monotonic()

    def _dropped(self) -> bool:
        """Whether all was cancelled, a moment too late for this run."""
        with self._changed:
            return self._superseded and not self._wanted

    def _watch(self, run: RunUnderWay, event: RunEvent | None) -> None:
        """A run of ours may have been superseded before it was under way."""
        if self._superseded and self._is_ours(run) and not isinstance(event, Done | Failed):
            run.cancel()

    def _is_ours(self, run: RunUnderWay) -> bool:
        thread = self._thread
        return thread is not None and run.thread == thread.ident

    def _cancel_superseded(self) -> None:
        """Cancel what is under way on our thread, where it has been superseded."""
        for run in runs_under_way():
            with self._changed:  # so that its successor is not cancelled for it
                if self._superseded and self._is_ours(run):
                    run.cancel()
