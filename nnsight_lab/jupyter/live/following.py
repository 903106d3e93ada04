"""Runs as they happen: tokens and values into a live view, while the model runs.

    with following(model):          # what `%%trace --live` does around its run
        ...

Values of `nl.live_plot` are drawn without it, in a view of their own.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch

from nnsight_lab.contract import Done, Failed, Queued, RunEvent, Saved, Started, Token
from nnsight_lab.errors import Cancelled
from nnsight_lab.jupyter.line import TraceLine
from nnsight_lab.jupyter.live.pictures import chips_of, texts_of
from nnsight_lab.jupyter.live.view import LiveView
from nnsight_lab.models.traced import TracedModel
from nnsight_lab.models.under_way import Asker, RunUnderWay, asked_by, asker_now, watching
from nnsight_lab.tracing.show import is_plotted, is_shown, label_of

__all__ = ["draw_plots", "followed_by_line", "following"]


class _Follower:
    """One view, and the run that it follows now. values: whether it also lists what is saved.

    It follows runs of one model, for whoever asked for them: a click in an explorer, or another
    cell that goes on behind, may run the same model meanwhile.
    """

    def __init__(self, model: TracedModel, asker: Asker | None, *, values: bool) -> None:
        self._executor = model.executor
        self._asker = asker
        self._values = values
        self._run: RunUnderWay | None = None
        self._cancelled = False
        self._broken = False
        self._steps: list[tuple[int, ...]] = []
        self.view = LiveView(str(model.name), cancelled=self._cancel)
        self.view.begin()
        self.view.show()

    def follows(self, run: RunUnderWay) -> bool:
        """Whether this is a run to follow."""
        ours = run.asker is self._asker and run.model.executor is self._executor
        return ours and not _is_peek(run)

    def hear(self, run: RunUnderWay, event: RunEvent | None) -> None:
        """One event of a run. What cannot be drawn ends the view, and never the run."""
        if self._broken:
            return
        try:
            self._draw(run, event)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the run is worth more
            self._broken = True
            warnings.warn(f"The live view has stopped: {exc}", RuntimeWarning, stacklevel=2)

    def _draw(self, run: RunUnderWay, event: RunEvent | None) -> None:
        view = self.view
        match event:
            case None:
                first, self._run, self._steps = self._run is None, run, []
                view.begin()
                view.state("running", "running")
                if first and self._cancelled:
                    run.cancel()
            case Queued(place=place):
                view.state("running", f"{place} before it in the queue")
            case Started():
                view.state("running", "running")
            case Token(ids=ids):
                self._steps.append(ids)
                view.token(chips_of(run.model, ids))
            case Saved(name=name, value=value) if is_plotted(name):
                view.point(label_of(name), value)
            case Saved(name=name, value=value) if self._values and not is_shown(name):
                view.value(name, _described(value))
            case Done(seconds=seconds):
                self._end(run, "done", f"{sum(seconds.values()) * 1e3:.0f} ms")
            case Failed(error=error):
                ended = isinstance(error, Cancelled)
                self._end(run, "failed", "cancelled" if ended else error.message)

    def _end(self, run: RunUnderWay, word: str, text: str) -> None:
        self.view.state(word, text)
        self.view.written(texts_of(run.model, self._steps))
        self.view.settle()

    def _cancel(self) -> None:
        """Cancel was pressed; maybe before the run began, which is then ended as it begins."""
        self._cancelled = True
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
    """Show a view that follows the runs of a model that this block asks for, while it lasts."""
    with ExitStack() as stack:
        asker = asker_now() or stack.enter_context(asked_by(Asker()))
        follower = _Follower(model, asker, values=True)

        def watch(run: RunUnderWay, event: RunEvent | None) -> None:
            if follower.follows(run):
                follower.hear(run, event)

        _followed.append(follower)
        stack.callback(_followed.remove, follower)
        stack.enter_context(watching(watch))
        yield follower.view


def followed_by_line(model: TracedModel, said: TraceLine) -> AbstractContextManager[LiveView]:
    """What `--live` opens around the run of a cell."""
    return following(model)


_followed: list[_Follower] = []
"""The views that are open now; plots of the runs that they follow are drawn in them."""
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
    by_hand = run.asker is not None and run.asker.view
    return not by_hand and any(is_plotted(output.name) for output in run.graph.outputs)


def _watch_plots(run: RunUnderWay, event: RunEvent | None) -> None:
    if event is None and _has_plots(run) and not any(view.follows(run) for view in list(_followed)):
        _plots[run.id] = _Follower(run.model, run.asker, values=False)
    found = _plots.get(run.id)
    if found is not None:
        found.hear(run, event)
        if isinstance(event, Done | Failed):
            del _plots[run.id]
