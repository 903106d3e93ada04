"""Whether the connected lab answers, what it serves and its queue: asked every other second.

Asked only while a page shows it. Of the queue come numbers of runs, never whose they are.

A thread of its own, because a server that is gone takes its time to say so. It connects anew to a
server that has come back, so that the next cell need not. A lab that was closed is left alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from nnsight_lab.errors import LabError
from nnsight_lab.models.lab import Lab
from nnsight_lab.wire import ModelSummary

__all__ = ["ServerWatch"]

_EVERY_S = 2.0


class ServerWatch:
    """Keeps `row` up to date. lab: the connected lab and its variable, asked anew each time.

    wanted: whether anybody looks; the thread ends when nobody does. wake: called after a change.
    """

    def __init__(
        self,
        lab: Callable[[], tuple[str, Lab] | None],
        wanted: Callable[[], bool],
        wake: Callable[[], None],
    ) -> None:
        self._lab = lab
        self._wanted = wanted
        self._wake = wake
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._soon = threading.Event()
        self.row: dict[str, Any] = {"state": "none"}

    def begin(self) -> None:
        """Start asking, unless it does already; ask now, not in two seconds."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._watch, name="nnsight-lab-sidebar-server", daemon=True
                )
                self._thread.start()
        self._soon.set()

    def _watch(self) -> None:
        while True:
            self._soon.clear()
            self._look()
            self._soon.wait(_EVERY_S)
            with self._lock:
                if not self._wanted():
                    self._thread = None
                    return

    def _look(self) -> None:
        found = self._lab()
        if found is None:
            self._set({"state": "none"})
            return
        variable, lab = found
        state = lab.client.state
        if state == "closed":
            self._set({"state": "closed", "url": lab.url, "variable": variable})
            return
        if state == "lost":  # said at once: connecting may take long
            self._set({"state": "lost", "url": lab.url, "variable": variable})
        self._set(_asked(variable, lab))

    def _set(self, row: dict[str, Any]) -> None:
        if row != self.row:
            self.row = row
            self._wake()


def _asked(variable: str, lab: Lab) -> dict[str, Any]:
    about: dict[str, Any] = {"url": lab.url, "variable": variable}
    try:
        models = lab.client.models()
    except LabError as exc:
        return about | {"state": "lost", "error": exc.message}
    return about | {
        "state": "open",
        "models": [_model_row(model) for model in models],
        "queue": [
            {
                "name": model.name,
                "state": model.state,
                "running": model.running,
                "waiting": model.waiting,
            }
            for model in models
            if model.running is not None and model.waiting is not None
        ],
    }


def _model_row(model: ModelSummary) -> dict[str, Any]:
    """What stays as it is while runs come and go: an open tree of modules is not drawn anew."""
    if not model.architecture:
        return {"name": model.name, "where": "", "about": model.state}
    return {
        "name": model.name,
        "where": f"{model.engine} ({model.device})",
        "about": f"{model.architecture}, {model.layers} layers",
    }
