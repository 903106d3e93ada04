"""Explorer: the widget's Python half. It hands each tab's questions to its view and tells the answers.

    browser  ──ask──▶  Explorer ──▶ Work (a thread a tab) ──▶ View.ask ──▶ Sheet  ──data──▶  browser

Every message of the browser comes on a thread of its own, so nothing here waits for a cell.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from keyword import iskeyword
from typing import TYPE_CHECKING, Any

import nnsight_lab
from nnsight_lab.errors import BadInput, Cancelled, LabError
from nnsight_lab.jupyter.channel import Channel
from nnsight_lab.jupyter.explorer.attention import AttentionView
from nnsight_lab.jupyter.explorer.bundle import script, style
from nnsight_lab.jupyter.explorer.features import FeaturesView
from nnsight_lab.jupyter.explorer.lens import LensView
from nnsight_lab.jupyter.explorer.norms import NormsView
from nnsight_lab.jupyter.explorer.patching import PatchingView
from nnsight_lab.jupyter.explorer.space import notebook_variables
from nnsight_lab.jupyter.explorer.steering import SteeringView
from nnsight_lab.jupyter.explorer.still import Quiet, Still, is_captured
from nnsight_lab.jupyter.explorer.subject import Subject
from nnsight_lab.jupyter.explorer.tokens import TokensView
from nnsight_lab.jupyter.explorer.view import Sheet, View, Wanted
from nnsight_lab.jupyter.explorer.work import Job, Work

if TYPE_CHECKING:
    from nnsight_lab.jupyter.figures import LabFigure

__all__ = ["VIEWS", "Explorer"]

VIEWS: tuple[type[View], ...] = (
    TokensView,
    LensView,
    AttentionView,
    PatchingView,
    SteeringView,
    NormsView,
    FeaturesView,
)
"""The tabs, from left to right."""


class Explorer:
    """A prompt on a model, to look at from every side: `nl.explore(lm, prompt)`, `run.explore()`.

    Display it, or make it a cell's last expression. `selection` follows the clicks; `selected` has
    the positions that were chosen together, as with the lasso.
    """

    def __init__(self, subject: Subject, views: Sequence[type[View]] = VIEWS) -> None:
        self.subject = subject
        self.views = {view.name: view(subject) for view in views}
        self.selection: dict[str, int] = {
            "token": len(subject.ids) - 1,
            "layer": subject.layers // 2,
            "head": 0,
        }
        self.selected: list[int] = []
        self._wanted: dict[str, Wanted] = {}
        self._work = {name: Work() for name in self.views}
        self._writing = {name: Work() for name in self.views}
        self._drawing = Work()
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._still = Still(subject, repr(self), self.selection)
        self._fell_back = ("", "")
        self._still_soon = Quiet(self._fall_back)

    def __repr__(self) -> str:
        subject = self.subject
        after = "a run on " if subject.source is not subject.model else ""
        return f"<explorer of {after}{subject.model.name}: {len(subject.ids)} tokens>"

    def _ipython_display_(self) -> None:
        self._fell_back = self._still.drawn()
        self._open().show(*self._fell_back)

    def _open(self) -> Channel:
        with self._lock:
            if self._channel is None:
                self._channel = Channel(script(), style(), self._hear)
                self._channel.publish("about", self._about(), keep="about")
            return self._channel

    def _about(self) -> dict[str, Any]:
        subject = self.subject
        return {
            "model": subject.model.name,
            "tokens": subject.tokens,
            "ids": subject.ids,
            "layers": subject.layers,
            "edited": subject.edited,
            "run": subject.run_name,
            "selection": self.selection,
            "views": [
                {"name": view.name, "title": view.title, "missing": view.missing}
                for view in self.views.values()
            ],
        }

    def figure(self, view: str = "lens", **wanted: Any) -> LabFigure:
        """What a tab shows, as a Plotly figure; `wanted` over what its controls say now.

        Raises:
            BadInput: there is no such tab, or nothing in it yet.
        """
        found, all_wanted = self._view(view), {**self._wanted.get(view, {}), **wanted}
        found.check(all_wanted)
        return found.figure(all_wanted)

    def code(self, view: str = "lens", **wanted: Any) -> str:
        """What a tab shows, as a `%%trace` cell.

        Raises:
            BadInput: there is no such tab, or nothing in it yet.
        """
        found, all_wanted = self._view(view), {**self._wanted.get(view, {}), **wanted}
        found.check(all_wanted)
        return found.code(all_wanted)

    def _view(self, name: str) -> View:
        if name not in self.views:
            raise BadInput(f"There is no view {name!r}.", hint=f"Views: {', '.join(self.views)}.")
        return self.views[name]

    def close(self) -> None:
        """Stop what it does, and take the widget away; the still picture stays."""
        for work in (*self._work.values(), *self._writing.values(), self._drawing):
            work.cancel()
        self._still_soon.cancel()
        if self._channel is not None:
            self._channel.close()

    # What the browser says

    def _hear(self, kind: str, content: dict[str, Any], _: list[bytes]) -> None:
        name = str(content.get("view", ""))
        if kind == "select":
            known = {key: int(value) for key, value in content.items() if key in self.selection}
            self.selection.update(known)
            self._still_soon.soon()
        elif kind == "choose":
            places = range(len(self.subject.ids))
            self.selected = sorted({int(at) for at in content["positions"]} & {*places})
            self._publish("chosen", {"positions": self.selected}, keep="chosen")
        elif name in self.views and kind == "open":
            self._still.open(name)
            self._still_soon.soon()
        elif name in self.views and kind == "ask":
            self._ask(self.views[name], int(content.get("job", 0)), content.get("wanted") or {})
        elif name in self.views and kind == "cancel":
            self._work[name].cancel()
            self._writing[name].cancel()
        elif name in self.views and kind in {"code", "figure"}:
            self._say_code(self.views[name], kind, content)
        elif name in self.views and kind == "picture":
            draw = partial(self._draw, self.views[name], content.get("wanted") or {})
            self._drawing.begin(int(content.get("request", 0)), draw, self._drawn)

    def _ask(self, view: View, job: int, wanted: Wanted) -> None:
        self._wanted[view.name] = wanted
        self._still.open(view.name)
        self._work[view.name].begin(job, partial(self._do, view, wanted), partial(self._end, view))

    def _do(self, view: View, wanted: Wanted, job: Job) -> None:
        def tell(sheet: Sheet) -> None:
            if job.cancelled:
                raise Cancelled("Something else was wanted.")
            content, buffers = sheet.packed()
            message = {"view": view.name, "job": job.number, "wanted": dict(wanted), **content}
            keep = f"{view.name} {sheet.topic}" if sheet.topic or not sheet.part else None
            self._publish("data", message, buffers, keep=keep)
            self._still.learn(view.name, wanted, sheet, job.number)

        view.ask(wanted, tell)

    def _end(self, view: View, job: Job, error: BaseException | None) -> None:
        message: dict[str, Any] = {"view": view.name, "job": job.number}
        if error is not None:
            message |= _told(error)
        self._publish("ended", message, keep=None)
        self._still_soon.soon()

    def _fall_back(self) -> None:
        """Bring what is seen without a kernel up to date; on a thread of its own, off every job's."""
        drawn = self._still.drawn()
        if drawn == self._fell_back or self._channel is None:
            return
        if is_captured():
            self._still_soon.soon()
            return
        self._fell_back = drawn
        self._channel.fall_back(*drawn)

    def _draw(self, view: View, wanted: Wanted, job: Job) -> None:
        view.check(wanted)
        svg = view.figure(wanted)._svg  # noqa: SLF001
        if not svg:
            raise BadInput("This is too much for an SVG.", hint="Show less of it, or take a PNG.")
        self._publish("picture", {"request": job.number, "svg": svg}, keep=None)

    def _drawn(self, job: Job, error: BaseException | None) -> None:
        if error is not None and not job.cancelled:
            self._publish("picture", {"request": job.number, **_told(error)}, keep=None)

    def _say_code(self, view: View, kind: str, content: dict[str, Any]) -> None:
        """A job of its own: the code of a map may have to run the model first."""
        message: dict[str, Any] = {"view": view.name, "request": content.get("request")}
        wanted = content.get("wanted") or {}

        def write(_: Job) -> None:
            view.check(wanted)
            written = view.code(wanted) if kind == "code" else self._figure_code(view, wanted)
            message["code"] = written

        def end(job: Job, error: BaseException | None) -> None:
            if job.cancelled:
                return
            if error is not None:
                message.update(_told(error))
            self._publish("code", message, keep=None)

        self._writing[view.name].begin(int(content.get("request") or 0), write, end)

    def _figure_code(self, view: View, wanted: Wanted) -> str:
        named = {key: value for key, value in wanted.items() if _is_keyword(key)}
        others = {key: value for key, value in wanted.items() if key not in named}
        options = "".join(f", {key}={value!r}" for key, value in named.items())
        options += f", **{others!r}" if others else ""
        explored = self.subject.explored
        known = notebook_variables().get("nl") is nnsight_lab
        needs = "import nnsight_lab as nl\n" if explored.startswith("nl.") and not known else ""
        return f'{needs}{explored}.figure("{view.name}"{options})'

    def _publish(
        self, kind: str, content: dict[str, Any], buffers: Sequence[bytes] = (), *, keep: str | None
    ) -> None:
        channel = self._channel
        if channel is not None:
            channel.publish(kind, content, buffers, keep=keep)


def _is_keyword(name: str) -> bool:
    """Whether Python may write it as `name=`; `from` it may not."""
    return name.isidentifier() and not iskeyword(name)


def _told(error: BaseException) -> dict[str, Any]:
    """An error as a tab shows it."""
    if isinstance(error, LabError):
        return {"error": error.message, "code_name": error.code, "hint": error.hint or ""}
    return {"error": f"{type(error).__name__}: {error}", "code_name": "error", "hint": ""}
