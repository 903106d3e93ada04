"""The progress bar of a notebook: plain HTML under the cell, updated in place, gone at the end."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any
from uuid import uuid4

from IPython.display import publish_display_data

from nnsight_lab.models.following import AFTER_S, Follower
from nnsight_lab.models.under_way import follow_always

__all__ = ["Bar", "bar_html", "bars_in", "loading"]


class Bar:
    """One line in a notebook's output. Shown with the first `show`."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._last = ""

    def show(self, text: str, share: float | None) -> None:
        """Put this text, and a bar as long as the share, in place of what was there."""
        if text != self._last:
            self._last = text
            self._publish({"text/plain": text, "text/html": bar_html(text, share)})

    def end(self) -> None:
        """Leave nothing behind: the line about time and size says it all."""
        if self._id is not None:
            self._publish({"text/plain": "", "text/html": ""})

    def _publish(self, data: dict[str, str]) -> None:
        update = self._id is not None
        self._id = self._id or uuid4().hex
        publish_display_data(data, transient={"display_id": self._id}, update=update)


def bar_html(text: str, share: float | None) -> str:
    """The line as HTML, in the colours of the notebook's theme."""
    style = "height:6px;border-radius:3px;width:220px;background:var(--jp-border-color2,#ccc)"
    full = "" if share is None else _full(share)
    bar = f'<div style="{style}">{full}</div>' if full else ""
    return (
        '<div role="status" style="display:flex;align-items:center;gap:10px;font-size:12px;'
        f'color:var(--jp-ui-font-color1,#333)">{bar}<span>{escape(text)}</span></div>'
    )


def _full(share: float) -> str:
    style = "height:6px;border-radius:3px;background:var(--jp-brand-color1,#1976d2)"
    return f'<div style="{style};width:{100 * share:.0f}%"></div>'


_installed: list[Callable[[], None]] = []


def bars_in(shell: Any) -> None:
    """Show bars for the long runs of a shell that has a notebook in front of it."""
    if getattr(shell, "kernel", None) is None:
        return  # a terminal has its own line
    while _installed:
        _installed.pop()()
    _installed.append(follow_always(Follower(lambda _: Bar())))


@contextmanager
def loading(what: str, shell: Any) -> Iterator[None]:
    """Say that something is being loaded, while the block lasts, once it takes long."""
    if getattr(shell, "kernel", None) is None:
        yield
        return
    bar, ended = Bar(), threading.Lock()
    context = contextvars.copy_context()

    def show() -> None:
        with ended:
            if not timer.finished.is_set():
                context.run(bar.show, f"loading {what}", None)

    timer = threading.Timer(AFTER_S, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with ended:
            timer.cancel()
            bar.end()
