"""Backward passes while a block is recorded: which loss was gone back from, and `.grad`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from nnsight_lab.errors import GraphError
from nnsight_lab.ir import Gradient, NodeId
from nnsight_lab.passes.check import check_differentiable
from nnsight_lab.passes.schedule import AFTER
from nnsight_lab.tracing.cells import Cell, Value
from nnsight_lab.tracing.operators import GRADIENTS_ARE_READ
from nnsight_lab.tracing.parts import Part
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.source import at_line, user_line

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = ["Backwards"]


class Backwards(Part):
    """The backward passes of one recording."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._loss: Value | None = None
        self._gradients: dict[tuple[NodeId, NodeId], Value] = {}

    def begin(self, loss: Value) -> AbstractContextManager[None]:
        """From here on, `.grad` is the gradient of this loss.

        Raises:
            ShapeMismatch: it is not a single real number.
        """
        at_line(user_line(), check_differentiable, loss.meta, loss.meta)
        self._loss = loss
        return nullcontext()

    def gradient(self, at: Value) -> Proxy:
        """The gradient of the last loss with respect to a value; the same node each time.

        Raises:
            GraphError: nothing was gone back through yet.
        """
        where = user_line()
        loss = self._loss
        if loss is None:
            raise GraphError(
                "There is no gradient before a backward pass.",
                hint="with loss.backward(): gradient = h.grad.save()",
            ).at(where)
        at_line(where, check_differentiable, loss.meta, at.meta)
        key = (loss.node, at.node)
        if key not in self._gradients:
            node = Gradient(id=self._recorder.next_id, of=loss.node, at=at.node, where=where)
            value = self._recorder.add(node, at.meta, AFTER, f"a gradient ({where})")
            self._gradients[key] = value
        return Proxy(self._recorder, Cell(self._gradients[key], fixed=GRADIENTS_ARE_READ))
