"""Work for a tab: one job at a time, on a thread of its own; a newer one cancels the older."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from nnsight_lab.contract import RunEvent
from nnsight_lab.errors import Cancelled
from nnsight_lab.models.under_way import Asker, RunUnderWay, asked_by, runs_under_way, watching

__all__ = ["Job", "Work"]

Ended: TypeAlias = Callable[["Job", BaseException | None], None]


class Job:
    """One piece of work; `cancelled` once nobody wants it any more."""

    def __init__(self, number: int, do: Callable[[Job], None], ended: Ended) -> None:
        self.number = number
        self.cancelled = False
        self._ended = ended
        self._do = do
        self.thread = threading.Thread(target=self._run, name=f"explorer-{number}", daemon=True)

    def cancel(self) -> None:
        """Stop the run it is in, and every further one."""
        self.cancelled = True
        for run in runs_under_way():
            if run.thread == self.thread.ident:
                run.cancel()

    def _heard(self, run: RunUnderWay, _: RunEvent | None) -> None:
        if self.cancelled and run.thread == self.thread.ident:
            run.cancel()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            with asked_by(Asker(view=True)), watching(self._heard):
                self._do(self)
        except BaseException as exc:  # noqa: BLE001 - told to the tab, whatever it is
            error = exc
        if self.cancelled:
            error = Cancelled("Something else was wanted.")
        self._ended(self, error)


class Work:
    """The jobs of one tab. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: Job | None = None

    def begin(self, number: int, do: Callable[[Job], None], ended: Ended) -> None:
        """Do this instead of what is done now."""
        job = Job(number, do, ended)
        with self._lock:
            before, self._now = self._now, job
        if before is not None:
            before.cancel()
        job.thread.start()

    def cancel(self) -> None:
        """Stop what is done now."""
        with self._lock:
            job, self._now = self._now, None
        if job is not None:
            job.cancel()
