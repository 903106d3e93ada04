"""What a branch gives: tuples, lists and dicts of values, compared with what the other gives.

A recorded value is fixed as it is at the end of its branch (`settled`). Two settled results are
put side by side (`Pairing`): where values stand, the region chooses; what is plain Python must be
the same in both. Numbers that differ become values.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from nnsight_lab.kernels.table import is_inplace
from nnsight_lab.tracing.cells import Cell, Value
from nnsight_lab.tracing.operators import OPERATORS
from nnsight_lab.tracing.proxy import Proxy

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = [
    "Differ",
    "Leaf",
    "Number",
    "Pairing",
    "collected",
    "is_number",
    "rebuilt",
    "settled",
    "stand_ins",
]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value in a result. source: what stood there, a recorded value or a tensor."""

    value: Value
    source: Any


@dataclass(frozen=True, slots=True)
class _Hole:
    """Where the `place`-th value of a region goes."""

    place: int


class Number(Proxy):
    """A recorded value that begins as a Python number: `n += v` gives a new one, as for numbers."""

    __slots__ = ()


def _not_in_place(self: Number, other: Any) -> Any:
    return NotImplemented


for _operator in OPERATORS:
    if is_inplace(f"Tensor.{OPERATORS[_operator]}"):
        setattr(Number, _operator, _not_in_place)


def stand_ins(recorder: Recorder, leaves: list[Leaf], values: list[Value]) -> list[Proxy]:
    """A recorded value for each leaf: the first of `values` take their place in a loop."""
    kinds = [Number if is_number(leaf.source) else Proxy for leaf in leaves]
    return [kind(recorder, Cell(value)) for kind, value in zip(kinds, values, strict=False)]


class Differ(Exception):
    """Two results that cannot be one; says how they differ. Never leaves the package."""


def settled(recorder: Recorder, nest: Any) -> Any:
    """The same nest, with each value in it as it is now."""
    if isinstance(nest, Proxy | torch.Tensor):
        return Leaf(recorder.value_of(nest), nest)
    if isinstance(nest, torch.Size):
        nest = tuple(nest)
    if isinstance(nest, nullcontext):
        return None  # what `loss.backward()` gives, in a lambda
    return _mapped(nest, lambda item: settled(recorder, item))


def collected(recorder: Recorder, nest: Any, leaves: list[Leaf]) -> Any:
    """A settled nest with holes for its values and numbers, which are added to `leaves`."""
    if is_number(nest):
        nest = _as_leaf(recorder, nest)
    if isinstance(nest, Leaf):
        leaves.append(nest)
        return _Hole(len(leaves) - 1)
    return _mapped(nest, lambda item: collected(recorder, item, leaves))


def rebuilt(nest: Any, values: list[Any]) -> Any:
    """The nest with each hole filled."""
    if isinstance(nest, _Hole):
        return values[nest.place]
    return _mapped(nest, lambda item: rebuilt(item, values))


def _mapped(nest: Any, change: Any) -> Any:
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return type(nest)(*map(change, nest))
    if isinstance(nest, tuple) or type(nest) is list:  # torch's named tuples are tuples
        return type(nest)([change(item) for item in nest])
    if type(nest) is dict:
        return {key: change(item) for key, item in nest.items()}
    return nest


class Pairing:
    """Two settled results side by side. `pairs` are the values to choose between."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.pairs: list[tuple[Leaf, Leaf]] = []

    def put(self, one: Any, other: Any) -> Any:
        """Both as one nest, with a hole for each pair of values.

        Raises:
            Differ: they are not alike.
        """
        if isinstance(one, Leaf) and isinstance(other, Leaf) and one.source is other.source:
            return one.source
        if _is_valued(one) and _is_valued(other) and not _is_same(one, other):
            self.pairs.append((_as_leaf(self._recorder, one), _as_leaf(self._recorder, other)))
            return _Hole(len(self.pairs) - 1)
        if type(one) is type(other) and isinstance(one, tuple | list) and len(one) == len(other):
            items = [self.put(*pair) for pair in zip(one, other, strict=True)]
            return type(one)(*items) if hasattr(one, "_fields") else type(one)(items)
        if type(one) is dict and type(other) is dict and list(one) == list(other):
            return {key: self.put(one[key], other[key]) for key in one}
        if _is_same(one, other):
            return one
        raise Differ(f"{_named(one)} and {_named(other)}")


def is_number(value: Any) -> bool:
    """Whether it is a Python number, which becomes a value where it is chosen or carried."""
    return type(value) in (bool, int, float, complex)


def _is_valued(value: Any) -> bool:
    return isinstance(value, Leaf) or is_number(value)


def _as_leaf(recorder: Recorder, value: Any) -> Leaf:
    if isinstance(value, Leaf):
        return value
    return Leaf(recorder.constant(torch.tensor(value)), value)


def _is_same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other) or isinstance(one, Leaf | tuple | list | dict):
        return False
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - a seam: any object's own idea of equality
        return False


def _named(value: Any) -> str:
    if isinstance(value, Leaf):
        return "a value"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, dict):
        return f"a dict with the keys {', '.join(map(repr, value))}"
    shown = repr(value)
    return shown if len(shown) <= 40 else f"a {type(value).__name__}"
