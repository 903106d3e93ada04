"""What became of the runs of this notebook, as plain data: the rows of the sidebar.

A `RunLog` watches the runs of the process. Nothing here draws or sends; `sidebar.py` carries rows
to the page. Runs that a view makes as a hand moves in it are the view's to show, and have no row
here: they are many, and no cell's. It keeps no model and no graph alive: what it needs to run one again it only points at.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from nnsight_lab.contract import (
    Accepted,
    Done,
    Failed,
    Inputs,
    Queued,
    RunEvent,
    Saved,
    Sending,
    Several,
    Started,
    Token,
    TokenRows,
)
from nnsight_lab.errors import Cancelled
from nnsight_lab.ir import Graph
from nnsight_lab.models.traced import TracedModel
from nnsight_lab.models.under_way import RunUnderWay
from nnsight_lab.tracing.show import is_shown

__all__ = ["Cell", "LoggedRun", "RunLog", "Where"]

_KEPT = 50
_PROMPT = 80
_ENDED = {"done", "failed", "cancelled"}

Cell = tuple[str, str]
"""The id of a cell in its notebook, and of one execution of it."""

Where = Callable[[], Cell]
"""Asked on the thread that runs: which cell is it? Empty where it is none."""


@dataclass
class LoggedRun:
    """One run. row: what the sidebar is told of it."""

    row: dict[str, Any]
    model: weakref.ref[TracedModel]
    graph: weakref.ref[Graph]
    inputs: Inputs | None
    prompt: Any
    under_way: RunUnderWay | None = field(default=None, repr=False)
    changed: int = 0

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self.row["state"] in _ENDED


class RunLog:
    """The last runs of this process, oldest first. May be used from several threads.

    where: see `Where`. wake: called after each change, on the thread of the run; must be quick.
    """

    def __init__(self, where: Where, wake: Callable[[], None]) -> None:
        self._where = where
        self._wake = wake
        self._lock = threading.Lock()
        self._runs: dict[str, LoggedRun] = {}
        self._changes = 0

    def watch(self, run: RunUnderWay, event: RunEvent | None) -> None:
        """A watcher for `models.under_way.watching`."""
        if run.asker is not None and run.asker.view:
            return
        with self._lock:
            logged = self._runs.get(run.id)
            if logged is None:
                logged = self._runs[run.id] = _begun(run, self._where())
                self._forget_oldest()
            if event is not None:
                _take(logged, event)
            self._changes += 1
            logged.changed = self._changes
        self._wake()

    def _forget_oldest(self) -> None:
        ended = [id for id, logged in self._runs.items() if logged.ended]
        for id in ended[: max(0, len(self._runs) - _KEPT)]:
            del self._runs[id]

    def rows(self, since: int = 0) -> tuple[int, list[dict[str, Any]]]:
        """The rows that have changed since a number, and the number to ask with next time."""
        now = time.perf_counter()
        with self._lock:
            found = [logged for logged in self._runs.values() if logged.changed > since]
            return self._changes, [_row(logged, now) for logged in found]

    def find(self, id: str) -> LoggedRun | None:
        """A run by its id, or None when it is no longer kept."""
        with self._lock:
            return self._runs.get(id)


def _begun(run: RunUnderWay, cell: Cell) -> LoggedRun:
    where = run.model.card.capabilities
    row = {
        "id": run.id,
        "cell": cell[0],
        "execution": cell[1],
        "model": run.model.name,
        "where": f"{where.engine} ({where.device})",
        "prompt": _in_a_line(run.prompt),
        "state": "begun",
        "steps": 0,
        "of": _steps(run.inputs, run.graph),
        "place": 0,
        "seconds": 0.0,
        "bytes": 0,
        "error": "",
    }
    model, graph = weakref.ref(run.model), weakref.ref(run.graph)
    if not _is_small(run.inputs):
        return LoggedRun(row, model, graph, None, None, under_way=run)
    return LoggedRun(row, model, graph, run.inputs, run.prompt, under_way=run)


def _is_small(inputs: Inputs) -> bool:
    """Whether inputs may be kept: token ids, not tensors of the user's own."""
    parts = inputs.parts if isinstance(inputs, Several) else (inputs,)
    return all(isinstance(part, TokenRows) for part in parts)


def _steps(inputs: Inputs, graph: Graph) -> int:
    """How many steps there are to tell of: tokens of a generation, else values to save."""
    generates = isinstance(inputs, TokenRows) and inputs.generation is not None
    return inputs.passes if generates else len(graph.outputs)  # type: ignore[union-attr]


def _take(logged: LoggedRun, event: RunEvent) -> None:
    row = logged.row
    tokens = isinstance(logged.inputs, TokenRows) and logged.inputs.generation is not None
    match event:
        case Sending(sent_bytes=sent, total_bytes=total):
            row["state"], row["sent"] = "sending", sent / max(total, 1)
        case Accepted():
            row["state"] = "accepted"
        case Queued(place=place):
            row["state"], row["place"] = "queued", place
        case Started():
            row["state"], row["place"] = "running", 0
        case Token(step=step):
            row["steps"] = step + 1 if tokens else row["steps"]
        case Saved(name=name, value=value):
            row["bytes"] += 0 if is_shown(name) else _bytes(value)
            row["steps"] += 0 if tokens else 1
        case Failed(error=error):
            row["state"] = "cancelled" if isinstance(error, Cancelled) else "failed"
            row["error"] = "" if isinstance(error, Cancelled) else _in_a_line(error.message, 200)
            _end(logged, time.perf_counter() - logged.under_way.began if logged.under_way else 0)
        case Done(seconds=seconds, steps=steps):
            row["state"] = "done"
            row["steps"] = steps if tokens else row["steps"]
            _end(logged, sum(seconds.values()))


def _end(logged: LoggedRun, seconds: float) -> None:
    logged.row["seconds"] = seconds
    logged.row["place"] = 0
    logged.under_way = None


def _row(logged: LoggedRun, now: float) -> dict[str, Any]:
    if logged.under_way is None:
        return dict(logged.row)
    return logged.row | {"seconds": now - logged.under_way.began}


def _in_a_line(value: Any, most: int = _PROMPT) -> str:
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        value = value[0] if len(value) == 1 else f"{len(value)} prompts: {value[0]}"
    if not isinstance(value, str):
        value = "" if value is None else f"({type(value).__name__})"
    line = " ".join(value[: 2 * most].split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return sum(map(_bytes, value))
    return 0
