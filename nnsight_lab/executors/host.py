"""Hooks on a torch module, attached for one run. One context manager: attach, listen, detach.

    with TorchHost(module, bindings).attached(points, on_point):
        module(**inputs)                     # on_point(point, value) at every wanted hook point

Hooks stand only on the modules that serve a wanted hook point, and are gone when the block ends,
however it ends. Calls of a module that a graph makes itself (`apply`) are silent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property, partial
from itertools import count
from typing import Any

import torch

from nnsight_lab.errors import Cancelled
from nnsight_lab.executors.attention import listening
from nnsight_lab.executors.inside import INSIDE, overhearing
from nnsight_lab.executors.sites import HookPoint, Stage
from nnsight_lab.executors.skipping import skipping
from nnsight_lab.executors.source import OPERATIONS, Hearing, heard
from nnsight_lab.ir import Skip

__all__ = ["OnPoint", "TorchHost"]

_CALLS = ("before", "after")
"""The stages served here: of a module's call."""

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
        self._standard = standard or {}
        self._silent = False
        self._thread = threading.get_ident()

    @cached_property
    def device(self) -> torch.device:
        """Where the model's first parameter is; the CPU for a model without any.

        Looked for once: a host serves one run, in which the model stays where it is.
        """
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
    def attached(self, points: Collection[HookPoint], on_point: OnPoint) -> Iterator[None]:
        """Hear of `points` while the block runs, in this thread: others use the model as it is."""
        self._thread = threading.get_ident()
        calls: dict[tuple[str, Stage], None] = {}  # one hook, however often a module is called
        deeper: set[HookPoint] = set()
        for point in points:
            if point.stage in _CALLS:
                calls[point.path, point.stage] = None
            else:
                deeper.add(point)
        operations = {point for point in deeper if point.stage in OPERATIONS}
        hearing = Hearing.of(operations, on_point) if operations else None
        on_point = hearing.tell if hearing is not None else on_point
        removals: list[Callable[[], None]] = []
        try:
            for path, stage in calls:
                removals.append(self._hook(path, stage, points, on_point))
            with self._deeper(deeper, on_point, hearing) if deeper else nullcontext():
                yield
        finally:
            for remove in removals:
                remove()

    @contextmanager
    def _deeper(
        self, points: set[HookPoint], on_point: OnPoint, hearing: Hearing | None
    ) -> Iterator[None]:
        """Hear of what is inside the forward of modules."""
        with ExitStack() as stack:
            inside = {point for point in points if point.stage in ("attention", "pattern")}
            if inside:
                stack.enter_context(listening(self._module, inside, self._unless_deaf(on_point)))
            hidden = {point for point in points if point.stage in INSIDE}
            if hidden:
                stack.enter_context(overhearing(self._module, hidden, on_point, self.deaf))
            if hearing is not None:
                paths = tuple(dict.fromkeys(p.path for p in points if p.stage in OPERATIONS))
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

    def _hook(
        self, path: str, stage: Stage, points: Collection[HookPoint], on_point: OnPoint
    ) -> Callable[[], None]:
        """A hook before or after each call of a module; gives what removes it."""
        module = self._module
        for name in path.split(".") if path else ():
            # As `get_submodule`, which looks twice at each step.
            module = module._modules[name]  # type: ignore[assignment] # noqa: SLF001
        arrivals = map(partial(HookPoint, stage, path), count())
        deaf = self.deaf

        def before(_: Any, args: Any, kwargs: Any) -> Any:
            if deaf():
                return None
            point = next(arrivals)
            return on_point(point, (args, kwargs)) if point in points else None

        def after(_: Any, args: Any, output: Any) -> Any:
            if deaf():
                return None
            point = next(arrivals)
            return on_point(point, output) if point in points else None

        if stage == "before":
            return module.register_forward_pre_hook(before, with_kwargs=True).remove
        return _after_each_call(module, after)


_ids = count(-1, -1)
"""Torch counts the ids of its hooks upwards from 0."""


def _after_each_call(module: torch.nn.Module, hook: Callable[..., Any]) -> Callable[[], None]:
    """As `register_forward_hook`, whose handle can be pickled, which takes most of the time.

    A hook of ours stands for one forward pass: its place among the module's hooks will do.
    """
    id, hooks = next(_ids), module._forward_hooks  # noqa: SLF001 - where torch looks for them

    def remove() -> None:
        hooks.pop(id, None)

    hooks[id] = hook
    return remove
