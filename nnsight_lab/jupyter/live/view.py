"""One live view: what is told to `live.js`, and what stands in for it where there is no kernel.

Every method may be called from any thread. What is told goes as messages; the saved notebook holds
only the text that `settle` writes.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from nnsight_lab.ir import Slider
from nnsight_lab.jupyter.channel import Channel, module_of

__all__ = ["NO_MOVE", "LiveView", "Move"]

Move: TypeAlias = tuple[int, str]
"""The number of a slider's move, and the view of a page in which it was moved."""

NO_MOVE: Move = (0, "")
"""Nobody moved anything."""

_LONGEST = 4096
"""A curve has at most so many points; a longer vector is thinned out."""


@cache
def _style() -> str:
    return (Path(__file__).parent / "live.css").read_text(encoding="utf-8")


class LiveView:
    """Sliders, tokens, curves, bars and values, drawn as they are told.

    moved: called with a slider's name, where it was moved to, and the move: its number, and the
        page's view in which a hand moved it.
    cancelled: called when Cancel is pressed. Both on a thread of their own, while a cell runs too.
    """

    def __init__(
        self,
        title: str,
        *,
        moved: Callable[[str, float, Move], None] = lambda _name, _value, _move: None,
        cancelled: Callable[[], None] = lambda: None,
    ) -> None:
        self._title = title
        self._moved = moved
        self._cancelled = cancelled
        self._written: tuple[str, ...] = ()
        self._lines: dict[str, str] = {}
        self._state = ""
        self._at: dict[str, float] = {}
        self.channel = Channel(module_of("live/live.js"), _style(), self._heard)

    def show(self) -> None:
        """Display it in the cell that runs now."""
        self.channel.show(*self._fallback())

    def begin(self) -> None:
        """A run begins: what was drawn of the one before it goes."""
        self._written, self._lines = (), {}
        self.channel.publish("begin", {"title": self._title}, keep="begin")

    def sliders(self, sliders: Mapping[str, Slider]) -> None:
        """The sliders that can be moved."""
        items = [
            {"name": s.name, "low": s.low, "high": s.high, "step": s.step, "value": s.value}
            for s in sliders.values()
        ]
        self.channel.publish("sliders", {"items": items}, keep="sliders")

    def token(self, chips: Sequence[str]) -> None:
        """One token of each row was sampled, as text that can be seen."""
        self.channel.publish("token", {"texts": list(chips)})

    def tokens(self, rows: Sequence[Sequence[str]]) -> None:
        """All tokens of each row, in place of those that were there."""
        self.channel.publish("tokens", {"rows": [list(row) for row in rows]}, keep="tokens")

    def written(self, rows: Sequence[str]) -> None:
        """What the tokens of each row read as, for readers without a kernel."""
        self._written = tuple(rows)

    def point(self, name: str, value: Any) -> None:
        """One more step of a curve: a number, or a vector."""
        self._curve("point", name, value, keep="")

    def line(self, name: str, value: Any) -> None:
        """A vector as a curve, in place of the one that was there."""
        self._curve("line", name, value, keep=f"line {name}")

    def _curve(self, kind: str, name: str, value: Any, keep: str) -> None:
        numbers = _numbers(value)
        self._lines[name] = f"{name}: {_said(numbers)}"
        self.channel.publish(kind, {"name": name}, [numbers.tobytes()], keep=keep)

    def bars(self, name: str, bars: Sequence[tuple[str, float]]) -> None:
        """A number for each label; labels may be alike."""
        numbers = np.array([value for _, value in bars], np.float32)
        self._lines[name] = f"{name}: " + ", ".join(f"{label} {value:.3g}" for label, value in bars)
        content = {"name": name, "labels": [label for label, _ in bars]}
        self.channel.publish("bars", content, [numbers.tobytes()], keep=f"bars {name}")

    def value(self, name: str, text: str) -> None:
        """A value in words."""
        self._lines[name] = f"{name}: {text}"
        self.channel.publish("value", {"name": name, "text": text}, keep=f"value {name}")

    def state(
        self, word: str, text: str, move: Move = NO_MOVE, at: Mapping[str, float] | None = None
    ) -> None:
        """How the run is: `running` (it can be cancelled), `done`, `failed`, `ready`.

        move: of a slider; all that follows from it has been told. at: where the sliders stand in
        what is drawn; views in which no hand moved them follow.
        """
        self._state = text
        self._at = self._at if at is None else dict(at)
        content = {"word": word, "text": text, "move": list(move), "at": self._at}
        self.channel.publish("state", content, keep="state")

    def settle(self) -> None:
        """Write what is seen now into the notebook, for readers without a kernel."""
        self.channel.fall_back(*self._fallback())

    def _fallback(self) -> tuple[str, str]:
        head = f"{self._title}  {self._state}".rstrip()
        lines = [head, *self._written, *self._lines.values()]
        return f"<pre>{html.escape(chr(10).join(lines))}</pre>", "\n".join(lines)

    def _heard(self, kind: str, content: dict[str, Any], _: list[bytes]) -> None:
        if kind == "cancel":
            self._cancelled()
        elif kind == "move":
            move = (int(content["move"]), str(content.get("by", "")))
            self._moved(str(content["name"]), content["value"], move)


def _numbers(value: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    plain = value.detach().float().cpu().reshape(-1) if isinstance(value, torch.Tensor) else value
    numbers = np.asarray(plain, np.float32).reshape(-1)
    every = -(-len(numbers) // _LONGEST) or 1
    return np.ascontiguousarray(numbers[::every])


def _said(numbers: np.ndarray[Any, Any]) -> str:
    if len(numbers) < 2:
        return f"{numbers[0]:.4g}" if len(numbers) else "nothing"
    return f"{len(numbers)} numbers, {numbers.min():.4g} to {numbers.max():.4g}"
