"""An end to how long runs may take: what has not ended by then is cancelled, and says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nnsight_lab.errors import TimedOut
from nnsight_lab.models.under_way import RunUnderWay, watching

if TYPE_CHECKING:
    from nnsight_lab.models.run import Run

__all__ = ["cancelled_after", "ended_after"]


def _too_long(seconds: float) -> TimedOut:
    return TimedOut(
        f"The run took longer than {seconds:g} s, and was cancelled.",
        hint="Give it longer, or ask for less; what is queued on a server waits for others.",
    )


@contextmanager
def cancelled_after(seconds: float | None) -> Iterator[None]:
    """Cancel what this thread runs in the block after so many seconds in all; None for never.

    Raises:
        TimedOut: from the run that was cancelled.
    """
    if seconds is None:
        yield
        return
    mine, over = threading.get_ident(), threading.Event()
    going: list[RunUnderWay] = []

    def watcher(run: RunUnderWay, event: Any) -> None:
        if run.thread == mine and event is None:
            going[:] = [run]
            if over.is_set():
                run.cancel(_too_long(seconds))

    def stop() -> None:
        over.set()
        for run in going:
            run.cancel(_too_long(seconds))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        with watching(watcher):
            yield
    finally:
        timer.cancel()


def ended_after(run: Run, seconds: float | None) -> None:
    """Cancel a run in the background that has not ended after so many seconds from now."""
    behind = run.behind
    if seconds is None or behind is None:
        return
    timer = threading.Timer(seconds, lambda: behind.cancel(_too_long(seconds)))
    timer.daemon = True
    timer.start()
    run.when_done(lambda _: timer.cancel())
