"""Backward passes of a graph: in which order gradients arrive, and which edits of them cannot be.

A gradient arrives at later places first. What replaces one may need gradients that have arrived by
then, of this pass or of another, and none that only come from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from nnsight_lab.errors import NotSupported, WriteTooEarly
from nnsight_lab.ir import (
    Address,
    Call,
    Gradient,
    GradientWrite,
    Node,
    NodeId,
    Read,
    Ref,
    Weight,
    Write,
)
from nnsight_lab.ir.nodes import dependencies

__all__ = [
    "check_rows_of_gradients",
    "check_sweeps",
    "circle",
    "gradient_needed_first",
    "place_moments",
    "source_of",
]

_At: TypeAlias = tuple[int, NodeId]
"""A backward pass, and the value a gradient is taken at."""


def circle(late: Gradient) -> WriteTooEarly:
    """The error for a gradient that is to be replaced by what only comes from it."""
    line = f" (taken at {late.where})" if late.where else ""
    return WriteTooEarly(
        f"This gradient goes on before the one it is replaced by has arrived{line}.",
        hint="Gradients of later places arrive first. Save that one in a run, and use the tensor.",
    )


def check_rows_of_gradients(nodes: Sequence[Node]) -> None:
    """Whether gradients at each place are taken for all rows or for invokes, never for both.

    Raises:
        NotSupported: they are for both, of which each is a part of the other.
    """
    rows: dict[tuple[Address, int], set[bool]] = {}
    for node in nodes:
        if not isinstance(node, Gradient | GradientWrite):
            continue
        at = nodes[source_of(nodes, node.at)]
        if not isinstance(at, Read):
            continue
        found = rows.setdefault((at.address, at.step), set())
        found.add(at.invoke is None)
        if len(found) > 1:
            raise NotSupported(
                f"Gradients at {at.address} are taken for all rows and for one invoke.",
                hint="Take the one for all rows, and pick rows of it by index.",
                node=node.id,
            ).at(node.where)


def source_of(nodes: Sequence[Node], at: NodeId) -> NodeId:
    """The value that `at` is an item of: a module's tuple, for one of its tensors."""
    node = nodes[at]
    while isinstance(node, Call) and node.op == "operator.getitem":
        match node.args:
            case (Ref(id=id), int() | str()):
                node = nodes[id]
            case _:
                return at
    return node.id


def place_moments(nodes: Sequence[Node], when: Mapping[NodeId, int]) -> dict[NodeId, int]:
    """When the model meets each value a gradient is taken or edited at."""
    at = {node.at for node in nodes if isinstance(node, Gradient | GradientWrite)}
    moments = {id: when[id] for id in at}
    for node in nodes:
        if isinstance(node, Write) and node.value in at:
            moments[node.value] = max(moments[node.value], when[node.id])
    return moments


def check_sweeps(nodes: Sequence[Node], when: Mapping[NodeId, int]) -> None:
    """Whether every edited gradient can be there when it is needed.

    Raises:
        WriteTooEarly: one needs a gradient that only comes from it.
    """
    edits = [node for node in nodes if isinstance(node, GradientWrite)]
    if not edits:
        return
    writes = {(node.sweep, node.at): node.value for node in edits}
    moments = place_moments(nodes, when)
    for node in edits:
        late = gradient_needed_first(nodes, node, writes, moments)
        if late is not None:
            error = circle(late)
            error.node = node.id
            raise error.at(node.where)


def gradient_needed_first(
    nodes: Sequence[Node],
    edit: Gradient | GradientWrite,
    writes: Mapping[_At, NodeId],
    moments: Mapping[NodeId, int],
) -> Gradient | None:
    """A gradient that the edit of one needs, and that comes only after it; None if all is well.

    edit: whose sweep and place are meant. writes: the new value of each edited gradient.
    """
    start = edit.sweep, edit.at
    stack, seen = [writes[start]], set[NodeId]()
    while stack:
        id = stack.pop()
        if id in seen:
            continue
        seen.add(id)
        node = nodes[id]
        if not isinstance(node, Gradient):
            stack.extend(dependencies(node))
            continue
        if node.sweep == edit.sweep and _is_earlier(nodes, node.at, edit.at, moments):
            return node
        stack += _behind(nodes, node, writes, moments)
    return None


def _behind(
    nodes: Sequence[Node],
    node: Gradient,
    writes: Mapping[_At, NodeId],
    moments: Mapping[NodeId, int],
) -> Iterator[NodeId]:
    """The edits that a gradient comes through."""
    for (sweep, at), value in writes.items():
        if sweep == node.sweep and _is_earlier(nodes, node.at, at, moments):
            yield value


def _is_earlier(
    nodes: Sequence[Node], one: NodeId, other: NodeId, moments: Mapping[NodeId, int]
) -> bool:
    """Whether the model meets the value `one` before `other`, so that its gradient comes later."""
    if one == other:
        return False
    if not isinstance(nodes[one], Weight) and moments[one] != moments[other]:
        return moments[one] < moments[other]
    return _comes_from(nodes, other, one)


def _comes_from(nodes: Sequence[Node], late: NodeId, early: NodeId) -> bool:
    stack, seen = [late], set[NodeId]()
    while stack:
        id = stack.pop()
        if id == early:
            return True
        if id not in seen and id >= early:
            seen.add(id)
            stack.extend(dependencies(nodes[id]))
    return False
