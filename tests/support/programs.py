"""Random programs of reads, edits and operations, and what they mean: an interpreter over hooks.

A program is a list of small steps on a pool of values. `Hooked` runs it with real tensors: places
hold what plain PyTorch hooks captured, edits are real writes in place, views share real memory.
Because a program may name places in any order, it is run again with the edits it made last time
put into the model by hooks, until nothing changes any more, at no place: the first place is right
after one round, the second after two, and so on. Nothing of ours is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from hypothesis import strategies as st

from tests.support.hooks import tensor_of

__all__ = ["PLACES", "Hooked", "Impossible", "Step", "interpret", "programs"]

PLACES = tuple(
    place
    for layer in range(6)
    for place in (f"layers.{layer}.attn", f"layers.{layer}.mlp", f"layers.{layer}")
)
"""Where programs read and write, in the order the bundled model comes by; all hold one shape."""

_MODULES = {
    place: "model." + place.replace(".attn", ".self_attn")
    for place in PLACES
}  # fmt: skip

Step: TypeAlias = tuple[Any, ...]

_UNARY = ("relu", "tanh", "neg", "sigmoid", "square")
_BINARY = ("add", "sub", "mul", "maximum")
_KEYS: tuple[Any, ...] = (
    (slice(None), -1),
    (slice(None), 0),
    (slice(None), slice(1, None)),
    (..., slice(0, 40)),
    (0, slice(None), slice(None, None, 3)),
    (slice(None), [0, 2]),
    (slice(None),),
)
_VIEWS = ("none", "transpose", "first", "heads")
_INPLACE = ("add_", "mul_", "clamp_", "set")


def programs() -> st.SearchStrategy[list[Step]]:
    """Programs that begin with a read and end with a save."""
    index = st.integers(0, 40)
    number = st.sampled_from((-1.5, -0.5, 0.25, 0.5, 2.0))
    read = st.tuples(st.just("read"), st.sampled_from(PLACES))
    step = st.one_of(
        read,
        st.tuples(st.just("unary"), st.sampled_from(_UNARY), index),
        st.tuples(st.just("binary"), st.sampled_from(_BINARY), index, index),
        st.tuples(
            st.just("edit"), st.sampled_from(_INPLACE), index, st.sampled_from(_VIEWS),
            st.sampled_from(_KEYS), number,
        ),
        st.tuples(st.just("copy"), index, st.sampled_from(_KEYS), index),
        st.tuples(st.just("replace"), st.sampled_from(PLACES), index),
        st.tuples(st.just("save"), index, st.sampled_from(_KEYS)),
    )  # fmt: skip
    body = st.lists(step, min_size=2, max_size=14)
    return st.tuples(read, body).map(lambda parts: [parts[0], *parts[1], ("save", 0, (...,))])


class World(Protocol):
    """Where a program runs: on recorded values, or on real ones over hooks."""

    def read(self, place: str) -> Any: ...
    def replace(self, place: str, value: Any) -> None: ...
    def new(self, value: Any, *made_from: Any) -> Any: ...
    def wrote(self, value: Any, *made_from: Any) -> None: ...
    def save(self, value: Any) -> None: ...


def interpret(program: list[Step], world: World) -> None:
    """Run a program. The same lines for every world, as the same cell is for a user."""
    pool: list[Any] = []

    def at(index: int) -> Any:
        return pool[index % len(pool)]

    for step in program:
        match step:
            case ("read", place):
                pool.append(world.read(place))
            case ("unary", name, index):
                pool.append(world.new(getattr(torch, name)(at(index)), at(index)))
            case ("binary", name, one, two):
                made = getattr(torch, name)(at(one), at(two))
                pool.append(world.new(made, at(one), at(two)))
            case ("edit", name, index, view, key, number):
                _edit(at(index), name, view, key, number)
                world.wrote(at(index))
            case ("copy", index, key, other):
                at(index)[key] = at(other)[key] * 0.5
                world.wrote(at(index), at(other))
            case ("replace", place, index):
                world.replace(place, at(index))
            case ("save", index, key):
                world.save(at(index)[key])


def _edit(value: Any, name: str, view: str, key: Any, number: float) -> None:
    seen = {
        "none": lambda: value,
        "transpose": lambda: value.transpose(0, 1),
        "first": lambda: value[0].unsqueeze(0),
        "heads": lambda: value.view(*value.shape[:2], 4, -1)[:, :, 1:3].flatten(0, 1).unsqueeze(0),
    }[view]()
    if view == "heads":
        return  # flatten of a slice copies: looking at it must change nothing
    if view == "transpose":
        key = (-1,)
    if name == "set":
        seen[key] = number
    elif name == "clamp_":
        seen.clamp_(-abs(number), abs(number))
    elif name == "mul_":
        seen *= number
    else:
        seen[key] += number


class Impossible(Exception):
    """A place was to be written from what the model makes later."""


@dataclass(eq=False)
class _Origin:
    """The latest place a value was made from; views share it, as they share memory."""

    latest: int = -1


@dataclass
class Hooked:
    """A program's world on the plain model: real tensors, real writes, hooks."""

    model: Any
    ids: list[list[int]]
    saved: list[torch.Tensor] = field(default_factory=list)
    _raw: dict[str, torch.Tensor] = field(default_factory=dict)
    _cells: dict[str, torch.Tensor] = field(default_factory=dict)
    _origins: dict[int, _Origin] = field(default_factory=dict)
    _keep: list[Any] = field(default_factory=list)

    def run(self, program: list[Step]) -> torch.Tensor:
        """The logits after the program; `saved` holds what it saved. Raises `Impossible`."""
        logits = self._forward()
        for _ in range(len(PLACES) + 1):
            before = [*self.saved, logits, *self._raw.values()]
            self.saved, self._cells, self._origins, self._keep = [], {}, {}, []
            interpret(program, self)
            logits = self._forward()
            if _same(before, [*self.saved, logits, *self._raw.values()]):
                return logits
        raise AssertionError("the program did not settle")

    def _forward(self) -> torch.Tensor:
        def hook(place: str) -> Any:
            def after(_: Any, __: Any, output: Any) -> Any:
                self._raw[place] = tensor_of(output).detach().clone()
                new = self._cells.get(place)
                if new is None:
                    return None
                return (new, *output[1:]) if isinstance(output, tuple) else new

            return self.model.get_submodule(_MODULES[place]).register_forward_hook(after)

        with ExitStack() as stack, torch.no_grad():
            for place in PLACES:
                stack.callback(hook(place).remove)
            logits: torch.Tensor = self.model(torch.tensor(self.ids), use_cache=False).logits
        return logits

    def _origin(self, value: torch.Tensor) -> _Origin:
        return self._origins[value.untyped_storage().data_ptr()]

    def read(self, place: str) -> torch.Tensor:
        if place not in self._cells:
            value = self._cells[place] = self._raw[place].clone()
            self._keep.append(value)
            self._origins[value.untyped_storage().data_ptr()] = _Origin(PLACES.index(place))
        return self._cells[place]

    def replace(self, place: str, value: torch.Tensor) -> None:
        if value is self.read(place):
            return
        cell = value.clone()
        self._keep.append(cell)
        origin = self._origins[cell.untyped_storage().data_ptr()] = _Origin(PLACES.index(place))
        if self._origin(value).latest > origin.latest:
            raise Impossible
        self._cells[place] = cell

    def new(self, value: torch.Tensor, *made_from: torch.Tensor) -> torch.Tensor:
        self._keep.append(value)
        latest = max(self._origin(other).latest for other in made_from)
        self._origins[value.untyped_storage().data_ptr()] = _Origin(latest)
        return value

    def wrote(self, value: torch.Tensor, *made_from: torch.Tensor) -> None:
        origin = self._origin(value)
        latest = max((self._origin(other).latest for other in made_from), default=-1)
        if any(cell is value for cell in self._cells.values()):
            if latest > origin.latest:
                raise Impossible
        else:
            origin.latest = max(origin.latest, latest)

    def save(self, value: torch.Tensor) -> None:
        self.saved.append(value.clone())


def _same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    pairs: Iterator[tuple[torch.Tensor, torch.Tensor]] = zip(one, other, strict=False)
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in pairs)
