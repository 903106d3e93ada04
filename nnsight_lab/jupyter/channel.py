"""A view's wire to its notebook: what Python tells it, and what it asks, while a cell runs too.

JupyterLab hands what a widget says to the shell that published on its comm last. A cell that is
busy publishing would so take every click, and answer it when it has ended. A view has therefore two
models: on the *view* model Python only publishes; the *control* model is only answered on, so what
comes by it is handled on a thread of its own, beside the cell. `channel.js` is the other end.

    channel = Channel(module_of("live/live.js"), style, heard)
    channel.show(html, text)                       # the view, and what is seen without it
    channel.publish("token", {"text": " Paris"})   # from any thread

Data goes as messages, never as traits: nothing of it is written into the notebook. What has been
published is told again to a view that mounts later, in another tab or after a reload.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

import anywidget
import traitlets
from IPython.display import display

__all__ = ["Channel", "Heard", "module_of"]

Heard: TypeAlias = Callable[[str, dict[str, Any], list[bytes]], None]
"""Called with what a view says: its kind, its content, its buffers. On a thread of its own."""

_HERE = Path(__file__).parent
_IMPORT = re.compile(r"^import [^;]* from \"\.[^\"]*channel\.js\";\n", re.MULTILINE)

_NO_ERROR = (
    ".jp-OutputArea-child:has(.{0}) + .jp-OutputArea-child > .jp-OutputArea-output:not(:has(*))"
    " {{display: none}}"
)
"""Where the widget that follows cannot be made, JupyterLab says in a line of text that it could
not, or that it still tries; a widget is never a bare text."""


def module_of(*files: str) -> str:
    """JavaScript files of this folder as one module, with `channel.js` before them."""
    parts = [(_HERE / file).read_text(encoding="utf-8") for file in ("channel.js", *files)]
    return "\n".join(_IMPORT.sub("", part) for part in parts)


class _View(anywidget.AnyWidget):
    """The model that is drawn. Python only publishes on it.

    A page has one style sheet of each `_anywidget_id`: each sheet of ours has its own.
    """

    _css = traitlets.Unicode().tag(sync=True)
    _control = traitlets.Unicode().tag(sync=True)
    _fallback = traitlets.Unicode().tag(sync=True)


class _Control(anywidget.AnyWidget):
    """The model that is answered on, and nothing else."""

    _esm = "export default {}"


class Channel:
    """One view of a notebook. Every method may be called from any thread.

    code: the view's JavaScript module (`module_of`). style: its style sheet.
    heard: called with what the view says; two at once where the view says much, so it locks what
        it changes, and never draws with pyplot.
    """

    def __init__(self, code: str, style: str, heard: Heard) -> None:
        self._heard = heard
        self._lock = threading.RLock()
        self._number = 0
        self._told: dict[Any, tuple[dict[str, Any], list[bytes]]] = {}
        self._fallback: Any = None
        self.control = _Control()
        # Opening it was a publication of the cell that runs now; what is said on it must not wait
        # for that cell. Where ipykernel keeps no such note there is nothing to forget.
        comm: Any = self.control.comm
        comm.__dict__.pop("_reply_subshell_id", None)
        self.control.on_msg(self._take)
        sheet = f"nnsight_lab-{crc32(style.encode()):08x}"
        self.view = _View(
            _esm=code, _css=style, _control=self.control.model_id, _anywidget_id=sheet
        )
        self.view._fallback = f"nnl-fallback-{self.view.model_id}"  # noqa: SLF001

    def publish(
        self,
        kind: str,
        content: Mapping[str, Any] | None = None,
        buffers: Sequence[bytes] = (),
        *,
        keep: str | None = "",
    ) -> None:
        """Tell every view of it.

        keep: what a view that mounts later is told of it. "": this too. None: nothing. A name:
            only the last message of that name.
        """
        with self._lock:
            self._number += 1
            message = {"kind": kind, "number": self._number, "content": dict(content or {})}
            if keep is not None:
                self._told.pop(keep, None)
                self._told[keep or self._number] = (message, list(buffers))
            self.view.send(message, list(buffers))

    def forget(self) -> None:
        """A view that mounts later is told nothing of what was published until now."""
        with self._lock:
            self._told.clear()

    def show(self, html: str, text: str) -> None:
        """Display the view, and before it what is read where no view is: on GitHub, in a file."""
        bundle = {"text/html": self._wrapped(html), "text/plain": text}
        self._fallback = display(bundle, raw=True, display_id=True)
        mime = "application/vnd.jupyter.widget-view+json"
        model = {"version_major": 2, "version_minor": 0, "model_id": self.view.model_id}
        display({mime: model}, raw=True)

    def fall_back(self, html: str, text: str) -> None:
        """Change what is read where no view is."""
        if self._fallback is not None:
            bundle = {"text/html": self._wrapped(html), "text/plain": text}
            self._fallback.update(bundle, raw=True)

    def close(self) -> None:
        """Close both models; the views go, and the fallback is seen again."""
        self.view.close()
        self.control.close()

    def _wrapped(self, html: str) -> str:
        name = self.view._fallback  # noqa: SLF001
        return f'<style>{_NO_ERROR.format(name)}</style><div class="{name}">{html}</div>'

    def _take(self, _: Any, message: dict[str, Any], buffers: list[Any]) -> None:
        kind = message.get("kind")
        if kind == "hello":
            self._greet(message)
        elif isinstance(kind, str) and kind != "nudge":
            content = message.get("content")
            plain = content if isinstance(content, dict) else {}
            self._heard(kind, plain, [bytes(buffer) for buffer in buffers or ()])

    def _greet(self, message: dict[str, Any]) -> None:
        """Answer a view that mounts: where it was heard, and all it has missed."""
        beside = threading.current_thread() is not threading.main_thread()
        with self._lock:
            told = list(self._told.values())
            answer = {
                "kind": "hello",
                "view": message.get("view"),
                "beside": beside,
                "until": self._number,
                "told": [[part, len(buffers)] for part, buffers in told],
            }
            self.control.send(answer, [buffer for _, buffers in told for buffer in buffers])
