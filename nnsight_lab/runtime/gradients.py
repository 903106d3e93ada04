"""Gradients of one run: which values they are taken at, and the backward passes.

Each loss is gone back through once, for all places its gradient is taken at, and only as far as
those need (`torch.autograd.grad`): the weights' own `.grad` is never touched.
"""

from __future__ import annotations

from typing import Any

import torch

from nnsight_lab.errors import OpFailed
from nnsight_lab.ir import Gradient, NodeId
from nnsight_lab.kernels.infer import map_tensors
from nnsight_lab.runtime.values import Values

__all__ = ["Gradients"]


class Gradients:
    """The gradients a graph takes, and those of this run as they are computed."""

    def __init__(self, nodes: tuple[Gradient, ...]) -> None:
        self._nodes = nodes
        self._places = {node.at for node in nodes}
        self._taken: dict[NodeId, Any] = {}

    @property
    def active(self) -> bool:
        """Whether the graph takes any; only then is the forward pass kept for going back."""
        return bool(self._nodes)

    def wanted_at(self, node: NodeId) -> bool:
        """Whether a gradient is taken with respect to this node's value."""
        return node in self._places

    @staticmethod
    def followed(value: Any) -> Any:
        """A value that autograd follows, even where nothing before it asks for that."""

        def follow(tensor: torch.Tensor) -> torch.Tensor:
            own = tensor.clone()
            return own if own.requires_grad else own.requires_grad_()

        return map_tensors(value, follow)

    def let_go(self, value: Any) -> Any:
        """A saved value without the graph behind it, and no longer the model's."""
        return map_tensors(value, lambda tensor: tensor.detach().clone()) if self._nodes else value

    def taken(self, node: Gradient, values: Values) -> Any:
        """One gradient; the first of a loss computes them all.

        Raises:
            OpFailed: the loss does not depend on that value.
        """
        if node.id not in self._taken:
            same = [other for other in self._nodes if other.of == node.of]
            places = [values[other.at] for other in same]
            loss = values[node.of].sum()
            found: tuple[torch.Tensor | None, ...] = (None,) * len(places)
            if loss.requires_grad:
                found = torch.autograd.grad(loss, places, retain_graph=True, allow_unused=True)
            self._taken |= {other.id: grad for other, grad in zip(same, found, strict=True)}
        gradient = self._taken[node.id]
        if gradient is None:
            raise OpFailed(
                "The loss does not depend on this value, so there is no gradient at it.",
                hint="Take it at the value the loss was computed from, not at a copy or a slice.",
            )
        return gradient
