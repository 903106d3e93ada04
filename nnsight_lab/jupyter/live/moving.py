"""Sliders of a run under the hand: moved in the browser, run here, drawn there.

run.live()                                  # its sliders, and pictures of what it saved
run.live(lambda run: run["logits"][0, -1].softmax(-1)[:40])
"""

from __future__ import annotations

import threading

from nnsight_lab.errors import BadSlider
from nnsight_lab.jupyter.live.pictures import Picture, draw
from nnsight_lab.jupyter.live.view import LiveView, Move
from nnsight_lab.models.latest import Latest
from nnsight_lab.models.run import Run
from nnsight_lab.tracing.source import for_the_user

__all__ = ["Moving", "RunLive"]


class Moving:
    """One run's sliders. run: as it is where the sliders stand now."""

    def __init__(self, run: Run, picture: Picture | None = None) -> None:
        self.run = run
        self._picture = picture
        self._first = run
        self._lock = threading.Lock()
        self._at = {name: slider.value for name, slider in run.sliders.items()}
        self._whole = {name for name, value in self._at.items() if type(value) is int}
        self.latest: Latest[tuple[dict[str, float], Move], Run] = Latest(
            lambda wanted: self._first.at(**wanted[0]), self._found, self._failed
        )
        self.view = LiveView(str(run.model.name), moved=self._move, cancelled=self.latest.cancel)
        self.view.begin()
        self.view.sliders(run.sliders)
        draw(self.view, run, picture)
        self.view.state("ready", "")

    def __repr__(self) -> str:
        return f"<live: {', '.join(map(str, self.run.sliders.values()))}>"

    def show(self) -> None:
        """Display it in the cell that runs now."""
        self.view.show()

    def _move(self, name: str, value: float, move: Move) -> None:
        with self._lock:
            if name not in self._at:
                return
            self._at[name] = round(value) if name in self._whole else float(value)
            wanted = dict(self._at)
            # Under the lock: what was moved last is wanted last.
            self.latest.want((wanted, move))

    def _found(self, wanted: tuple[dict[str, float], Move], run: Run) -> None:
        self.run = run
        draw(self.view, run, self._picture)
        took_ms = sum(run.seconds.values()) * 1e3
        self.view.state("ready", f"{took_ms:.0f} ms", move=wanted[1], at=wanted[0])
        with self._lock:
            settled = wanted[0] == self._at
        if settled:
            self.view.settle()

    def _failed(self, wanted: tuple[dict[str, float], Move], error: Exception) -> None:
        self.view.state("failed", str(error).partition("\n")[0])


class RunLive:
    """`run.live`: call it to show the run's sliders."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __call__(self, picture: Picture | None = None) -> Moving:
        """Show the run's sliders, and a picture that follows them; gives what moves them.

        picture: makes of a run what is drawn: a number, a vector, labels with numbers, or several
            of them by name. By default what the run saved.

        Raises:
            BadSlider: the run has no sliders.
        """
        if not self._run.sliders:
            raise for_the_user(
                BadSlider("This run has no sliders.", hint='nl.slider("strength", 0, 8) makes one.')
            )
        moving = Moving(self._run, picture)
        moving.show()
        return moving
