"""One backward pass in which gradients are edited on their way back.

`torch.autograd.grad` goes back once, with a hook on every value whose gradient is taken or edited.
A hook notes what arrived and, where the graph says so, hands on another gradient: the nodes it
takes are computed then and there. Nothing is added to any `.grad`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch

from nnsight_lab.errors import OpFailed
from nnsight_lab.ir import NodeId

__all__ = ["Sweep"]


class Sweep:
    """A backward pass of one loss.

    places: the values gradients are taken or edited at, by node. edits: the node of the gradient
    that goes on from a place instead.
    under_way: the passes of this run that have begun and not ended, the innermost last.
    """

    def __init__(
        self,
        loss: torch.Tensor,
        places: Mapping[NodeId, torch.Tensor],
        edits: Mapping[NodeId, NodeId],
        under_way: list[object],
    ) -> None:
        self._loss = loss
        self._places = {at: value for at, value in places.items() if value.requires_grad}
        self._edits = edits
        self._arrived: dict[NodeId, torch.Tensor | None] = {}
        self._handed_on: dict[NodeId, torch.Tensor] = {}
        self._under_way = under_way
        self._editing: list[NodeId] = []
        self._begun = False

    def arrived(self, at: NodeId, compute: Callable[[NodeId], Any]) -> torch.Tensor | None:
        """The gradient that came to a value, before an edit there; None where none came.

        compute: the value of a node that an edit needs, computed if it is not there yet. It is the
            run's own and is not kept: the run holds this pass.
        """
        if at not in self._arrived:
            first, self._begun = not self._begun, True
            self._go_back(list(self._places) if first else [at], compute)
        return self._arrived.setdefault(at, None)

    def _go_back(self, wanted: list[NodeId], compute: Callable[[NodeId], Any]) -> None:
        """Fill in what arrives at these values. Within an edit, it is once more for one of them."""
        values = [self._places[at] for at in wanted if at in self._places]
        if not self._loss.requires_grad or not values:
            return
        this = object()
        self._under_way.append(this)
        with ExitStack() as stack:
            stack.callback(self._under_way.pop)
            for at, value in self._places.items() if self._edits else ():
                # Nothing lies further back than a weight; and it is not this run's alone.
                if not isinstance(value, torch.nn.Parameter):
                    stack.callback(value.register_hook(self._hook(at, this, compute)).remove)
            found = torch.autograd.grad(self._loss, values, retain_graph=True, allow_unused=True)
        there = [at for at in wanted if at in self._places]
        for at, gradient in zip(there, found, strict=True):
            self._arrived.setdefault(at, gradient)

    def _hook(
        self, at: NodeId, this: object, compute: Callable[[NodeId], Any]
    ) -> Callable[[torch.Tensor], torch.Tensor | None]:
        def hook(gradient: torch.Tensor) -> torch.Tensor | None:
            if self._under_way[-1] is not this:
                return None  # an edit has begun another pass through the same values
            if at in self._editing:
                raise _circle()
            self._arrived.setdefault(at, gradient.detach().clone())
            return self._replacement(at, compute)

        return hook

    def _replacement(self, at: NodeId, compute: Callable[[NodeId], Any]) -> torch.Tensor | None:
        if at not in self._edits:
            return None
        if at not in self._handed_on:
            self._editing.append(at)
            new = compute(self._edits[at])
            self._editing.pop()
            self._handed_on[at] = new.detach().clone()
        return self._handed_on[at]


def _circle() -> OpFailed:
    return OpFailed(
        "A gradient was to be replaced by one that only comes from it.",
        hint="Replace it by gradients of later places, which arrive first.",
    )
