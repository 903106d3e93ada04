"""The values of one run, by node. The graph itself holds none.

A value the model made may be changed by the model a moment later (an in-place activation, a fused
residual). What outlives its moment is therefore copied, if it still shares memory with the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from nnsight_lab.ir import NodeId
from nnsight_lab.kernels.infer import map_tensors
from nnsight_lab.passes.schedule import Moment

__all__ = ["Values", "copied", "in_order", "snapshot"]


def in_order(value: Any) -> Any:
    """A value with its memory in the order of its axes, as the recorder took it to be.

    Whether `reshape` is a view or a copy, and so whether a write through it is seen, then does
    not depend on how the model happened to make the value.
    """
    return map_tensors(value, torch.Tensor.contiguous)


def copied(value: Any) -> Any:
    """A value that shares no memory with anything."""
    return map_tensors(value, torch.Tensor.clone)


def snapshot(value: Any) -> Any:
    """`copied(in_order(value))`, in one copy."""
    if isinstance(value, torch.Tensor):
        return value.clone(memory_format=torch.contiguous_format)
    return copied(in_order(value))


def _storages(value: Any) -> set[int]:
    found: set[int] = set()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.add(tensor.untyped_storage()._cdata)
        return tensor

    map_tensors(value, note)
    return found


class Values:
    """A table from node to value, for one run."""

    def __init__(self) -> None:
        self._values: dict[NodeId, Any] = {}
        self._weights: set[int] = set()

    def __getitem__(self, node: NodeId) -> Any:
        return self._values[node]

    def __setitem__(self, node: NodeId, value: Any) -> None:
        self._values[node] = value

    def __contains__(self, node: NodeId) -> bool:
        return node in self._values

    def __len__(self) -> int:
        return len(self._values)

    def forget(self, nodes: Iterable[NodeId]) -> None:
        """Let go of values nobody will ask for again."""
        for node in nodes:
            self._values.pop(node, None)

    def own_forever(self, weight: torch.Tensor) -> None:
        """Note a parameter of the model: a saved view of it is copied, a passing use is not."""
        self._weights |= _storages(weight)

    def keep(self, here: Moment) -> None:
        """Copy what shares memory with the model: saved values, and those that outlive reads."""
        if here.lasting:  # they may be views of what was read
            read_now = set[int]().union(*(_storages(self._values[node.id]) for node in here.reads))
            saved = {node for _, node in here.outputs}
            for node in here.lasting:
                owned = read_now | self._weights if node in saved else read_now
                self._values[node] = _apart_from(owned, self._values[node])
        for node in here.kept:
            self._values[node] = copied(self._values[node])


def _apart_from(owned: set[int], value: Any) -> Any:
    """A value with a copy of each tensor whose memory is among these."""

    def own(tensor: torch.Tensor) -> torch.Tensor:
        shared = tensor.untyped_storage()._cdata in owned
        return tensor.clone() if shared else tensor

    return map_tensors(value, own) if owned else value
