"""Showing how far runs are, for those that take longer than half a second.

    watching(Follower(line))         # `line(run)` gives a `Line` to write on, or None

One thread writes for all runs, so that a run is not held up by what is shown of it; a short run
costs two look-ups. On a terminal a line on stderr is there by itself (`on_a_terminal`).
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Protocol

from nnsight_lab.contract import Done, Failed, RunEvent

if TYPE_CHECKING:
    from nnsight_lab.models.under_way import RunUnderWay

__all__ = ["AFTER_S", "Follower", "Line", "TerminalLine", "on_a_terminal"]

AFTER_S = 0.5
"""Runs that end sooner are not shown."""
_EVERY_S = 0.1


class Line(Protocol):
    """Where one run is shown."""

    def show(self, text: str, share: float | None) -> None:
        """Show how far it is, in place of what was shown before."""
        ...

    def end(self) -> None:
        """It has ended; leave nothing behind."""
        ...


class _Going:
    """One run that is followed. context: of whoever began it; output belongs to that."""

    def __init__(self, run: RunUnderWay, context: Context) -> None:
        self.run = run
        self.context = context
        self.line: Line | None = None
        self.asked = self.ended = False
        self.lock = threading.Lock()

    def look(self, line_for: Callable[[RunUnderWay], Line | None]) -> None:
        run = self.run
        with self.lock:
            if self.ended or run.progress.seconds < AFTER_S:
                return
            if not self.asked:
                self.asked, self.line = True, line_for(run)
            if self.line is not None:
                text = f"{run.model.name}: {run.progress.text}, {run.progress.seconds:.0f} s"
                self.line.show(text, run.progress.share)

    def end(self) -> None:
        with self.lock:
            self.ended = True
            if self.line is not None:
                self.line.end()


class Follower:
    """A watcher that shows runs on lines.

    line_for: gives a line for a run that takes long, or None. wanted: whether to show any.
    """

    def __init__(
        self,
        line_for: Callable[[RunUnderWay], Line | None],
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._line_for = line_for
        self._wanted = wanted
        self._going: dict[str, _Going] = {}
        self._some = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __call__(self, run: RunUnderWay, event: RunEvent | None) -> None:
        """Told of each event of each run, on the run's thread."""
        if event is None:
            if run.model.settings.progress and self._wanted():
                self._going[run.id] = _Going(run, copy_context())
                self._some.set()
                self._begin()
        elif isinstance(event, Done | Failed):
            self._end(run.id)

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._go, name="nnsight-lab-progress", daemon=True
                )
                self._thread.start()

    def _end(self, id: str) -> None:
        going = self._going.pop(id, None)
        if going is not None:
            with contextlib.suppress(Exception):  # as below
                going.context.copy().run(going.end)

    def _go(self) -> None:
        while True:
            self._some.wait()
            self._some.clear()
            while self._going:
                time.sleep(_EVERY_S)
                for id, going in list(self._going.items()):
                    if going.run.over:  # interrupted: it has no last event
                        self._end(id)
                        continue
                    # What cannot be shown must not end the run that it is shown of.
                    with contextlib.suppress(Exception):
                        going.context.copy().run(going.look, self._line_for)


class TerminalLine:
    """The last line of a terminal, written over and over."""

    def __init__(self, stream: Any, wide: int = 80) -> None:
        self._stream = stream
        self._wide = wide

    def show(self, text: str, share: float | None) -> None:
        """Write the line; with a bar, where a share is known."""
        bar = ""
        if share is not None:
            full = round(20 * share)
            bar = f" [{'#' * full}{'.' * (20 - full)}]"
        self._stream.write(f"\r\x1b[2K{(text + bar)[: self._wide - 1]}")
        self._stream.flush()

    def end(self) -> None:
        """Clear the line."""
        self._stream.write("\r\x1b[2K")
        self._stream.flush()


_on_it = threading.Lock()


class _TheOnly(TerminalLine):
    """A terminal has one last line: for the run that came first."""

    def end(self) -> None:
        super().end()
        _on_it.release()


def _line_of_terminal(_: RunUnderWay) -> Line | None:
    import shutil

    if not _on_it.acquire(blocking=False):
        return None
    return _TheOnly(sys.stderr, shutil.get_terminal_size().columns)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


on_a_terminal = Follower(_line_of_terminal, _is_terminal)
"""Shows the runs of every program whose stderr is a terminal."""
