"""The torch functions a module's own forward calls: heard one by one, while that forward runs.

    with heard(model, points, on_point, deaf) as quietly: ...   # points of stage op-before, op-after

A function mode stands only while one of the named modules is inside its forward, in this thread.
Calls made by its submodules are theirs, told apart by the stack: between such a call and the
forward stands a call of a module. What a run itself computes in between is nobody's.

Which operations a forward has, and what they are called, is found by `source_measure.py`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, wraps
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from nnsight_lab.executors.inside import replaced
from nnsight_lab.executors.sites import Binding, HookPoint, OpCall, whole
from nnsight_lab.ir import source_address

__all__ = ["OPERATIONS", "Hearing", "heard", "op_bindings", "way_down"]

OPERATIONS = frozenset({"op-before", "op-after"})
"""The stages served here."""

_OnPoint = Callable[[HookPoint, Any], Any]

_OURS = str(Path(__file__).parents[1])
_TORCH = str(Path(torch.__file__).parent)
_MODULES = str(Path(torch.__file__).parent / "nn" / "modules")
_CALLING = str(Path(_MODULES) / "module.py")
_CALL_OF_A_MODULE = torch.nn.Module._call_impl.__code__  # noqa: SLF001 - torch's own, to be told by


@cache
def _between(file: str) -> bool:
    """Whether code of this file only stands between a forward and torch: ours, and torch's own."""
    torchs = file.startswith(_TORCH) and (not file.startswith(_MODULES) or file == _CALLING)
    return torchs or file.startswith(_OURS)


def way_down(
    frame: FrameType | None, forward: FrameType, calls: int = 0
) -> tuple[tuple[str, str, int, int], ...] | None:
    """The lines that lead from a forward to `frame`, innermost first; None when others made it.

    calls: how many calls of modules stand between them; 1 for a submodule that is being called.
    """
    lines = []
    while frame is not forward:
        if frame is None:
            return None
        code = frame.f_code
        if code is _CALL_OF_A_MODULE:
            calls -= 1
            if calls < 0:
                return None
        elif not _between(code.co_filename):
            lines.append((code.co_filename, code.co_name, frame.f_lineno, frame.f_lasti))
        frame = frame.f_back
    return tuple(lines) if calls == 0 else None


def _name_of(function: Any) -> str:
    name = str(getattr(function, "__name__", ""))
    if name == "__get__":  # a property of tensors, such as `x.T`
        return str(getattr(function.__self__, "__name__", name))
    return name.strip("_") if name.startswith("__") else name


class Hearing:
    """What one run hears: `points`, told to `on_point`; nothing while `on_point` itself computes.

    functions: names of the torch functions that matter; None for all of them.
    """

    def __init__(
        self, points: Container[HookPoint], on_point: _OnPoint, functions: set[str] | None
    ) -> None:
        self.points = points
        self.functions = functions
        self.inside: list[tuple[str, int, FrameType]] = []
        self._on_point = on_point
        self._computing = False

    @staticmethod
    def of(points: set[HookPoint], on_point: _OnPoint) -> Hearing:
        """What a run hears that wants these points; calls of other functions pass by."""
        return Hearing(points, on_point, {point.op.function for point in points if point.op})

    def tell(self, point: HookPoint, value: Any) -> Any:
        """Hand over a value; what is computed meanwhile is not the model's."""
        was, self._computing = self._computing, True
        try:
            return self._on_point(point, value)
        finally:
            self._computing = was

    def wants(self, function: str) -> bool:
        """Whether calls of this function are asked for, and are the model's just now."""
        return not self._computing and (self.functions is None or function in self.functions)


class _Forward(TorchFunctionMode):
    """One call of one module's forward, heard."""

    def __init__(self, hearing: Hearing, path: str, call: int, frame: FrameType) -> None:
        super().__init__()
        self._hearing = hearing
        self._path = path
        self._call = call
        self._frame = frame
        self._turns: Counter[Any] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _name_of(func)
        if not self._hearing.wants(name):
            return func(*args, **kwargs)
        at = way_down(sys._getframe(1), self._frame)
        if at is None:
            return func(*args, **kwargs)
        op = OpCall(name, at, self._turns[name, at])
        self._turns[name, at] += 1
        before, after = (
            HookPoint(stage, self._path, self._call, op) for stage in ("op-before", "op-after")
        )
        points = self._hearing.points
        if before in points:
            given = self._hearing.tell(before, (args, kwargs))
            if given[0] is not args or given[1] is not kwargs:
                args, kwargs = _given(name, args, *given)
        if after not in points:
            return func(*args, **kwargs)
        return self._result(after, func, args, kwargs)

    def _result(self, after: HookPoint, func: Any, args: Any, kwargs: Any) -> Any:
        """Call, and hand over what came of it; a write in place is handed over as what it wrote."""
        target = next((arg for arg in args[:1] if isinstance(arg, torch.Tensor)), None)
        version = _version(target)
        result = func(*args, **kwargs)
        written = target is not None and _version(target) != version
        value = target if written and result is None else result
        new = self._hearing.tell(after, value)
        if new is value:
            return result
        if target is not None and written and value is target:
            # Others hold this tensor too: they must see the edit, as they see the write.
            target.copy_(new)
            return result
        return _in_its_class(value, new)


def _version(tensor: torch.Tensor | None) -> int:
    return -1 if tensor is None or tensor.is_inference() else tensor._version


def _given(name: str, old: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Edited arguments; what a function writes into stays the model's own tensor."""
    args, kwargs = tuple(args), dict(kwargs)
    writes = name == "setitem" or name.endswith("_") or bool(kwargs.get("inplace"))
    if writes and args and args[0] is not old[0]:
        old[0].copy_(args[0])
        args = (old[0], *args[1:])
    return args, kwargs


def _in_its_class(value: Any, new: Any) -> Any:
    """A new tuple as the named one torch gave."""
    if not isinstance(value, tuple) or type(value) in (tuple, type(new)):
        return new
    return type(value)(*new) if hasattr(value, "_fields") else type(value)(tuple(new))


@contextmanager
def heard(
    model: torch.nn.Module,
    paths: tuple[str, ...],
    hearing: Hearing,
    deaf: Callable[[], bool],
) -> Iterator[None]:
    """Hear the forwards of these modules while the block runs.

    deaf: whether a call now is none of this run's, e.g. another thread's.
    """
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(_heard(model.get_submodule(path), path, hearing, deaf))
        yield


@contextmanager
def _heard(
    module: torch.nn.Module, path: str, hearing: Hearing, deaf: Callable[[], bool]
) -> Iterator[None]:
    calls: Counter[str] = Counter()

    def replacing(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)  # a model may ask for the signature of its own forward
        def forward(*args: Any, **kwargs: Any) -> Any:
            if deaf():
                return original(*args, **kwargs)
            call, frame = calls[path], sys._getframe()
            calls[path] += 1
            hearing.inside.append((path, call, frame))
            try:
                with _Forward(hearing, path, call, frame):
                    return original(*args, **kwargs)
            finally:
                hearing.inside.pop()
                del frame  # a frame that names itself keeps whatever its callers hold

        return forward

    with replaced(module, "forward", replacing):
        yield


# ---------------------------------------------------------------- addresses


def op_bindings(name: str, before: HookPoint) -> tuple[Binding, Binding, Binding]:
    """`input`, `inputs` and `output` of one operation called `name`."""
    after = HookPoint("op-after", before.path, before.call, before.op)

    def at(port: str) -> Any:
        return source_address(before.path, name, port, before.call)

    into = Binding(at("input"), before, _first_tensor, _put_first_tensor)
    return into, whole(at("inputs"), before), whole(at("output"), after)


def _first_tensor(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value
    items = value.values() if isinstance(value, dict) else value
    if not isinstance(value, tuple | list | dict):
        return None
    return next((found for item in items if (found := _first_tensor(item)) is not None), None)


def _put_first_tensor(value: Any, new: Any) -> Any:
    return _with_first(value, new)[0]


def _with_first(value: Any, new: Any) -> tuple[Any, bool]:
    """`value` with its first tensor replaced, and whether it had one."""
    if isinstance(value, torch.Tensor):
        return new, True
    if isinstance(value, tuple | list):
        for place, item in enumerate(value):
            changed, done = _with_first(item, new)
            if done:
                return type(value)((*value[:place], changed, *value[place + 1 :])), True
    if isinstance(value, dict):
        for key, item in value.items():
            changed, done = _with_first(item, new)
            if done:
                return {**value, key: changed}, True
    return value, False
