"""Peeks: Python needs a number while the block is recorded, so what is recorded so far is run.

    if h.norm() > 5:          # a peek: one number comes back, and recording goes on
        lm.layers[3].output[:] = 0

A peek runs the part of the program that its value depends on, with the edits the model meets on
the way there, on the prompts given so far. It adds nothing to the graph. An edit recorded later
that would have changed the value is refused. What Python's conversions make of the value is in
`conversions.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nnsight_lab.contract import PeekCost
from nnsight_lab.errors import PeekContradicted, SourceLine, ValueNotKnown
from nnsight_lab.ir import (
    RESULT,
    TOKENS,
    Address,
    Constant,
    Gradient,
    GradientWrite,
    Graph,
    Node,
    NodeId,
    Output,
    Read,
)
from nnsight_lab.ir.nodes import Skip, Write, dependencies, has_value
from nnsight_lab.tracing.cells import Value
from nnsight_lab.tracing.parts import Part
from nnsight_lab.tracing.proxy import did_not_happen
from nnsight_lab.tracing.regions import without_holes
from nnsight_lab.tracing.source import user_line

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = ["Peeks", "Visit"]


@dataclass(frozen=True, slots=True)
class Visit:
    """A place at the moment the model is there: what a read takes, or an edit puts back."""

    address: Address
    moment: int
    invoke: int | None = None

    def reaches(self, read: Visit) -> bool:
        """Whether an edit here changes what is read there."""
        if self.invoke is not None and read.invoke not in (None, self.invoke):
            return False  # rows of a batch do not see each other
        return self.moment < read.moment

    def shares_place(self, read: Visit) -> bool:
        """Whether this is another name of the place that is read; the run refuses what mixes."""
        return self.moment == read.moment and self.address != read.address


@dataclass(frozen=True, slots=True)
class _Look:
    """A value that Python has seen: where, and what of the model it depends on."""

    where: SourceLine | None
    visits: frozenset[Visit]


class Peeks(Part):
    """The peeks of one recording.

    carry_out: runs a graph on the prompts given so far, and gives a mapping of names to values
        with `seconds` and `sent_bytes`.
    """

    def __init__(self, recorder: Recorder, carry_out: Callable[[Graph], Any]) -> None:
        super().__init__(recorder)
        self.cost = PeekCost()
        self._carry_out = carry_out
        self._found: dict[str, tuple[Any, ...]] = {}
        self._looks: list[_Look] = []

    def look(self, *values: Value) -> tuple[Any, ...]:
        """What these values are, found by running what they depend on.

        The same question twice is one run: a graph without its lines says what is asked.

        Raises:
            LabError: whatever the run failed with.
            ValueNotKnown: it follows from tokens that each run draws anew, or from a slider.
        """
        where = user_line()
        graph, visits = _program(self._recorder, [value.node for value in values])
        if self._recorder.draws_anew and any(map(_is_drawn, graph)):
            raise _drawn_anew()
        for node in graph:
            if isinstance(node, Constant) and node.slider is not None:
                raise _moves(node.slider.name)
        if graph.key not in self._found:
            run = self._carry_out(graph)
            if getattr(run, "missing", ()):
                raise did_not_happen()
            self._found[graph.key] = tuple(run[output.name] for output in graph.outputs)
            self._count(run)
        self._looks.append(_Look(where, visits))
        return self._found[graph.key]

    def _count(self, run: Any) -> None:
        self.cost = replace(
            self.cost,
            count=self.cost.count + 1,
            seconds=self.cost.seconds + sum(run.seconds.values()),
            sent_bytes=self.cost.sent_bytes + run.sent_bytes,
        )

    def check_edit(self, edit: Visit) -> None:
        """Refuse an edit that would change a value Python has seen.

        Raises:
            PeekContradicted: naming the line of the edit, and the line of the peek.
        """
        for look in self._looks:
            if any(edit.reaches(read) for read in look.visits):
                raise _contradicted(edit.address, look.where)


def _is_drawn(node: Node) -> bool:
    """Whether a node reads what follows from sampled tokens."""
    return isinstance(node, Read) and (node.step > 0 or node.address in (TOKENS, RESULT))


def _drawn_anew() -> ValueNotKnown:
    return ValueNotKnown(
        "Every run draws other tokens, so what Python would see is not what the run will give.",
        hint="Give the generation a seed: lm.generate(prompts, do_sample=True, seed=0).",
    ).at(user_line())


def _moves(name: str) -> ValueNotKnown:
    return ValueNotKnown(
        f"Slider {name!r} may be moved, so what Python would see now need not stay so.",
        hint="Decide in the graph: nl.cond, torch.where, or an `if` in a %%trace cell.",
    ).at(user_line())


def _contradicted(address: Address, where: SourceLine | None) -> PeekContradicted:
    text = f": {where.text}" if where is not None and where.text else ""
    return PeekContradicted(
        f"This edit of {address} would change a value that Python has already seen"
        f" ({where}{text}).",
        hint="Edit first and look afterwards. A loop that does both again and again goes around"
        " the trace, not inside it.",
    ).at(user_line())


def _program(recorder: Recorder, targets: list[NodeId]) -> tuple[Graph, frozenset[Visit]]:
    """The part of the program that some values depend on, and the visits they depend on."""
    nodes, effects = _with_effects(recorder)
    live: set[NodeId] = set()
    visits: set[Visit] = set()
    stack = list(targets)
    while stack:
        while stack:
            id = stack.pop()
            if id not in live:
                live.add(id)
                node = nodes[id]
                assert node is not None, "what is inside a region is not seen outside"
                stack.extend(dependencies(node))
                if isinstance(node, Read):
                    visits.add(Visit(node.address, recorder.moment_of(id), node.invoke))
        gradients = {node.sweep for id in live if isinstance(node := nodes[id], Gradient)}
        met = [node.id for node, moment in effects if _is_met(node, moment, visits, gradients)]
        stack = [id for id in met if id not in live]
    outputs = tuple(Output(f"peek_{place}", id) for place, id in enumerate(targets))
    kept = [node if id in live else None for id, node in enumerate(nodes)]
    return without_holes(kept, outputs, recorder.places.invokes), frozenset(visits)


def _with_effects(
    recorder: Recorder,
) -> tuple[tuple[Node | None, ...], list[tuple[Node, int]]]:
    """All nodes, with those that edits would become now; and what has an effect, and when."""
    pending = recorder.pending()
    nodes = (*recorder.nodes, *(node for node, _ in pending))
    noted = [
        (node, recorder.moment_of(node.id))
        for node in recorder.nodes
        if node is not None and not has_value(node)
    ]
    return nodes, noted + pending


def _is_met(node: Node, moment: int, visits: Iterable[Visit], sweeps: Iterable[int]) -> bool:
    """Whether the model meets an effect on its way to what is read."""
    match node:
        case Write(address=address, invoke=invoke):
            edit = Visit(address, moment, invoke)
            return any(edit.reaches(read) or edit.shares_place(read) for read in visits)
        case Skip():
            return any(moment <= read.moment for read in visits)
        case GradientWrite(sweep=sweep):
            return sweep in sweeps
        case _:
            return False
