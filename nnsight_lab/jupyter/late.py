"""A cell whose run goes on in the background: what it says at once, and what when it has ended."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from IPython.display import display

from nnsight_lab.errors import LabError, SourceLine
from nnsight_lab.jupyter.body import LAST
from nnsight_lab.jupyter.line import TraceLine
from nnsight_lab.jupyter.recording import Recording
from nnsight_lab.jupyter.shown import show_run
from nnsight_lab.models.run import Run

__all__ = ["Late"]

Render = Callable[[BaseException, TracebackType | None], list[str]]


class Late:
    """The end of one background cell. It comes on the run's own thread, under the cell.

    other: the run to compare with. place: the first line of the cell. render: an error as the lines a notebook shows.
    """

    def __init__(
        self,
        recording: Recording,
        said: TraceLine,
        other: Run | None,
        place: SourceLine,
        render: Render,
    ) -> None:
        self._recording = recording
        self._said = said
        self._other = other
        self._place = place
        self._render = render

    def follow(self, run: Run) -> None:
        """Say that it goes on, and how to wait for it; then, later, how it ended."""
        name = self._said.name
        if not self._said.quiet:
            print(
                f"{run.model.name}: {name} goes on in the background;"
                f" {name}.wait() or await {name} waits, %nnl cancel {name} ends it"
            )
        run.when_done(lambda error: self._ended(run, error))

    def _ended(self, run: Run, error: LabError | None) -> None:
        self._recording.undo_late(error)
        try:
            if error is None:
                self._show(run)
        except LabError as exc:  # a view, a comparison: nobody else would hear of it
            error = exc
        if error is not None:
            print("\n".join(self._render(error.at(self._place), None)))

    def _show(self, run: Run) -> None:
        last = self._recording.late.pop(LAST, None)
        if last is not None:
            display(last)
        show_run(run, self._said, self._other)
