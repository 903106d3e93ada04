"""One live view: what is told to `live.js`, and what stands in for it where there is no kernel.

Every method may be called from any thread. What is told goes as messages; the saved notebook holds
only the text that `settle` writes.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnsight_lab.ir import Slider
from nnsight_lab.jupyter.channel import Channel, module_of

__all__ = ["LiveView"]

_LONGEST = 4096
"""A curve has at most so many points; a longer vector is thinned out."""


@cache
def _style() -> str:
    return (Path(__file__).parent / "live.css").read_text(encoding="utf-8")


class LiveView:
    """Sliders, tokens, curves, bars and values, drawn as they are told.

    moved: called with a slider's name, where it was moved to, and the number of the move.
    cancelled: called when Cancel is pressed. Both on a thread of their own, while a cell runs too.
    """

    def __init__(
        self,
        title: str,
        *,
        moved: Callable[[str, float, int], None] = lambda _name, _value, _move: None,
        cancelled: Callable[[], None] = lambda: None,
    ) -> None:
        self._title = title
        self._moved = moved
        self._cancelled = cancelled
        self._text: list[list[str]] = []
        self._lines: dict[str, str] = {}
        self._state = ""
        self.channel = Channel(module_of("live/live.js"), _style(), self._heard)

    def show(self) -> None:
        """Display it in the cell that runs now."""
        self.channel.show(*self._fallback())

    def begin(self) -> None:
        """A run begins: what was drawn of the one before it goes."""
        self._text, self._lines = [], {}
        self.channel.publish("begin", {"title": self._title}, keep="begin")

    def sliders(self, sliders: Mapping[str, Slider]) -> None:
        """The sliders that can be moved."""
        items = [
            {"name": s.name, "low": s.low, "high": s.high, "step": s.step, "value": s.value}
            for s in sliders.values()
        ]
        self.channel.publish("sliders", {"items": items}, keep="sliders")

    def token(self, texts: Sequence[str]) -> None:
        """One token of each row was sampled."""
        rows = self._text or [[] for _ in texts]
        self._text = [[*row, text] for row, text in zip(rows, texts, strict=False)]
        self.channel.publish("token", {"texts": list(texts)})

    def tokens(self, rows: Sequence[Sequence[str]]) -> None:
        """All tokens of each row, in place of those that were there."""
        self._text = [list(row) for row in rows]
        self.channel.publish("tokens", {"rows": self._text}, keep="tokens")

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

    def bars(self, name: str, bars: Mapping[str, float]) -> None:
        """A number for each label."""
        numbers = np.array(list(bars.values()), np.float32)
        self._lines[name] = f"{name}: " + ", ".join(
            f"{label!r} {value:.3g}" for label, value in bars.items()
        )
        content = {"name": name, "labels": list(bars)}
        self.channel.publish("bars", content, [numbers.tobytes()], keep=f"bars {name}")

    def value(self, name: str, text: str) -> None:
        """A value in words."""
        self._lines[name] = f"{name}: {text}"
        self.channel.publish("value", {"name": name, "text": text}, keep=f"value {name}")

    def state(self, word: str, text: str, move: int = 0) -> None:
        """How the run is: `running` (it can be cancelled), `done`, `failed`, `ready`.

        move: of a slider; all that follows from it has been told.
        """
        self._state = text
        content = {"word": word, "text": text, "move": move}
        self.channel.publish("state", content, keep="state")

    def settle(self) -> None:
        """Write what is seen now into the notebook, for readers without a kernel."""
        self.channel.fall_back(*self._fallback())

    def _fallback(self) -> tuple[str, str]:
        rows = ["".join(row) for row in self._text]
        lines = [f"{self._title}  {self._state}".rstrip(), *rows, *self._lines.values()]
        return f"<pre>{html.escape(chr(10).join(lines))}</pre>", "\n".join(lines)

    def _heard(self, kind: str, content: dict[str, Any], _: list[bytes]) -> None:
        if kind == "cancel":
            self._cancelled()
        elif kind == "move":
            self._moved(str(content["name"]), content["value"], int(content["move"]))


def _numbers(value: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    plain = value.detach().float().cpu().reshape(-1) if isinstance(value, torch.Tensor) else value
    numbers = np.asarray(plain, np.float32).reshape(-1)
    every = -(-len(numbers) // _LONGEST) or 1
    return np.ascontiguousarray(numbers[::every])


def _said(numbers: np.ndarray[Any, Any]) -> str:
    if len(numbers) == 1:
        return f"{numbers[0]:.4g}"
    return f"{len(numbers)} numbers, {numbers.min():.4g} to {numbers.max():.4g}"
