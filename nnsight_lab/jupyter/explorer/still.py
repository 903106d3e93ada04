"""What is seen of an explorer without a kernel: on GitHub, in a saved notebook, in an export.

The prompt's tokens at first; then the tab that was open last, as far as it has got numbers. Nothing
runs for it: it is drawn of what the tabs have told their browser.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nnsight_lab.jupyter.explorer.still_parts import Piece, line
from nnsight_lab.jupyter.explorer.still_tabs import TABS, tokens_piece
from nnsight_lab.jupyter.explorer.subject import Subject
from nnsight_lab.jupyter.explorer.view import Sheet, Wanted

__all__ = ["Quiet", "Still", "is_captured"]

_ROOM = 38_000
"""Bytes of a still picture in a notebook file; ten of them go into 400 kB."""
_MOMENT = 0.4
"""Seconds without anything new until it is drawn."""


@dataclass
class _Held:
    """What a tab has told: the sheets that a browser would draw it of."""

    job: int = -1
    wanted: Wanted = field(default_factory=dict)
    sheets: list[Sheet] = field(default_factory=list)

    def take(self, job: int, wanted: Wanted, sheet: Sheet) -> None:
        """As `main.js` does."""
        if job < self.job:
            return
        if sheet.topic:
            self.sheets = [held for held in self.sheets if held.topic != sheet.topic]
        elif job != self.job or not (self.sheets and self.sheets[-1].part):
            self.sheets = []
        self.job, self.wanted = job, wanted
        self.sheets = [*self.sheets, sheet]


class Still:
    """The tab in front, or the prompt with its tokens apart. May be used from any thread.

    title: its first line. selection: the explorer's, which is looked at whenever this is drawn.
    """

    def __init__(
        self, subject: Subject, title: str, selection: Mapping[str, int] | None = None
    ) -> None:
        self._subject = subject
        self._title = title
        self._selection = selection if selection is not None else {}
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._opened: list[str] = []

    def open(self, view: str) -> None:
        """This tab is in front now."""
        with self._lock:
            self._opened = [*(name for name in self._opened if name != view), view]

    def learn(self, view: str, wanted: Wanted, sheet: Sheet, job: int = 0) -> None:
        """Take what a tab tells its browser."""
        with self._lock:
            self._held.setdefault(view, _Held()).take(job, wanted, sheet)

    def drawn(self) -> tuple[str, str]:
        """As HTML and as text."""
        with self._lock:
            opened = list(reversed(self._opened))
            held = {name: (each.wanted, each.sheets) for name, each in self._held.items()}
        token = self._selection.get("token", len(self._subject.tokens) - 1)
        head = line(self._title)
        end = Piece("<div>Run the cell again to explore: lens, attention, patching and more.</div>")
        room = _ROOM - head.size - end.size - 400
        for name in (*opened, "tokens"):
            if name in held and name in TABS:
                body = self._body(name, *held[name], token, room)
                if body is not None and body.size <= room:
                    break
        else:
            body = tokens_piece(self._subject, {}, [], token, room)
        whole = head + body + end
        look = "font-family:monospace"
        skip = 'class="tex2jax_ignore mathjax_ignore"'
        return f'<div {skip} style="{look}">{whole.html}</div>', whole.text

    def _body(
        self, name: str, wanted: Wanted, sheets: list[Sheet], token: int, room: int
    ) -> Piece | None:
        try:
            return TABS[name](self._subject, wanted, sheets, token, room)
        except Exception:  # noqa: BLE001 - there is no cell to say it in; another tab is shown
            return None


def is_captured() -> bool:
    """Whether a cell keeps what is displayed now, as `%%capture` does: what others display, too."""
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.getipython import get_ipython

    shell: Any = get_ipython()
    return isinstance(getattr(shell, "display_pub", None), CapturingDisplayPublisher)


class Quiet:
    """Something that is done when for a moment nobody has asked for it. May be used from any thread."""

    def __init__(self, do: Callable[[], None], moment: float = _MOMENT) -> None:
        self._do = do
        self._moment = moment
        self._lock = threading.Lock()
        self._doing = threading.Lock()
        self._timer: threading.Timer | None = None

    def soon(self) -> None:
        """Do it in a moment, if nobody asks again until then."""
        self._next(threading.Timer(self._moment, self._now))

    def cancel(self) -> None:
        """Do not do it, unless it is being done."""
        self._next(None)

    def _now(self) -> None:
        with self._doing:
            self._do()

    def _next(self, timer: threading.Timer | None) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = timer
            if timer is not None:
                timer.daemon = True
                timer.name = "explorer-still"
                timer.start()
