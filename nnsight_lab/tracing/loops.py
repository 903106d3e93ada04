"""A recorded body becomes a loop: `Foreach` and `While` nodes, and what they carry along.

A loop carries what its body changes: values the caller names, and cells the body edits. Which
those are, and which shapes last, is only known once the body has run; where that teaches
something new, the body is recorded once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnsight_lab.errors import GraphError, SourceLine
from nnsight_lab.ir import Foreach, NodeId, Param, While
from nnsight_lab.kernels import Unknown
from nnsight_lab.kernels.join import fresh, join_metas, same_meta
from nnsight_lab.tracing.cells import Cell, Value
from nnsight_lab.tracing.regions import (
    Change,
    Tape,
    block_of,
    captures_of,
    check_called,
    latest,
    part_of,
    taped,
)

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = ["Loop", "Turn"]


@dataclass(slots=True, eq=False)
class _Slot:
    """Something carried from turn to turn: how it begins, and the shape it has in every turn."""

    init: Value
    meta: Any
    cell: Cell | None = None


@dataclass(slots=True, eq=False)
class Turn:
    """One recorded turn. item: what it is a turn for. carried: what it was given, by slot."""

    tape: Tape
    item: Value | None
    carried: list[Value]

    @property
    def given(self) -> list[NodeId]:
        """The ids of what the block is given, in the order a graph gives it."""
        first = [] if self.item is None else [self.item.node]
        return [*first, *(value.node for value in self.carried)]


class Loop:
    """A loop while it is recorded. inits: the values it carries, besides the cells it edits."""

    def __init__(
        self, recorder: Recorder, inits: Sequence[Value], where: SourceLine | None
    ) -> None:
        self._recorder = recorder
        self._where = where
        self._named = len(inits)
        self._slots = [_Slot(init, fresh(init.meta)) for init in inits]
        self._changes: dict[int, Change] = {}

    @contextmanager
    def turn(self, over: Value | None = None, item: Any = None) -> Iterator[Turn]:
        """Record one turn; `item` is the shape of an item of `over`."""
        with taped(self._recorder) as tape:
            first = None if over is None else self._param(0, item, over)
            skipped = 0 if over is None else 1
            carried = []
            for place, slot in enumerate(self._slots):
                carried.append(self._param(place + skipped, slot.meta, slot.init))
                if slot.cell is not None:
                    tape.note(slot.cell)
                    slot.cell.value = carried[-1]
                    slot.cell.version += 1
            yield Turn(tape, first, carried)

    def _param(self, index: int, meta: Any, like: Value) -> Value:
        node = Param(id=self._recorder.next_id, index=index, where=self._where)
        return self._recorder.add(node, fresh(meta), like.moment, like.read)

    def lasts(self, turn: Turn, new: Sequence[Value]) -> bool:
        """Whether a turn that ended with `new` can be any turn. If not, record another one."""
        before = [slot.meta for slot in self._slots]
        known = {id(slot.cell): slot for slot in self._slots if slot.cell is not None}
        for slot, value in zip(self._slots, new, strict=False):
            slot.meta = join_metas(slot.meta, value.meta)
        for key, change in turn.tape.changed.items():
            if key in known:
                known[key].meta = join_metas(known[key].meta, change.after.meta)
            else:
                meta = join_metas(change.before.meta, change.after.meta)
                self._slots.append(_Slot(change.before, meta, change.cell))
            self._changes[key] = change
        same = len(before) == len(self._slots)
        return same and all(map(same_meta, before, (slot.meta for slot in self._slots)))

    def _ends(self, turn: Turn, new: Sequence[Value]) -> list[Value]:
        """What each slot holds after a turn."""
        cells = [slot.cell for slot in self._slots[self._named :]]
        return [*new, *(turn.tape.changed[id(cell)].after for cell in cells)]

    def foreach(
        self, over: Value, length: int | None, turn: Turn, new: Sequence[Value], made: list[Value]
    ) -> tuple[list[Value], list[Value]]:
        """Add the loop over `over`. Gives what it carried to the end, and a tuple for each made."""
        results = [value.node for value in (*self._ends(turn, new), *made)]
        captures = self._captures([turn], [results])
        node = Foreach(
            id=self._recorder.next_id,
            over=over.node,
            carry=tuple(slot.init.node for slot in self._slots),
            inputs=tuple(captures),
            body=block_of(turn.tape.moved, [*turn.given, *captures], results),
            where=self._where,
        )
        metas = [slot.meta for slot in self._slots]
        metas += [Unknown() if length is None else (fresh(v.meta),) * length for v in made]
        ends = self._added(node, metas, [over, *map(self._recorder.value_at, captures)])
        return ends[: self._named], ends[len(self._slots) :]

    def while_(
        self, test: Turn, holds: Value, body: Turn, new: Sequence[Value], limit: int
    ) -> list[Value]:
        """Add the loop that goes on as long as `holds`. Gives what it carried to the end."""
        if any(change.after.node not in test.given for change in test.tape.changed.values()):
            raise GraphError(
                "The test of a loop makes an edit.", hint="Edit in the body; a test only looks."
            ).at(self._where)
        ends = [value.node for value in self._ends(body, new)]
        captures = self._captures([test, body], [[holds.node], ends])
        node = While(
            id=self._recorder.next_id,
            carry=tuple(slot.init.node for slot in self._slots),
            inputs=tuple(captures),
            test=block_of(test.tape.moved, [*test.given, *captures], [holds.node]),
            body=block_of(body.tape.moved, [*body.given, *captures], ends),
            limit=limit,
            where=self._where,
        )
        metas = [slot.meta for slot in self._slots]
        found = self._added(node, metas, [*map(self._recorder.value_at, captures)])
        return found[: self._named]

    def _captures(self, turns: list[Turn], results: list[list[NodeId]]) -> list[NodeId]:
        found: dict[NodeId, None] = {}
        for turn, ids in zip(turns, results, strict=True):
            check_called(turn.tape.moved, ids)
            found.update(dict.fromkeys(captures_of(turn.tape.moved, ids)))
        return list(found)

    def _added(self, node: Foreach | While, metas: list[Any], needs: list[Value]) -> list[Value]:
        """The node's values one by one; the cells it carries are edited."""
        recorder = self._recorder
        whole = recorder.add(
            node, tuple(metas), *latest([*needs, *(slot.init for slot in self._slots)])
        )
        values = [
            part_of(recorder, whole, place, meta, self._where) for place, meta in enumerate(metas)
        ]
        for slot, value in zip(self._slots, values, strict=False):
            if slot.cell is not None:
                recorder.places.edit(slot.cell, value, self._changes[id(slot.cell)].edited)
        return values
