"""What a recorded value stands for: a cell that edits change, and the view one has of it.

Eager PyTorch lets many tensors share memory: a write through one is seen through all. A graph has
no memory, so the recorder keeps the sharing: a `Cell` holds the node that is its value now, an edit
gives it a new node, and every view of it is taken anew when it is next asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch

from nnsight_lab.errors import SourceLine
from nnsight_lab.ir import Address, Gradient, NodeId, Read, Spec
from nnsight_lab.kernels import Unknown
from nnsight_lab.passes.shapes import meta_of_spec

__all__ = [
    "Cell",
    "Later",
    "MadeLate",
    "Step",
    "Value",
    "holds_tensor",
    "place_and_line",
    "same_key",
]

Step: TypeAlias = tuple[str, tuple[Any, ...], dict[str, Any]]
"""One view operation on the way from a cell to a view: op, further arguments, named ones."""


MadeLate: TypeAlias = Read | Gradient | None
"""What makes a value as late as it is: the last read, or a gradient, it depends on."""


class Value:
    """A value at one point of the recording.

    node: the node that makes it. meta: its shape, as a tensor without data; or `Later`, which
    makes one when it is asked for, since what is only saved is never asked. moment: when it is
    there. read: the read that makes it that late, for errors.
    """

    __slots__ = ("_meta", "moment", "node", "read")

    def __init__(self, node: NodeId, meta: Any, moment: int, read: MadeLate = None) -> None:
        self.node = node
        self.moment = moment
        self.read = read
        self._meta = meta

    @property
    def meta(self) -> Any:
        """The shape; the same object each time, since views are told by sharing its storage."""
        if isinstance(self._meta, Later):
            self._meta = meta_of_spec(*self._meta)
        return self._meta


class Later(NamedTuple):
    """The shape of a place, not made yet: its spec, for so many rows and positions."""

    spec: Spec
    batch: int
    pos: int


@dataclass(slots=True)
class Cell:
    """A place that holds a value and may be edited; `address` when it is a place in the model.

    version counts the edits. edited: the line of the last one. fixed: why it may not be edited,
    when it may not: it holds a parameter. gradient: which one, when it holds one.
    """

    value: Value
    address: Address | None = None
    version: int = 0
    edited: SourceLine | None = None
    fixed: str = ""
    gradient: Gradient | None = None


def same_key(one: Any, other: Any) -> bool:
    """Whether two index keys are the same literals; keys that hold values never are."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same_key, one, other))
    if isinstance(one, slice) and isinstance(other, slice):
        return (one.start, one.stop, one.step) == (other.start, other.stop, other.step)
    plain = (int, str, type(None), type(Ellipsis))
    return isinstance(one, plain) and type(one) is type(other) and one == other


def holds_tensor(meta: Any) -> bool:
    """Whether a result is a value to record, and not a size or a flag that is known now."""
    if isinstance(meta, torch.Tensor | Unknown):
        return True
    if isinstance(meta, tuple | list):
        return any(map(holds_tensor, meta))
    if isinstance(meta, dict):
        return any(map(holds_tensor, meta.values()))
    return False


def place_and_line(read: MadeLate) -> tuple[str, str]:
    """The place of a `Value.read`, and the line it was read at, for an error."""
    if read is None:
        return "", "read later"
    place = "a gradient" if isinstance(read, Gradient) else str(read.address)
    return place, f"read at {read.where}"
