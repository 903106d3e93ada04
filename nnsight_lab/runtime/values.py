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

__all__ = ["Values", "copied", "in_order"]


def in_order(value: Any) -> Any:
    """A value with its memory in the order of its axes, as the recorder took it to be.

    Whether `reshape` is a view or a copy, and so whether a write through it is seen, then does
    not depend on how the model happened to make the value.
    """
    return map_tensors(value, lambda tensor: tensor.contiguous())


def copied(value: Any) -> Any:
    """A value that shares no memory with anything."""
    return map_tensors(value, lambda tensor: tensor.clone())


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

    def keep(
        self,
        saved: Iterable[NodeId],
        lasting: Iterable[NodeId],
        reads: Iterable[NodeId],
        as_they_are: bool = False,
    ) -> None:
        """Copy what shares memory with the model: saved values, and those that outlive reads.

        as_they_are: gradients are taken, so values must stay the ones autograd has seen.
        """
        if as_they_are:
            return
        read_now: set[int] = set()
        for node in reads:
            read_now |= _storages(self._values[node])
        self._copy_shared(lasting, read_now)
        self._copy_shared(saved, read_now | self._weights)

    def _copy_shared(self, nodes: Iterable[NodeId], owned: set[int]) -> None:
        if not owned:
            return

        def own(tensor: torch.Tensor) -> torch.Tensor:
            shared = tensor.untyped_storage()._cdata in owned
            return tensor.clone() if shared else tensor

        for node in nodes:
            self._values[node] = map_tensors(self._values[node], own)
