"""Hooks on a torch module, attached for one run. One context manager: attach, listen, detach.

    with TorchHost(module, bindings).attached(points, on_point):
        module(**inputs)                     # on_point(point, value) at every wanted hook point

Hooks stand only on the modules that serve a wanted hook point, and are gone when the block ends,
however it ends. Calls of a module that a graph makes itself (`apply`) are silent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import count
from typing import Any

import torch

from nnsight_lab.errors import Cancelled
from nnsight_lab.executors.attention import listening
from nnsight_lab.executors.inside import INSIDE, overhearing
from nnsight_lab.executors.sites import HookPoint
from nnsight_lab.executors.skipping import skipping
from nnsight_lab.executors.source import OPERATIONS, Hearing, heard
from nnsight_lab.ir import Skip

__all__ = ["OnPoint", "TorchHost"]

OnPoint = Callable[[HookPoint, Any], Any]
"""Given a hook point and what is there; returns what shall be there."""


class TorchHost:
    """A torch module that can be listened to. Implements `runtime.Host`."""

    def __init__(
        self,
        module: torch.nn.Module,
        standard: Mapping[str, str] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._module = module
        self._cancelled = cancelled
        self._standard = dict(standard or {})
        self._silent = False
        self._thread = threading.get_ident()

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter is; the CPU for a model without any."""
        first = next(self._module.parameters(), None)
        return first.device if first is not None else torch.device("cpu")

    def submodule(self, path: str) -> torch.nn.Module:
        """The module behind a path or a standard name."""
        return self._module.get_submodule(self._standard.get(path, path))

    def apply(self, path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a module out of its order, without waking any hook of ours."""
        return self.aside(self.submodule(path), args, kwargs)

    def aside(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Call a function without waking any hook of ours, should it call the model."""
        was, self._silent = self._silent, True
        try:
            return function(*args, **kwargs)
        finally:
            self._silent = was

    def go_on(self) -> None:
        """Raise `Cancelled` when the run is."""
        if self._cancelled():
            raise Cancelled("The run was cancelled.")

    def weight(self, path: str, name: str) -> torch.Tensor:
        """A parameter or buffer."""
        found: torch.Tensor = getattr(self.submodule(path), name)
        return found

    @contextmanager
    def attached(self, points: set[HookPoint], on_point: OnPoint) -> Iterator[None]:
        """Hear of `points` while the block runs, in this thread: others use the model as it is."""
        self._thread = threading.get_ident()
        operations = {point for point in points if point.stage in OPERATIONS}
        hearing = Hearing.of(operations, on_point) if operations else None
        on_point = hearing.tell if hearing is not None else on_point
        by_path: dict[str, set[str]] = {}
        for point in points:
            if point.stage in ("before", "after"):
                by_path.setdefault(point.path, set()).add(point.stage)
        with ExitStack() as stack:
            handles: list[Any] = []
            stack.callback(_remove, handles)
            for path, stages in by_path.items():
                handles.extend(self._hooks(path, stages, points, on_point))
            inside = {point for point in points if point.stage in ("attention", "pattern")}
            if inside:
                stack.enter_context(listening(self._module, inside, self._unless_deaf(on_point)))
            hidden = {point for point in points if point.stage in INSIDE}
            if hidden:
                stack.enter_context(overhearing(self._module, hidden, on_point, self.deaf))
            if hearing is not None:
                paths = tuple(dict.fromkeys(point.path for point in operations))
                stack.enter_context(heard(self._module, paths, hearing, self.deaf))
            yield

    @contextmanager
    def skipping(self, skips: Sequence[Skip], instead: Callable[[Skip], Any]) -> Iterator[None]:
        """Some calls of modules give `instead(skip)` while the block runs, and do not run."""
        with skipping(self._module, skips, instead, self.deaf) if skips else nullcontext():
            yield

    def deaf(self) -> bool:
        """Whether a call of a module now is none of this run's: a graph's own, or a thread's."""
        return self._silent or threading.get_ident() != self._thread

    def _unless_deaf(self, on_point: OnPoint) -> OnPoint:
        return lambda point, value: value if self.deaf() else on_point(point, value)

    def _hooks(
        self, path: str, stages: set[str], points: set[HookPoint], on_point: OnPoint
    ) -> Iterator[Any]:
        module = self._module.get_submodule(path)
        entered = map(partial(HookPoint, "before", path), count())
        left = map(partial(HookPoint, "after", path), count())
        deaf = self.deaf

        def before(_: Any, args: Any, kwargs: Any) -> Any:
            if deaf():
                return None
            point = next(entered)
            return on_point(point, (args, kwargs)) if point in points else None

        def after(_: Any, args: Any, output: Any) -> Any:
            if deaf():
                return None
            point = next(left)
            return on_point(point, output) if point in points else None

        if "before" in stages:
            yield module.register_forward_pre_hook(before, with_kwargs=True)
        if "after" in stages:
            yield module.register_forward_hook(after)


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
