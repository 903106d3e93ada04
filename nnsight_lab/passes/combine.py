"""`then`: one graph after another, the second seeing what the first one edited.

Used to look at a run that has already been recorded: the views add their own reads to the
experiment's edits, and nothing is recorded twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from nnsight_lab.errors import NotSupported
from nnsight_lab.ir import (
    Address,
    Block,
    Cond,
    Foreach,
    Gradient,
    GradientWrite,
    Graph,
    LocalCall,
    Node,
    NodeId,
    Read,
    While,
    Write,
)
from nnsight_lab.ir.nodes import with_new_ids
from nnsight_lab.passes.live import drop_dead_nodes

__all__ = ["then", "with_functions_named"]

_Place: TypeAlias = tuple[Address, int | None, int]
"""Where a read or a write is: an address, whose rows, and in which step."""


def then(first: Graph, second: Graph) -> Graph:
    """The edits of `first`, followed by what `second` does and saves.

    A read of a place that `first` edits gets the edit; a place that both read is read once, so
    that gradients come back to it from both.

    Raises:
        NotSupported: they mean other rows by the same place.
    """
    _check_same_rows(first, second)
    written = {_place(node) for node in second.writes()}
    kept = [node for node in first if not (isinstance(node, Write) and _place(node) in written)]
    ids: dict[NodeId, NodeId] = {node.id: place for place, node in enumerate(kept)}
    nodes: list[Node] = [with_new_ids(node, ids) for node in kept]
    there = {_place(node): ids[node.id] for node in first.reads()}
    there |= {_place(node): ids[node.value] for node in first.writes()}
    theirs: dict[NodeId, NodeId] = {}
    for node in _after_sweeps_of(first, second):
        if isinstance(node, Read) and _place(node) in there:
            theirs[node.id] = there[_place(node)]
            continue
        theirs[node.id] = len(nodes)
        nodes.append(with_new_ids(node, theirs))
    outputs = tuple(replace(output, node=theirs[output.node]) for output in second.outputs)
    joined = Graph(tuple(nodes), outputs, first.invokes or second.invokes)
    # A view of a run does not do again what its local functions did.
    return drop_dead_nodes(joined, calls=False)


def with_functions_named(graph: Graph, names: Mapping[str, str]) -> Graph:
    """The same graph, its local functions under other names; those not in `names` keep theirs."""
    return replace(graph, nodes=tuple(_renamed(node, names) for node in graph.nodes))


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    def within(block: Block) -> Block:
        return replace(block, nodes=tuple(_renamed(inner, names) for inner in block.nodes))

    match node:
        case LocalCall(function=function):
            return replace(node, function=names.get(function, function))
        case Cond(then=one, otherwise=other):
            return replace(node, then=within(one), otherwise=within(other))
        case Foreach(body=body):
            return replace(node, body=within(body))
        case While(test=test, body=body):
            return replace(node, test=within(test), body=within(body))
        case _:
            return node


def _place(node: Read | Write) -> _Place:
    return node.address, node.invoke, node.step


def _after_sweeps_of(first: Graph, second: Graph) -> Iterator[Node]:
    """The nodes of `second`, with backward passes of their own: those of `first` are others."""
    taken = 1 + max(_sweeps(first.nodes), default=-1)
    for node in second.nodes:
        if isinstance(node, Gradient | GradientWrite):
            yield replace(node, sweep=node.sweep + taken)
        else:
            yield node


def _sweeps(nodes: Sequence[Node]) -> Iterator[int]:
    return (node.sweep for node in nodes if isinstance(node, Gradient | GradientWrite))


def _check_same_rows(first: Graph, second: Graph) -> None:
    """A read of all rows would have to see an edit of some; that is not put together yet."""
    if first.invokes and second.invokes and first.invokes != second.invokes:
        raise NotSupported(
            f"The run has invokes of {_listed(first.invokes)} rows, the view of"
            f" {_listed(second.invokes)}.",
            hint="Record the view with as many prompts in each invoke as the run had.",
        )
    edited: defaultdict[tuple[Address, int], set[int | None]] = defaultdict(set)
    for write in first.writes():
        edited[write.address, write.step].add(write.invoke)
    places: tuple[Read | Write, ...] = (*second.reads(), *second.writes())
    for node in places:
        rows = edited.get((node.address, node.step), set())
        if node.invoke is None and rows - {None}:
            raise NotSupported(
                f"{node.address} was edited in one invoke, so a view of all rows cannot show it.",
                hint="Trace the prompts one by one, and look at each run.",
            ).at(node.where)
        if node.invoke is not None and None in rows:
            raise NotSupported(
                f"{node.address} was edited for all rows, so a view of one invoke cannot show it.",
                hint="Look at all rows, and take those you mean by index.",
            ).at(node.where)


def _listed(invokes: tuple[int, ...]) -> str:
    return ", ".join(map(str, invokes))
