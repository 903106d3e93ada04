"""Ending a recipe that takes many runs, from another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from nnsight_lab.errors import Cancelled
from nnsight_lab.models.under_way import RunUnderWay, watching

__all__ = ["Cancel", "cancelled_by"]


class Cancel:
    """Ends a recipe from another thread: the run that is under way, and those after it.

    cancel = Cancel()
    button.on_click(lambda _: cancel.cancel())
    activation_patching(lm, clean, corrupt, metric, cancel=cancel)     # raises Cancelled
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self._run: RunUnderWay | None = None

    @property
    def asked(self) -> bool:
        """Whether it was cancelled."""
        return self._asked

    def cancel(self) -> None:
        """End it, from any thread. What has arrived until then stays."""
        with self._lock:
            self._asked, run = True, self._run
        if run is not None:
            run.cancel()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While the block lasts, the runs of this thread are those to cancel.

        Raises:
            Cancelled: it was asked for before.
        """
        if self._asked:
            raise Cancelled("This was cancelled.", hint="Call it again, with another Cancel().")
        thread = threading.get_ident()

        def watch(run: RunUnderWay, _: Any) -> None:
            if run.thread == thread:
                with self._lock:
                    self._run, asked = run, self._asked
                if asked:  # also when it was asked for before the run could hear of it
                    run.cancel()

        try:
            with watching(watch):
                yield
        finally:
            with self._lock:
                self._run = None


def cancelled_by(cancel: Cancel | None) -> Any:
    """The block of runs that `cancel` ends, where there is one."""
    return nullcontext() if cancel is None else cancel.watched()
