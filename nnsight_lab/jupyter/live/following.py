"""Runs as they happen: tokens and values into a live view, while the model runs.

    with following(model):          # what `%%trace --live` does around its run
        ...

Values of `nl.live_plot` are drawn without it, in a view of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch

from nnsight_lab.contract import Done, Failed, Queued, RunEvent, Saved, Token
from nnsight_lab.errors import Cancelled
from nnsight_lab.jupyter.line import TraceLine
from nnsight_lab.jupyter.live.view import LiveView
from nnsight_lab.models.traced import TracedModel
from nnsight_lab.models.under_way import RunUnderWay, watching
from nnsight_lab.tracing.show import is_plotted, is_shown, label_of

__all__ = ["draw_plots", "followed_by_line", "following"]


class _Follower:
    """One view, and the run that it follows now. values: whether it also lists what is saved."""

    def __init__(self, title: str, *, values: bool) -> None:
        self._values = values
        self._run: RunUnderWay | None = None
        self.view = LiveView(title, cancelled=self._cancel)

    def hear(self, run: RunUnderWay, event: RunEvent | None) -> None:
        """One event of a run."""
        view = self.view
        match event:
            case None:
                self._run = run
                view.begin()
                view.state("running", "running")
            case Queued(place=place):
                view.state("running", f"{place} before it in the queue")
            case Token(ids=ids):
                decode = getattr(getattr(run.model, "tokenizer", None), "decode", str)
                view.token([decode([id]) for id in ids])
            case Saved(name=name, value=value) if is_plotted(name):
                view.point(label_of(name), value)
            case Saved(name=name, value=value) if self._values and not is_shown(name):
                view.value(name, _described(value))
            case Done(seconds=seconds):
                view.state("done", f"{sum(seconds.values()) * 1e3:.0f} ms")
                view.settle()
            case Failed(error=error):
                ended = isinstance(error, Cancelled)
                view.state("failed", "cancelled" if ended else error.message)
                view.settle()

    def _cancel(self) -> None:
        if self._run is not None:
            self._run.cancel()


def _is_peek(run: RunUnderWay) -> bool:
    names = [output.name for output in run.graph.outputs]
    return bool(names) and all(name.startswith("peek_") for name in names)


def _described(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    if value.numel() == 1:
        return f"{value.item():.4g}"
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


@contextmanager
def following(model: TracedModel) -> Iterator[LiveView]:
    """Show a view that follows every run of a model while the block lasts."""
    follower = _Follower(str(model.name), values=True)
    follower.view.begin()
    follower.view.show()

    def watch(run: RunUnderWay, event: RunEvent | None) -> None:
        if run.model.executor is model.executor and not _is_peek(run):
            follower.hear(run, event)

    _followed.append(follower)
    try:
        with watching(watch):
            yield follower.view
    finally:
        _followed.remove(follower)


def followed_by_line(model: TracedModel, said: TraceLine) -> AbstractContextManager[LiveView]:
    """What `--live` opens around the run of a cell."""
    return following(model)


_followed: list[_Follower] = []
"""The views that are followed with now; while there is one, plots are drawn in it."""
_plots: dict[str, _Follower] = {}
_forever = ExitStack()
_lock = threading.Lock()


def draw_plots() -> None:
    """From here on, a run of a cell that has plots shows a view of them."""
    with _lock:
        if not getattr(_forever, "begun", False):
            vars(_forever)["begun"] = True
            _forever.enter_context(watching(_watch_plots))


def _has_plots(run: RunUnderWay) -> bool:
    """Whether a run of a cell, not of a hand on a slider, has values to draw."""
    cell = run.thread == threading.main_thread().ident
    return cell and any(is_plotted(output.name) for output in run.graph.outputs)


def _watch_plots(run: RunUnderWay, event: RunEvent | None) -> None:
    if event is None and not _followed and _has_plots(run):
        follower = _plots[run.id] = _Follower(str(run.model.name), values=False)
        follower.view.begin()
        follower.view.show()
    found = _plots.get(run.id)
    if found is not None:
        found.hear(run, event)
        if isinstance(event, Done | Failed):
            del _plots[run.id]
