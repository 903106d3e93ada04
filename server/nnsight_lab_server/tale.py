"""What a client is told of one run, whatever its engine says: values within bounds, then one end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from nnsight_lab.contract import Done, Failed, RunEvent, Saved, Token
from nnsight_lab.errors import EngineFailed, LabError, LimitExceeded

if TYPE_CHECKING:
    from nnsight_lab_server.jobs import Job

__all__ = ["Tale"]

_log = logging.getLogger(__name__)


class Tale:
    """What a client is told of a run: values within bounds, then exactly one end.

    stop: called when the run saves more than it may. restarting: whether the engine is being
        started again, which is then the next step a client is told.
    """

    def __init__(
        self, job: Job, stop: Callable[[Job], None], restarting: Callable[[], bool]
    ) -> None:
        self.ended: Done | Failed | None = None
        self._job = job
        self._stop = stop
        self._restarting = restarting
        self._begun = time.perf_counter()
        self._sent = 0

    def tell(self, event: RunEvent) -> None:
        """An event of the run, on its way to the client."""
        if self.ended is not None:
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
                self._finish(Failed(_told(error, restarting=self._restarting())))
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

    def _finish(self, event: Done | Failed) -> None:
        self.ended = event
        self._job.emit(event)


def _told(error: LabError, *, restarting: bool) -> LabError:
    """What a client may know of an error: an engine's own words stay in the server's log."""
    if not isinstance(error, EngineFailed):
        return error
    _log.error("A run stopped the engine.", exc_info=error)
    cause = type(error.__cause__).__name__ if error.__cause__ is not None else "no reason given"
    hint = "Other jobs are not affected. The server's log says more."
    return EngineFailed(
        f"The engine stopped while running this job ({cause}).",
        hint="The engine restarts; try again in a while." if restarting else hint,
        node=error.node,
    )
