"""The places of the model while a block is recorded: which cell each is, whose rows, who edited it.

A place is one cell for the whole recording, so that an edit is seen by whoever reads it later.
Every edit goes through `edit`, which is where it is refused if the model could not take it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from nnsight_lab.errors import GraphError, LabError, NotSupported, OpNotAllowed, SourceLine
from nnsight_lab.ir import RESULT, Address, ModuleSource, ModuleTree, Read, Write
from nnsight_lab.kernels import Unknown
from nnsight_lab.kernels.arguments import without_numpy
from nnsight_lab.passes.check import check_fits
from nnsight_lab.passes.invokes import check_separable
from nnsight_lab.passes.refusals import check_editable
from nnsight_lab.passes.schedule import too_early
from nnsight_lab.tracing.cells import Cell, Later, Value, place_and_line
from nnsight_lab.tracing.parts import Part
from nnsight_lab.tracing.peeks import Visit
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.regions import refuse_inside
from nnsight_lab.tracing.source import at_line, user_line
from nnsight_lab.tracing.steps import Steps
from nnsight_lab.tracing.whole_writes import is_written_by_items, write_items

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = ["Places"]

_Key = tuple[Address, int | None, int]


class Places(Part):
    """The cells of one recording, and the rows and step that places mean at this point of it.

    batch: rows of the prompt that is recorded now. steps: its forward passes.
    """

    def __init__(
        self,
        recorder: Recorder,
        tree: ModuleTree,
        batch: int,
        pos: int,
        decode: ModuleTree | None,
        passes: int,
    ) -> None:
        super().__init__(recorder)
        self.batch = batch
        self.steps = Steps(tree, decode, passes)
        self._pos = pos
        self._cells: dict[_Key, Cell] = {}
        self._rows: list[tuple[int, int]] = []
        self._invoke: int | None = None
        self._first_row = 0
        self._next_step = 0
        self._stopped: SourceLine | None = None

    @property
    def tree(self) -> ModuleTree:
        """The tree of the forward pass that is recorded now."""
        return self.steps.tree

    @property
    def pos(self) -> int:
        """How many positions there are in the forward pass that is recorded now."""
        return self._pos + self.steps.now

    # Whose rows

    @property
    def invokes(self) -> tuple[int, ...]:
        """How many rows each invoke has, so far."""
        return tuple(rows for rows, _ in self._rows)

    def enter_part(
        self, tree: ModuleTree, batch: int, pos: int, decode: ModuleTree | None, passes: int
    ) -> None:
        """From here on, places are those of one more trace of a session; batch 0: of its invokes.

        A run of several traces lists the rows of each, so one without invokes is one itself.
        """
        self.steps = Steps(tree, decode, passes, self._next_step)
        self._next_step += max(passes, 1)
        self._first_row = len(self._rows)
        self.batch, self._pos = batch, pos
        self._stopped = None
        if batch:
            self._rows.append((batch, pos))

    def enter_invoke(self, rows: int, pos: int) -> None:
        """From here on, places are those of one more invoke: `rows` prompts of `pos` tokens."""
        self._invoke = len(self._rows)
        self._rows.append((rows, pos))
        self.batch, self._pos = rows, pos

    def enter_all_rows(self) -> None:
        """From here on, places are those of the whole batch; no prompt may follow."""
        self._invoke = None
        own = self._rows[self._first_row :]
        self.batch = sum(rows for rows, _ in own)
        self._pos = max((pos for _, pos in own), default=0)

    def leave_invoke(self) -> None:
        """The invoke is over; places need another one."""
        self._invoke = None
        self.batch = self._pos = 0

    @contextmanager
    def as_in(self, invoke: int | None, step: int = 0) -> Iterator[None]:
        """For a moment, places are those of that invoke again; of the whole batch where None.

        step: whose forward pass, counted from the first one of the trace.
        """
        before = self._invoke, self.batch, self._pos, self._stopped, self.steps.now
        self._stopped, self.steps.now = None, step
        if invoke is not None:
            self._invoke, (self.batch, self._pos) = invoke, self._rows[invoke]
        elif self._rows:
            self.enter_all_rows()
        try:
            yield
        finally:
            self._invoke, self.batch, self._pos, self._stopped, self.steps.now = before

    @property
    def invoke(self) -> int | None:
        """Whose rows places are now: the number of the open invoke, or None."""
        return self._invoke

    def stop(self) -> None:
        """From here on nothing further of the model is read or edited.

        Raises:
            GraphError: a branch is recorded; whether it is taken is not known.
        """
        hint = "Let Python decide: if bool(test): tracer.stop()."
        refuse_inside(self._recorder, "A trace cannot be stopped", hint)
        self._stopped = user_line()
        self.steps.stop()

    def check_going(self, place: Address | str) -> None:
        if self._stopped is not None:
            raise GraphError(
                f"{place} is used after tracer.stop() ({self._stopped}).",
                hint="Read and edit before it; what was read can still be computed with and saved.",
            )

    # Reading and editing

    def look_into(self, source: ModuleSource) -> None:
        """From here on, the operations inside a module's forward are places as well."""
        self.steps.look_into(source)

    def read(self, address: Address) -> Proxy:
        """The value at an address; the same cell each time, so that edits are seen."""
        return Proxy(self._recorder, self.cell(address))

    def cell(self, address: Address) -> Cell:
        """The cell of a place, read when it is first asked for.

        Raises:
            AddressNotFound: the model has no such place.
            NotSupported: it cannot be told which part of it an invoke's rows are.
        """
        address = self.steps.tree.one_name.get(address, address)
        step = self.steps.step_of(address)
        key = (address, self._invoke, step)
        try:
            self.check_rows(address, step)
            cell = self._cells.get(key)
            if cell is None:
                cell = self._cells[key] = Cell(self._read(address, step), address)
        except LabError as exc:
            raise exc.at(user_line())
        return cell

    def _read(self, address: Address, step: int) -> Value:
        """A node that reads a place."""
        recorder, where, invoke = self._recorder, user_line(), self._invoke
        self.check_going(address)
        moment = self.steps.moment(address)
        recorder.skips.check_reached(address, moment)
        spec = self.steps.tree.by_address[address].spec
        if invoke is not None and address != RESULT:
            check_separable(spec, str(address))
        node = Read(id=recorder.next_id, address=address, invoke=invoke, step=step, where=where)
        return recorder.add(node, Later(spec, self.batch, self.pos), moment, node)

    def check_rows(self, address: Address, step: int) -> None:
        """Once a place is edited, it is used by invokes or by all rows, never by both.

        Raises:
            GraphError: there are no rows yet.
            NotSupported: it is edited for other rows.
        """
        if not self.batch:
            raise GraphError(
                "No prompt was given to this trace, and no invoke is open.",
                hint="with tracer.invoke(prompt): reads and edits that prompt's rows.",
            )
        others = [None] if self._invoke is not None else range(len(self._rows))
        for invoke in others:
            cell = self._cells.get((address, invoke, step))
            if cell is not None and cell.version:
                raise _mixed(address, invoke, self._invoke)

    def write(self, address: Address, value: Any) -> None:
        """Replace what is at an address: `module.output = value`.

        As with any attribute, a variable that was read from it before keeps the value it has. In
        a branch, whose edits may not happen, it goes on naming the place.
        """
        cell = self.cell(address)
        if isinstance(value, Proxy) and value.is_whole(cell):
            return
        value = without_numpy(value)
        held = cell.value.meta
        if isinstance(value, int | float | complex) and isinstance(held, torch.Tensor | Unknown):
            value = self._recorder.record("torch.full_like", (self.read(address), value), {})
        if is_written_by_items(value, held):
            write_items(self._recorder, Proxy(self._recorder, cell), value)
        elif self._recorder.in_region:
            self.edit(cell, self._recorder.value_of(value, like=held))
        else:
            self._replace(cell, self._recorder.value_of(value, like=held))

    def _replace(self, old: Cell, new: Value) -> None:
        """Another cell takes the place of one, which lives on in the variables that hold it."""
        keys = [key for key, cell in self._cells.items() if cell is old]
        cell = replace(old)
        self._cells.update(dict.fromkeys(keys, cell))
        try:
            self.edit(cell, new)
        except LabError:
            self._cells.update(dict.fromkeys(keys, old))
            raise
        old.address = None

    def edit(self, cell: Cell, new: Value, where: SourceLine | None = None) -> None:
        """Give a cell a new value, checking that a place in the model can take it.

        where: the line of the edit, when it is not the one that runs now.

        Raises:
            ShapeMismatch: the value does not fit the place.
            NotSupported: this engine takes no edit there.
            WriteTooEarly: the value is made after the model has passed the place.
            PeekContradicted: Python has seen a value that this would change.
        """
        where = where or user_line()
        if cell.fixed:
            hint = "Edit a .clone() of it, or a module's output."
            raise OpNotAllowed(cell.fixed, hint=hint).at(where)
        if cell.address is not None:
            at_line(where, self.steps.check_edit, cell.address)
            at_line(where, self.check_going, cell.address)
            at_line(where, check_editable, self.tree, cell.address)
            at_line(where, check_fits, str(cell.address), cell.value.meta, new.meta)
            if new.moment > cell.value.moment:
                raise too_early(cell.address, *place_and_line(new.read)).at(where)
            self._check_peeks(cell)
            new = Value(new.node, new.meta, cell.value.moment, cell.value.read)
        if cell.gradient is not None:
            at_line(where, self._recorder.backwards.check_edit, cell, new)
        self._recorder.note_edit(cell)
        cell.value = new
        cell.version += 1
        cell.edited = where

    def _check_peeks(self, cell: Cell) -> None:
        if self._recorder.peeks is None:
            return
        for key, other in self._cells.items():
            if other is cell:
                visit = Visit(key[0], cell.value.moment, key[1])
                self._recorder.peeks.check_edit(visit)

    def writes(self) -> list[tuple[Write, int]]:
        """A write for each edited place, with its end value; ids follow the recorder's next one.

        Raises:
            NotSupported: a place was edited both for an invoke and for all rows.
        """
        found: list[tuple[Write, int]] = []
        edited = {key for key, cell in self._cells.items() if cell.version}
        for (address, invoke, step), cell in self._cells.items():
            if invoke is not None and {(address, invoke, step), (address, None, step)} <= edited:
                raise _mixed(address, None, invoke).at(cell.edited)
            if cell.version and cell.address is not None:
                node = Write(
                    id=self._recorder.next_id + len(found),
                    address=cell.address,
                    value=cell.value.node,
                    invoke=invoke,
                    step=step,
                    where=cell.edited,
                )
                found.append((node, cell.value.moment))
        return found


def _rows_named(invoke: int | None) -> str:
    return "all rows" if invoke is None else f"invoke {invoke}"


def _mixed(address: Address, edited: int | None, used: int | None) -> NotSupported:
    return NotSupported(
        f"{address} is edited for {_rows_named(edited)}, and used for {_rows_named(used)}.",
        hint="Edit and read it for the same rows.",
    )
