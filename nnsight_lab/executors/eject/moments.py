"""What happens at each moment of a run, as the body of one hook: takes, computes, saves, puts back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from nnsight_lab.errors import LabError, NotSupported
from nnsight_lab.executors.eject.control import control_lines
from nnsight_lab.executors.eject.expressions import indexed, shown
from nnsight_lab.executors.eject.names import Names
from nnsight_lab.executors.eject.places import Place, place_of
from nnsight_lab.executors.eject.statements import Statements
from nnsight_lab.executors.families.table import Attention
from nnsight_lab.ir import (
    Apply,
    Call,
    Cond,
    Foreach,
    Gradient,
    GradientWrite,
    Graph,
    ModuleTree,
    Node,
    NodeId,
    Read,
    Ref,
    Skip,
    Weight,
    While,
    Write,
)
from nnsight_lab.ir.nodes import dependencies
from nnsight_lab.passes.invokes import Span, index_of
from nnsight_lab.passes.schedule import AFTER, BEFORE, Moment, Schedule

__all__ = ["Body", "Moments", "check_sayable"]

_LONGEST_INLINE = 60
"""Longer expressions get a line and a name of their own."""


@dataclass(slots=True)
class Body:
    """The lines of one hook, or of what stands before or after the model runs (`place` None)."""

    name: str
    place: Place | None
    lines: list[str] = field(default_factory=list)
    puts: bool = False


class Moments:
    """Writes the bodies of one program, in the order of the model.

    metas: the shape of each node's value. spans: the rows of each invoke.
    """

    def __init__(
        self,
        plan: Schedule,
        tree: ModuleTree,
        attention: Attention | None,
        metas: list[Any],
        spans: tuple[Span, ...],
    ) -> None:
        self._graph: Graph = plan.graph
        self._plan, self._tree, self._metas, self._spans = plan, tree, metas, spans
        self._places = {
            node.id: _placed(node, tree, attention)
            for node in plan.graph.nodes
            if isinstance(node, Read | Write)
        }
        self.names = Names(plan.graph)
        self.statements = Statements(tree, self.names, self._above_a_hook)
        self.bodies: list[Body] = []
        self._made_in: dict[str, Body] = {}
        self._used_in: dict[str, set[str]] = {}
        self._uses = _uses(plan.graph)
        self._taken_at = {node.at for node in plan.gradients}
        self._said: Any = None
        self._inlined: dict[NodeId, str] = {}
        self._users = _users(plan.graph)
        self._here: set[NodeId] = set()
        for moment in sorted(plan.moments):
            self._write(moment, plan.moments[moment])

    @property
    def hooks(self) -> list[Body]:
        """Those that stand on the model."""
        return [body for body in self.bodies if body.place is not None]

    def crossing(self, body: Body | None = None) -> list[str]:
        """Variables made in one hook and used in another, or after the model has run."""
        return [
            name
            for name, made in self._made_in.items()
            if made.place is not None
            and self._used_in.get(name, set()) - {made.name}
            and (body is None or made is body)
        ]

    def _above_a_hook(self, path: str) -> bool:
        paths = [place.path for place in self._places.values()]
        return any(not path or at == path or at.startswith(f"{path}.") for at in paths)

    def _write(self, moment: int, here: Moment) -> None:
        places: tuple[Read | Write, ...] = (*here.reads, *here.writes)
        place = self._places[places[0].id] if places else None
        name = "before" if moment == BEFORE else "after" if moment == AFTER else ""
        if place is not None:
            name = self.names.free(f"at_{places[0].address}")
        body = Body(name, place)
        self.bodies.append(body)
        self._said = None
        self._here = set(here.steps)
        for read in here.reads:
            self._read(read, body)
        for id in here.steps:
            self._step(self._graph[id], body)
        for saved, id in here.outputs:
            body.lines.append(f"saved[{shown(saved)}] = {self._kept(id, body)}")
        for write in here.writes:
            self._put(write, self._handed_back(write.value, body), body)

    # Names of values

    def _text(self, id: NodeId, body: Body) -> str:
        if id in self._inlined:
            return self._inlined[id]
        name = self.names.of[id]
        self._used_in.setdefault(name, set()).add(body.name)
        return name

    def _name(self, node: Node, body: Body) -> str:
        name = self.names.give(node)
        self._made_in[name] = body
        return name

    def _kept(self, id: NodeId, body: Body) -> str:
        """A value as it is saved: without what autograd holds, and no longer the model's own."""
        text, tensor = self._text(id, body), isinstance(self._metas[id], torch.Tensor)
        if self._taken_at or self._plan.gradients:
            return f"{text}.detach().clone()" if tensor else text
        return f"{text}.clone()" if isinstance(self._graph[id], Weight) else text

    def _handed_back(self, id: NodeId, body: Body) -> str:
        """A value for the model, which may write into it: a copy, where others use it too."""
        text = self._text(id, body)
        if self._uses[id] == 1:
            return text
        if isinstance(self._metas[id], torch.Tensor):
            return f"{text}.clone()"
        self.statements.needs.add("copied")
        return f"copied({text})"

    def _comment(self, node: Node, body: Body) -> None:
        """The user's own line, once above what was made of it."""
        where = node.where
        if where is not None and where != self._said and where.text:
            self._said = where
            if body.lines:
                body.lines.append("")
            body.lines.append(f"# {where.text}")

    # Reads, steps, writes

    def _read(self, node: Read, body: Body) -> None:
        place = self._places[node.id]
        taken = self._part(place.take, node)
        if place.stage == "before-any":
            self.statements.needs.add("first_input")
        if not isinstance(self._metas[node.id], torch.Tensor):
            self.statements.needs.add("copied")
            value = f"copied({taken})"
        else:
            value = f"{taken}.contiguous().clone()" if place.turned else f"{taken}.clone()"
        if (
            not self._plan.gradients
            and self._reads_well_inline(node)
            and len(value) <= _LONGEST_INLINE
        ):
            self._inlined[node.id] = value
            return
        followed = node.id in self._taken_at
        self._comment(node, body)
        name = self._name(node, body)
        body.lines.append(f"{name} = {value}{'.requires_grad_()' if followed else ''}")
        if followed:
            self._put(node, name, body)

    def _part(self, taken: str, node: Read | Write) -> str:
        """One invoke's part of a value; the whole of it when it is for all rows."""
        if node.invoke is None:
            return taken
        spec = self._tree.by_address[node.address].spec
        return indexed(taken, index_of(spec, self._spans[node.invoke], str(node.address)))

    def _put(self, node: Read | Write, new: str, body: Body) -> None:
        place = self._places[node.id]
        body.puts = True
        if place.stage == "before-any":
            self.statements.needs.update(("first_input", "with_first_input"))
        if node.invoke is not None:
            body.lines.append(f"whole = {place.take}.clone()")
            body.lines.append(f"{self._part('whole', node)} = {new}")
            new = "whole"
        body.lines += place.put(new)

    def _step(self, node: Node, body: Body) -> None:
        if isinstance(node, Gradient):
            self._gradient(node, body)
            return

        def text(id: NodeId) -> str:
            return self._text(id, body)

        if isinstance(node, Call) and self._reads_well_inline(node):
            found = self.statements.expression(node, text, self._metas.__getitem__)
            if len(found) <= _LONGEST_INLINE:
                self._inlined[node.id] = found
                return
        self._comment(node, body)
        name = self._name(node, body)
        if isinstance(node, Cond | Foreach | While):
            body.lines += control_lines(node, name, text, self.statements)
            return
        followed = node.id in self._taken_at
        body.lines += self.statements.lines(
            node, name, text, self._metas.__getitem__, followed=followed
        )

    def _reads_well_inline(self, node: Call | Read) -> bool:
        """Whether a value may stand where it is used: once, at once, in the same line of code."""
        if len(self._users[node.id]) != 1 or self.names.wanted(node.id):
            return False
        if node.id in self._taken_at or (isinstance(node, Call) and node.op.startswith("lab.")):
            return False
        (user,) = self._users[node.id]
        is_base = (
            isinstance(user, Call) and user.op.startswith("lab.") and Ref(node.id) in user.args[:1]
        )
        saved = any(output.node == node.id for output in self._graph.outputs)
        near = user.id in self._here and user.where == node.where
        return near and not saved and not is_base and isinstance(user, Call | Apply)

    def _gradient(self, node: Gradient, body: Body) -> None:
        """One backward pass gives all gradients of its loss."""
        if node.id in self.names.of:
            return
        self._comment(node, body)
        same = [
            other
            for other in self._plan.gradients
            if (other.of, other.sweep) == (node.of, node.sweep) and other.at in self.names.of
        ]
        found = [self._name(other, body) for other in same]
        places = ", ".join(self._text(other.at, body) for other in same)
        losses = {(other.of, other.sweep) for other in self._plan.gradients}
        again = ", retain_graph=True" if len(losses) > 1 else ""
        given = f"{self._text(node.of, body)}.sum(), [{places}]{again}"
        targets = f"({found[0]},)" if len(found) == 1 else ", ".join(found)
        line = f"{targets} = torch.autograd.grad({given})"
        split = [f"{targets} = torch.autograd.grad(", f"    {given}", ")"]
        body.lines += [line] if len(line) <= 88 else split


def _uses(graph: Graph) -> list[int]:
    """How often each value is used or saved."""
    uses = [0] * len(graph)
    for node in graph.nodes:
        for id in dependencies(node):
            uses[id] += 1
    for output in graph.outputs:
        uses[output.node] += 1
    return uses


def _users(graph: Graph) -> list[list[Node]]:
    """Who uses each value, as often as it does."""
    users: list[list[Node]] = [[] for _ in graph.nodes]
    for node in graph.nodes:
        for id in dependencies(node):
            users[id].append(node)
    return users


def _placed(node: Read | Write, tree: ModuleTree, attention: Attention | None) -> Place:
    try:
        return place_of(node.address, tree, attention)
    except LabError as exc:
        raise exc.at(node.where)


def check_sayable(graph: Graph) -> None:
    """Refuse what no plain hook says yet, at its line.

    Raises:
        NotSupported: skips, steps of decoding, and edited gradients.
    """
    for node in graph.nodes:
        what = ""
        match node:
            case Skip():
                what = "A skipped module"
            case GradientWrite():
                what = "An edited gradient"
            case Read(step=step) | Write(step=step) if step:
                what = "A later step of decoding"
        if what:
            raise NotSupported(
                f"{what} cannot be said in plain PyTorch yet.",
                hint="print(graph) shows the experiment line by line.",
                node=node.id,
            ).at(node.where)
