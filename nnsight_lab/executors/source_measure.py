"""Which operations are inside the forward of a module: found by running the model on small inputs.

    book = SourceBook(module)
    book.source(measured, path, passes)          # what one forward calls, line by line
    book.extended(measured, paths)               # the measured tree, with their operations

Nothing is measured before somebody asks. One ask measures all modules of the same class, in two or
three small forward passes: two sizes tell which axes follow the prompt, a third pass with other
tokens which follow what it says. What is listed is what the first pass went through.
"""

from __future__ import annotations

import inspect
import linecache
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch

from nnsight_lab.errors import AddressNotFound, NotSupported
from nnsight_lab.executors.host import TorchHost
from nnsight_lab.executors.measure import Measured, fit, spec_of
from nnsight_lab.executors.sites import Binding, HookPoint
from nnsight_lab.executors.source import Hearing, heard, op_bindings, way_down
from nnsight_lab.ir import (
    MOMENTS_APART,
    Address,
    DictSpec,
    ModuleSource,
    OpaqueSpec,
    Site,
    SourceCall,
    Spec,
    TensorSpec,
    TupleSpec,
    with_sources,
)

__all__ = ["Passes", "SourceBook"]

Passes: TypeAlias = list[tuple[tuple[int, int], Callable[[], Any]]]
"""Small forward passes, each with its `(batch, pos)`."""

_MOST = 4_096
"""Operations listed of one forward; a loop may make more, and they cannot be named."""
_BOOKS_KEPT = 16
_HIDES = frozenset({"pattern", "torch-pattern"})
"""Stages that put code of their own in place of the model's, and so are not watched here."""

_Lines: TypeAlias = tuple[tuple[str, str, int, int], ...]


@dataclass(slots=True)
class _Forward:
    """One call of one module's forward, as one pass went through it.

    calls: in order: an operation's point and whether it gave a tensor, or a submodule's path.
    """

    order: list[tuple[HookPoint | str, _Lines]] = field(default_factory=list)
    moments: dict[HookPoint, int] = field(default_factory=dict)
    specs: dict[HookPoint, Spec] = field(default_factory=dict)


_Seen: TypeAlias = dict[tuple[str, int], _Forward]


class _Watch:
    """One forward pass: notes what the forwards of some modules call, and when."""

    def __init__(self, measured: Measured) -> None:
        self.seen: _Seen = {}
        self._moments = measured.moments
        self._moment = -MOMENTS_APART
        self._since = 0
        self.hearing = Hearing(_Everything(), self._operation, None)

    def place(self, point: HookPoint, value: Any) -> Any:
        """The model is at a place of its tree; maybe a submodule of a listed one is called."""
        self._moment, self._since = self._moments[point], 0
        if point.stage == "before" and self.hearing.inside:
            path, call, frame = self.hearing.inside[-1]
            lines = way_down(sys._getframe(1), frame, calls=1)
            if lines is not None:
                self._of(path, call).order.append((point.path, lines))
        return value

    def _of(self, path: str, call: int) -> _Forward:
        return self.seen.setdefault((path, call), _Forward())

    def _operation(self, point: HookPoint, value: Any) -> Any:
        assert point.op is not None
        forward = self._of(point.path, point.call)
        if len(forward.moments) >= 2 * _MOST or self._since + 1 >= MOMENTS_APART:
            return value
        self._since += 1
        forward.moments[point] = self._moment + self._since
        forward.specs[point] = spec_of(value)
        if point.stage == "op-before":
            forward.order.append((point, point.op.at))
        return value


class _Everything:
    """Holds every hook point."""

    def __contains__(self, point: object) -> bool:
        return True


def _watched(
    model: torch.nn.Module, measured: Measured, paths: tuple[str, ...], run: Callable[[], Any]
) -> _Seen:
    watch, host = _Watch(measured), TorchHost(model)
    points = {point for point in measured.moments if point.stage not in _HIDES}
    with (
        torch.no_grad(),
        host.attached(points, watch.place),
        heard(model, paths, watch.hearing, host.deaf),
    ):
        run()
    return watch.seen


# ---------------------------------------------------------------- what was seen, as data


@dataclass(frozen=True, slots=True)
class _Measured:
    """The source of one module, with the binding and the moment behind each site."""

    source: ModuleSource
    bindings: Mapping[Address, Binding]
    moments: Mapping[HookPoint, int]


def _put_together(
    model: torch.nn.Module, path: str, passes: list[tuple[tuple[int, int], _Seen]]
) -> _Measured:
    first = passes[0][1]
    calls: list[SourceCall] = []
    sites: list[Site] = []
    bindings: dict[Address, Binding] = {}
    moments: dict[HookPoint, int] = {}
    for (at, call), forward in first.items():
        if at != path:
            continue
        counts: Counter[str] = Counter()
        for what, lines in forward.order:
            if isinstance(what, str):
                calls += [] if call else [_listed(what.removeprefix(f"{path}."), lines, True)]
                continue
            assert what.op is not None
            after = what._replace(stage="op-after")
            if not _holds_tensor(forward.specs.get(after)):
                continue
            name = f"{what.op.function}_{counts[what.op.function]}"
            counts[what.op.function] += 1
            calls += [] if call else [_listed(name, lines, False)]
            for binding in op_bindings(name, what):
                spec = _fitted(binding, [(size, seen.get((at, call))) for size, seen in passes])
                moment = forward.moments[binding.point]
                sites.append(Site(binding.address, moment, spec))
                bindings[binding.address] = binding
                moments[binding.point] = moment
    module = model.get_submodule(path)
    kind, file = type(module).__name__, Path(_file_of(module)).name
    source = ModuleSource(path, kind, file, tuple(calls), tuple(sites))
    return _Measured(source, bindings, moments)


def _fitted(binding: Binding, seen: list[tuple[tuple[int, int], _Forward | None]]) -> Spec:
    specs = [
        (size, forward.specs.get(binding.point) if forward else None) for size, forward in seen
    ]
    if any(spec is None for _, spec in specs):
        return OpaqueSpec("not always reached")
    spec = fit([(size, spec) for size, spec in specs if spec is not None])
    if binding.address.port.endswith(".input"):
        return _first_tensor(spec) or OpaqueSpec("no tensor")
    if binding.address.port.endswith(".inputs") and not isinstance(spec, TupleSpec):
        return OpaqueSpec("varies")
    return spec


def _first_tensor(spec: Spec) -> Spec | None:
    match spec:
        case TensorSpec():
            return spec
        case TupleSpec(items=items):
            return next((found for item in items if (found := _first_tensor(item))), None)
        case DictSpec(items=pairs):
            return next((found for _, item in pairs if (found := _first_tensor(item))), None)
    return None


def _holds_tensor(spec: Spec | None) -> bool:
    return spec is not None and _first_tensor(spec) is not None


def _listed(name: str, lines: _Lines, submodule: bool) -> SourceCall:
    """One row of the listing: the innermost line, and the line of the forward that led there."""
    if not lines:
        return SourceCall(name, submodule, "", "", 0, "")
    file, function, line, _ = lines[0]
    forward = next((at for at in reversed(lines) if at[1] == "forward"), lines[-1])
    called_at = forward[2] if forward is not lines[0] else 0
    text = linecache.getline(file, line).strip()
    return SourceCall(name, submodule, Path(file).name, function, line, text[:200], called_at)


def _file_of(module: torch.nn.Module) -> str:
    try:
        code = inspect.unwrap(type(module).forward).__code__
    except (AttributeError, ValueError):
        return ""
    return str(code.co_filename)


# ---------------------------------------------------------------- kept


class SourceBook:
    """The sources of one model that were asked for, and the trees that know them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._sources: OrderedDict[int, tuple[Measured, dict[str, _Measured]]] = OrderedDict()
        self._trees: OrderedDict[tuple[int, tuple[str, ...]], Measured] = OrderedDict()

    def source(self, measured: Measured, path: str, passes: Passes) -> ModuleSource:
        """What the forward of one module calls.

        Raises:
            AddressNotFound: there is no such module.
            NotSupported: its forward never runs, or calls no torch function itself.
        """
        return self._of(measured, path, passes).source

    def knows(self, measured: Measured, path: str) -> bool:
        """Whether it was asked for before, and has something to show."""
        _, known = self._sources.get(id(measured), (measured, {}))
        return path in known and bool(known[path].source.sites)

    def extended(self, measured: Measured, paths: Iterable[str]) -> Measured:
        """The measured tree with the operations of modules whose source was asked for."""
        wanted = tuple(sorted(set(paths)))
        key = id(measured), wanted
        if key not in self._trees:
            found = [self._sources[id(measured)][1][path] for path in wanted]
            bindings, moments = dict(measured.bindings), dict(measured.moments)
            for each in found:
                bindings |= each.bindings
                moments |= each.moments
            tree = with_sources(measured.tree, (each.source for each in found))
            self._trees[key] = Measured(tree, bindings, moments)
            while len(self._trees) > _BOOKS_KEPT:
                self._trees.popitem(last=False)
        return self._trees[key]

    def _of(self, measured: Measured, path: str, passes: Passes) -> _Measured:
        _, known = self._sources.setdefault(id(measured), (measured, {}))
        if path not in known:
            paths = _of_one_class(self._model, path)
            seen = [(size, _watched(self._model, measured, paths, run)) for size, run in passes]
            for each in paths:
                known[each] = _put_together(self._model, each, seen)
        if not known[path].source.sites:
            raise self._nothing_inside(known[path].source)
        return known[path]

    def _nothing_inside(self, source: ModuleSource) -> NotSupported:
        name = source.path or "the model"
        if not source.calls:
            return NotSupported(
                f"The forward of {name} ({source.kind}) calls no torch function, or never runs.",
                hint="print(model) shows the modules; look into one that computes something.",
            )
        below = ", ".join(dict.fromkeys(call.name for call in source.calls))
        return NotSupported(
            f"The forward of {name} ({source.kind}) calls submodules only: {below}.",
            hint=f"Look into those: {name}.{source.calls[0].name}.source.",
        )


def _of_one_class(model: torch.nn.Module, path: str) -> tuple[str, ...]:
    modules = dict(model.named_modules())
    if path not in modules:
        raise AddressNotFound(
            f"The model has no module {path!r} of its own.", hint="print(model) shows its modules."
        )
    kind = type(modules[path])
    return tuple(name for name, module in modules.items() if type(module) is kind)
