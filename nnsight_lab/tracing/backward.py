"""Backward passes while a block is recorded: which loss was gone back from, `.grad`, edits of it.

A gradient is a cell like a place of the model: an edit is seen by whoever reads it later in the
program, and what goes on back through the model is its end value.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from nnsight_lab.errors import GraphError, NotSupported
from nnsight_lab.ir import STEP, Gradient, GradientWrite, Node, NodeId
from nnsight_lab.passes.check import check_differentiable, check_fits
from nnsight_lab.passes.schedule import AFTER
from nnsight_lab.passes.stages import after
from nnsight_lab.passes.sweeps import circle, gradient_needed_first
from nnsight_lab.tracing.cells import Cell, Value, place_and_line
from nnsight_lab.tracing.parts import Part
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.source import at_line, user_line

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = ["Backwards"]

_Key: TypeAlias = tuple[int, NodeId]


class Backwards(Part):
    """The backward passes of one recording."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._loss: Value | None = None
        self._sweep = -1
        self._cells: dict[_Key, Cell] = {}
        self._moments: dict[NodeId, int] = {}

    def begin(
        self, number: Proxy, gradient: Any, options: dict[str, Any]
    ) -> AbstractContextManager[None]:
        """From here on, `.grad` is the gradient of this loss.

        gradient: what to go back with where it is not a single number. options: torch's own;
            `retain_graph` is always so.

        Raises:
            ShapeMismatch: it is not a single real number, and there is no gradient of its shape.
            NotSupported: an option that would do what a graph cannot.
        """
        where = user_line()
        at_line(where, self._recorder.places.steps.check_backward)
        self._recorder.modes.note_backward()
        for name, value in options.items():
            if name != "retain_graph" and value:
                raise NotSupported(
                    f"backward({name}=…) is not possible in a trace.",
                    hint="Read the gradient of each value by its .grad.",
                ).at(where)
        if gradient is not None:
            given = self._recorder.value_of(gradient, like=number.now().meta)
            at_line(where, check_fits, "The loss", number.now().meta, given.meta)
            number = (number * Proxy(self._recorder, Cell(given)).detach()).sum()
        loss = number.now()
        at_line(where, check_differentiable, loss.meta, loss.meta)
        self._loss = loss
        self._sweep += 1
        return nullcontext()

    def gradient(self, at: Value) -> Proxy:
        """The gradient of the last loss with respect to a value; the same cell each time.

        Raises:
            GraphError: nothing was gone back through yet.
        """
        return Proxy(self._recorder, self._cell(at))

    def replace(self, at: Value, value: Any) -> None:
        """`h.grad = value`: go on back with another gradient."""
        cell = self._cell(at)
        if isinstance(value, Proxy) and value.is_whole(cell):
            return  # `h.grad *= 2` has already edited it
        self._recorder.places.edit(cell, self._recorder.value_of(value, like=at.meta))

    def _cell(self, at: Value) -> Cell:
        where, loss = user_line(), self._loss
        if loss is None:
            raise GraphError(
                "There is no gradient before a backward pass.",
                hint="with loss.backward(): gradient = h.grad.save()",
            ).at(where)
        at_line(where, check_differentiable, loss.meta, at.meta)
        at_line(where, _check_before, loss, at)
        key = self._sweep, at.node
        if key not in self._cells:
            id = self._recorder.next_id
            node = Gradient(id=id, of=loss.node, at=at.node, sweep=self._sweep, where=where)
            moment = max(AFTER, after(max(loss.moment, at.moment) // STEP))
            value = self._recorder.add(node, at.meta, moment, node)
            self._cells[key] = Cell(value, gradient=node)
            self._moments[at.node] = at.moment
        return self._cells[key]

    def check_edit(self, cell: Cell, new: Value) -> None:
        """Whether a gradient may be replaced by this value.

        Raises:
            ShapeMismatch: it does not fit.
            WriteTooEarly: it needs a gradient that arrives only after this one has gone on.
        """
        assert cell.gradient is not None, "only gradients come here"
        check_fits("The gradient", cell.value.meta, new.meta)
        writes = {key: other.value.node for key, other in self._cells.items() if other.version}
        writes[cell.gradient.sweep, cell.gradient.at] = new.node
        nodes = cast(
            "Sequence[Node]", self._recorder.nodes
        )  # what moved into a region is not asked for
        late = gradient_needed_first(nodes, cell.gradient, writes, self._moments)
        if late is not None:
            raise circle(late)

    def writes(self, next_id: NodeId) -> list[tuple[GradientWrite, int]]:
        """A write for each edited gradient, with its end value and its moment.

        next_id: the id of the first of them.
        """
        found: list[tuple[GradientWrite, int]] = []
        for cell in self._cells.values():
            at = cell.gradient
            if at is not None and cell.version:
                node = GradientWrite(
                    id=next_id + len(found),
                    of=at.of,
                    at=at.at,
                    value=cell.value.node,
                    sweep=at.sweep,
                    where=cell.edited,
                )
                moment = max(self._recorder.moment_of(at.id), cell.value.moment)
                found.append((node, moment))
        return found


def _check_before(loss: Value, at: Value) -> None:
    """Refuse the gradient at a value that is only there after the loss."""
    if at.moment <= loss.moment:
        return
    names = [place_and_line(value.read)[0] for value in (loss, at) if value.read]
    places = f": it comes from {names[0]}, and this from {names[1]}" if len(names) == 2 else ""
    raise GraphError(
        f"The loss is there before this value, so it has no gradient at it{places}.",
        hint="Go back from something that is computed from it, such as the logits.",
    )
