"""A model's module tree, found by running it on very small inputs and watching.

Nothing about order or shape is taken from signatures or class names: every hook point is watched
during one forward pass, and its place in the order and the value at every address there are
written down. Two passes of different batch and length tell which axes follow the prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from nnsight_lab.executors.host import TorchHost
from nnsight_lab.executors.sites import Binding, HookPoint, module_bindings
from nnsight_lab.ir import (
    MOMENTS_APART,
    Address,
    DictSpec,
    Dim,
    ModuleCard,
    ModuleTree,
    OpaqueSpec,
    Site,
    SizeForm,
    Spec,
    TensorSpec,
    TupleSpec,
    is_said_by_input,
)
from nnsight_lab.kernels.tensors import dtype_name

__all__ = ["Measured", "Watched", "fit", "measure", "module_cards", "spec_of", "watch"]


@dataclass(frozen=True, slots=True)
class Watched:
    """One forward pass, seen: hook points in the order they came, and specs at each address."""

    order: tuple[HookPoint, ...]
    specs: Mapping[Address, Spec]
    bindings: Mapping[Address, Binding]


@dataclass(frozen=True)
class Measured:
    """A module tree, the binding behind each of its addresses, and the moment of each point."""

    tree: ModuleTree
    bindings: Mapping[Address, Binding]
    moments: Mapping[HookPoint, int]

    @cached_property
    def points(self) -> dict[int, HookPoint]:
        """The hook points by moment."""
        return {moment: point for point, moment in self.moments.items()}


def spec_of(value: Any) -> Spec:
    """The spec of a real value, every axis fixed."""
    if isinstance(value, torch.Tensor):
        dims = tuple(Dim(SizeForm.FIXED, size) for size in value.shape)
        return TensorSpec(dtype_name(value.dtype), dims)
    if isinstance(value, tuple | list):
        return TupleSpec(tuple(spec_of(item) for item in value))
    if isinstance(value, Mapping):
        return DictSpec(tuple((str(key), spec_of(item)) for key, item in value.items()))
    return OpaqueSpec(type(value).__name__)


def watch(
    module: torch.nn.Module, run: Callable[[], Any], standard: Iterable[Binding] = ()
) -> Watched:
    """Run the model once and note every hook point it comes by."""
    named = list(standard)
    extra: dict[HookPoint, list[Binding]] = {}
    for binding in named:
        extra.setdefault(binding.point, []).append(binding)
    order: list[HookPoint] = []
    specs: dict[Address, Spec] = {}
    bindings: dict[Address, Binding] = {}

    def note(point: HookPoint, value: Any) -> Any:
        order.append(point)
        for binding in (*_own_bindings(point), *extra.get(point, ())):
            specs[binding.address] = spec_of(binding.take(value))
            bindings[binding.address] = binding
        return value

    points = _every_point(module, extra)
    with torch.no_grad(), TorchHost(module).attached(points, note):
        run()
    return Watched(tuple(order), specs, bindings)


_MOST_CALLS = 64


class _EveryCall(set[HookPoint]):
    """A set of hook points that holds every call of its modules, however many come."""

    def __contains__(self, point: object) -> bool:
        if not isinstance(point, HookPoint) or point.call >= _MOST_CALLS:
            return False
        first = HookPoint(point.stage, point.path)
        return super().__contains__(first)


def _every_point(module: torch.nn.Module, extra: Mapping[HookPoint, Any]) -> set[HookPoint]:
    points = _EveryCall(extra)
    for path, _ in module.named_modules():
        points.add(HookPoint("before", path))
        points.add(HookPoint("after", path))
    return points


def _own_bindings(point: HookPoint) -> tuple[Binding, ...]:
    if point.stage not in ("before", "after"):
        return ()
    into, given, out = module_bindings(point.path, point.call)
    return (into, given) if point.stage == "before" else (out,)


def module_cards(module: torch.nn.Module) -> tuple[ModuleCard, ...]:
    """Every module with its class and its own parameters and buffers."""
    cards = []
    for path, child in module.named_modules():
        own = (*child.named_parameters(recurse=False), *child.named_buffers(recurse=False))
        weights = ((name, spec_of(value)) for name, value in own)
        kept = tuple((name, spec) for name, spec in weights if isinstance(spec, TensorSpec))
        cards.append(ModuleCard(path, type(child).__name__, kept))
    return tuple(cards)


def _watched(
    module: torch.nn.Module, run: Callable[[], Any], standard: tuple[Binding, ...]
) -> Watched:
    """One forward pass as it is under way in a run.

    What modules are given is noted in a pass of its own: to show the pattern, attention is given
    a mask that it otherwise does without.
    """
    seen = watch(module, run, standard)
    if not standard:
        return seen
    plain = watch(module, run)
    given = {at: spec for at, spec in plain.specs.items() if at.port == "inputs"}
    return replace(seen, specs={**seen.specs, **given})


def measure(
    module: torch.nn.Module,
    runs: Mapping[tuple[int, int], Callable[[], Any]],
    standard: tuple[Binding, ...] = (),
    names: tuple[tuple[str, str], ...] = (),
) -> Measured:
    """The tree of a model.

    runs: a forward pass for each `(batch, pos)`; one for shapes that stay as they are, two to
        learn how axes follow the prompt.
    standard: bindings of standard names. names: standard names that are modules.
    """
    passes = {size: _watched(module, run, standard) for size, run in runs.items()}
    first = next(iter(passes.values()))
    moments = {point: place * MOMENTS_APART for place, point in enumerate(first.order)}
    sites = tuple(
        Site(address, moments[binding.point], _fitted(address, passes))
        for address, binding in first.bindings.items()
    )
    by_address = {site.address: site for site in sites}
    sites = tuple(site for site in sites if not is_said_by_input(site, by_address))
    tree = ModuleTree(
        modules=module_cards(module),
        sites=tuple(sorted(sites, key=lambda site: (site.moment, site.address))),
        same_as=tuple(_twins(first, standard)),
        standard=names,
    )
    return Measured(tree, first.bindings, moments)


def _twins(seen: Watched, standard: tuple[Binding, ...]) -> list[tuple[Address, Address]]:
    """Module addresses whose plain tensor also has a standard name; the standard name stays."""
    taken: Counter[Address] = Counter()
    pairs = []
    for binding in standard:
        port = "input" if binding.point.stage == "before" else "output"
        own = Address(binding.point.path, port, binding.point.call)
        tensor = isinstance(seen.specs.get(own), TensorSpec)
        free = tensor and own != binding.address and not taken[own]
        there = binding.address in seen.specs and binding.point.stage in ("before", "after")
        if binding.plain and free and there:
            taken[own] += 1
            pairs.append((own, binding.address))
    return pairs


def _fitted(address: Address, passes: Mapping[tuple[int, int], Watched]) -> Spec:
    seen = [(size, watched.specs.get(address)) for size, watched in passes.items()]
    if any(spec is None for _, spec in seen):
        return OpaqueSpec("not always reached")
    return fit([(size, spec) for size, spec in seen if spec is not None])


def fit(seen: list[tuple[tuple[int, int], Spec]]) -> Spec:
    """One spec that holds for every size seen."""
    first = seen[0][1]
    if len({type(spec) for _, spec in seen}) != 1:
        return OpaqueSpec("varies")
    match first:
        case TensorSpec(dtype=dtype, dims=dims):
            shapes = [(size, spec.dims) for size, spec in seen if isinstance(spec, TensorSpec)]
            if len({len(found) for _, found in shapes}) != 1:
                return OpaqueSpec("varies")
            columns = range(len(dims))
            return TensorSpec(dtype, tuple(_fit_axis(shapes, axis) for axis in columns))
        case TupleSpec(items=items):
            parts = [(size, spec.items) for size, spec in seen if isinstance(spec, TupleSpec)]
            if len({len(found) for _, found in parts}) != 1:
                return OpaqueSpec("varies")
            return TupleSpec(
                tuple(fit([(size, found[place]) for size, found in parts])
                for place in range(len(items)))
            )  # fmt: skip
        case DictSpec(items=items):
            found = [(size, dict(spec.items)) for size, spec in seen if isinstance(spec, DictSpec)]
            keys = [key for key, _ in items if all(key in fields for _, fields in found)]
            return DictSpec(
                tuple((key, fit([(size, fields[key]) for size, fields in found])) for key in keys)
            )
        case OpaqueSpec():
            return first


def _fit_axis(shapes: list[tuple[tuple[int, int], tuple[Dim, ...]]], axis: int) -> Dim:
    sizes = [(size, dims[axis].factor) for size, dims in shapes]
    for form in (SizeForm.FIXED, SizeForm.BATCH, SizeForm.POS, SizeForm.BATCH_POS):
        (batch, pos), length = sizes[0]
        unit = Dim(form).size(batch, pos) or 1
        if length % unit == 0:
            dim = Dim(form, length // unit)
            if all(dim.size(*size) == seen for size, seen in sizes):
                return dim
    return Dim(SizeForm.UNKNOWN)
