"""Gradients of one run: which values they are taken at, and the backward passes.

Each pass is gone through once, for all places its gradient is taken at, and only as far as those
need (`torch.autograd.grad`): the weights' own `.grad` is never touched. How gradients are edited
on their way back is in `sweep.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from nnsight_lab.errors import OpFailed
from nnsight_lab.ir import Gradient, GradientWrite, Graph, NodeId, Read, Weight
from nnsight_lab.kernels.infer import map_tensors
from nnsight_lab.passes.sweeps import source_of
from nnsight_lab.runtime.sweep import Sweep
from nnsight_lab.runtime.values import Values

__all__ = ["Gradients", "followed_by_autograd"]

_Key: TypeAlias = tuple[int, NodeId]


class Gradients:
    """The gradients a graph takes and edits, and those of this run as they are computed."""

    def __init__(self, graph: Graph) -> None:
        self._nodes = [node for node in graph.nodes if isinstance(node, Gradient)]
        edits = (node for node in graph.nodes if isinstance(node, GradientWrite))
        self._edits = list(edits) if self._nodes else []
        self._places = {node.at for node in self._nodes} | {node.at for node in self._edits}
        self._sources = {source_of(graph.nodes, at) for at in self._places}
        self._sweeps: dict[_Key, Sweep] = {}
        self._under_way: list[object] = []

    @property
    def active(self) -> bool:
        """Whether the graph takes any; only then is the forward pass kept for going back."""
        return bool(self._nodes)

    def wanted_at(self, node: NodeId) -> bool:
        """Whether a gradient is taken with respect to this node's value, or to a part of it."""
        return node in self._places or node in self._sources

    def in_order(self, reads: Sequence[Read]) -> Sequence[Read]:
        """Reads of one moment, so that each sees those that gradients go back to.

        All rows whose gradient is taken come before the rows of one invoke, which are parts of
        them; all rows that are only read come last, and hold the invokes' rows.
        """
        if not self._nodes or len(reads) < 2:
            return reads

        def place(read: Read) -> int:
            return 1 if read.invoke is not None else 0 if self.wanted_at(read.id) else 2

        return sorted(reads, key=place)

    def followed(self, node: NodeId, value: Any) -> Any:
        """A value that autograd follows, even where nothing before it asks for that."""

        def follow(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.requires_grad or not tensor.is_floating_point():
                return tensor
            return tensor.detach().requires_grad_()

        return map_tensors(value, follow) if self.wanted_at(node) else value

    def let_go(self, value: Any) -> Any:
        """A saved value without the graph behind it, and no longer the model's."""
        return map_tensors(value, lambda tensor: tensor.detach().clone()) if self._nodes else value

    def taken(self, node: Gradient, values: Values, compute: Callable[[NodeId], Any]) -> Any:
        """One gradient; the first of a backward pass computes them all.

        compute: the value of a node that an edit needs, computed if it is not there yet.

        Raises:
            OpFailed: the loss does not depend on that value.
        """
        key = node.sweep, node.of
        if key not in self._sweeps:
            edits = {e.at: e.value for e in self._edits if (e.sweep, e.of) == key}
            taken = [other.at for other in self._nodes if (other.sweep, other.of) == key]
            places = {at: values[at] for at in dict.fromkeys((*taken, *edits))}
            loss = values[node.of].sum()
            self._sweeps[key] = Sweep(loss, places, edits, self._under_way)
        gradient = self._sweeps[key].arrived(node.at, compute)
        if gradient is None:
            raise OpFailed(
                "The loss does not depend on this value, so there is no gradient at it.",
                hint="Take it at the value the loss was computed from, not at a copy or a slice.",
            )
        return gradient


def followed_by_autograd(node: Weight, weight: torch.Tensor) -> torch.Tensor:
    """A weight of the model that a gradient is taken at. Raises `OpFailed` where it is frozen."""
    if not weight.requires_grad:
        raise OpFailed(
            f"{node.path}.{node.name} is frozen (requires_grad is False), so it has no gradient.",
            hint="Unfreeze it on the model itself: parameter.requires_grad_(True).",
        )
    return weight
