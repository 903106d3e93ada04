"""Programs within the program: nodes recorded on a tape and moved into a block.

    with taped(recorder) as tape:     # a branch, or the body of a loop, runs here
        ...
    tape.moved                        # its nodes, no longer part of the outer program
    tape.changed                      # the cells it edited, and what it put there

A block is pure. What the branch reads of the model stays outside, where it is just "the value
there"; what it edits is put back as it was and noted, so that the region as a whole can edit it.
How blocks become nodes is in `branches.py` and `loops.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nnsight_lab.errors import GraphError, SourceLine
from nnsight_lab.ir import (
    Block,
    Call,
    Constant,
    Gradient,
    GradientWrite,
    Graph,
    LocalCall,
    Node,
    NodeId,
    Output,
    Param,
    Read,
    Ref,
    Skip,
    Weight,
    Write,
)
from nnsight_lab.ir.nodes import dependencies, nodes_within, with_new_ids
from nnsight_lab.passes.schedule import BEFORE
from nnsight_lab.tracing.cells import Cell, MadeLate, Value
from nnsight_lab.tracing.source import user_line

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = [
    "Change",
    "Tape",
    "block_of",
    "captures_of",
    "check_called",
    "gone",
    "latest",
    "part_of",
    "refuse_inside",
    "taped",
    "without_holes",
]


@dataclass(frozen=True, slots=True)
class Change:
    """A cell that a tape edited: its value before and after, and the line of the last edit."""

    cell: Cell
    before: Value
    after: Value
    edited: SourceLine | None


@dataclass(slots=True, eq=False)
class Tape:
    """What one run of a branch recorded.

    start: the id its first node had. moved: its nodes, by the ids they had. changed: the cells
    from outside it edited.
    """

    recorder: Recorder
    start: NodeId
    moved: dict[NodeId, Node] = field(default_factory=dict)
    changed: dict[int, Change] = field(default_factory=dict)
    _before: dict[int, tuple[Cell, Value, int, SourceLine | None]] = field(default_factory=dict)

    def note(self, cell: Cell) -> None:
        """This cell is about to be edited."""
        self._before.setdefault(id(cell), (cell, cell.value, cell.version, cell.edited))

    def close(self) -> None:
        """Take the nodes out of the program, and put edited cells back as they were."""
        changes = []
        for cell, value, version, edited in self._before.values():
            changes.append(Change(cell, value, cell.value, cell.edited))
            cell.value, cell.version, cell.edited = value, version, edited
        for node in self.recorder.nodes_from(self.start):
            if not _stays(node, self.moved):
                self.moved[node.id] = node
        self.recorder.take_out(self.moved)
        self.changed = {id(c.cell): c for c in changes if c.before.node not in self.moved}

    def check_pure(self) -> None:
        """Refuse what cannot be done in some branches only."""
        for node in self.moved.values():
            if isinstance(node, Write | Skip | Gradient | GradientWrite):
                what = "gradient" if isinstance(node, Gradient | GradientWrite) else "skip"
                raise GraphError(
                    f"A {what} of a branch's own values cannot stand inside a branch or a loop.",
                    hint="Give the value back from the branch, and do it outside.",
                ).at(node.where)


def _stays(node: Node, moved: Mapping[NodeId, Node]) -> bool:
    if isinstance(node, Read | Constant | Weight):
        return True
    free = not any(other in moved for other in dependencies(node))
    return isinstance(node, Gradient) and free


@contextmanager
def taped(recorder: Recorder) -> Iterator[Tape]:
    """Record on a tape instead of the program, until the end of the `with`."""
    tape = Tape(recorder, recorder.next_id)
    recorder.tapes.append(tape)
    peeks, recorder.peeks = recorder.peeks, None  # whether a branch is taken is not known yet
    try:
        yield tape
    finally:
        recorder.peeks = peeks
        recorder.tapes.remove(tape)
        tape.close()
    tape.check_pure()


def gone() -> GraphError:
    """The refusal of a value that lives in a branch only, where it is used outside."""
    return GraphError(
        "This value was made inside a branch or a loop, and is used outside of it.",
        hint="Give it back from there: the result of nl.cond, nl.foreach or nl.while_ may be used.",
    ).at(user_line())


def refuse_inside(recorder: Recorder, what: str, hint: str) -> None:
    """Refuse what is done once, whichever branch is taken. Raises `GraphError`."""
    if recorder.in_region:
        raise GraphError(f"{what} inside a branch or a loop of the graph.", hint=hint).at(
            user_line()
        )


def check_called(moved: Mapping[NodeId, Node], results: Iterable[NodeId]) -> None:
    """Whether every local function a branch calls is there for what the branch gives.

    A block gives values and does nothing else, so any other call would be lost.

    Raises:
        GraphError: nothing that the branch gives needs it.
    """
    needed = _needed(moved, results)
    for node in moved.values():
        calls = (call for call in nodes_within(node) if isinstance(call, LocalCall))
        call = next(calls, None)
        if call is not None and node.id not in needed:
            raise GraphError(
                f"Nothing that this branch or loop gives needs {call.function},"
                " so it would not be called.",
                hint="Give back what it makes, or call it outside.",
            ).at(call.where)


def latest(values: Iterable[Value]) -> tuple[int, MadeLate]:
    """The moment from which all these values are there, and the read that makes it so late."""
    last = max(values, key=lambda value: value.moment, default=None)
    return (last.moment, last.read) if last is not None else (BEFORE, None)


def captures_of(moved: Mapping[NodeId, Node], results: Iterable[NodeId]) -> list[NodeId]:
    """The ids of outer values that these results are made from, in a stable order."""
    found = {id: None for id in results if id not in moved}
    for id in sorted(_needed(moved, results)):
        found.update((other, None) for other in dependencies(moved[id]) if other not in moved)
    return list(found)


def _needed(moved: Mapping[NodeId, Node], results: Iterable[NodeId]) -> set[NodeId]:
    stack, needed = [id for id in results if id in moved], set[NodeId]()
    while stack:
        id = stack.pop()
        if id not in needed:
            needed.add(id)
            stack.extend(other for other in dependencies(moved[id]) if other in moved)
    return needed


def block_of(
    moved: Mapping[NodeId, Node], given: Sequence[NodeId], results: Sequence[NodeId]
) -> Block:
    """The block that is given the values of ids `given`, and gives back those of `results`."""
    new_ids = {id: place for place, id in enumerate(given)}
    nodes: list[Node] = [Param(id=place, index=place) for place in range(len(given))]
    for id in sorted(_needed(moved, results) - set(given)):
        new_ids[id] = len(nodes)
        nodes.append(with_new_ids(moved[id], new_ids))
    return Block(len(given), tuple(nodes), tuple(new_ids[id] for id in results))


def part_of(
    recorder: Recorder, whole: Value, index: int, meta: Any, where: SourceLine | None
) -> Value:
    """One of the values a region gives."""
    id, args = recorder.next_id, (Ref(whole.node), index)
    node = Call(id=id, op="operator.getitem", args=args, where=where)
    return recorder.add(node, meta, whole.moment, whole.read)


def without_holes(
    nodes: Sequence[Node | None], outputs: Sequence[Output], invokes: tuple[int, ...]
) -> Graph:
    """The graph of a recording, its ids closed up where nodes were moved into blocks."""
    kept = [node for node in nodes if node is not None]
    if len(kept) == len(nodes):
        return Graph(tuple(kept), tuple(outputs), invokes)
    new_ids = {node.id: place for place, node in enumerate(kept)}
    renamed = tuple(with_new_ids(node, new_ids) for node in kept)
    named = tuple(Output(output.name, new_ids[output.node]) for output in outputs)
    return Graph(renamed, named, invokes)
