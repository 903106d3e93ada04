"""`writes_by_row`: edits in which each row needs nothing of any other row of the same place.

A host that comes by a place row after row can make such an edit as the rows come, and need not wait
for all of them. `h += v`, `h[:, -1] = other` and `h * 2` are of this kind; `h - h.mean(1)` is not.
Only what is known to be so is taken to be so.
"""

from __future__ import annotations

from typing import TypeAlias

from nnsight_lab.ir import Call, Constant, Graph, Node, NodeId, Read, Write
from nnsight_lab.ir.literals import Arg, DictArg, Ref, SliceArg
from nnsight_lab.ir.nodes import dependencies
from nnsight_lab.passes.padding import EACH_FOR_ITSELF

__all__ = ["writes_by_row"]

_ALL = SliceArg(None, None, None)
_Index: TypeAlias = tuple[Arg, ...]
"""Which part of a place a value is, row by row; `()` for the whole of it."""


def writes_by_row(graph: Graph) -> frozenset[NodeId]:
    """The writes whose value, at each row and position, needs their own place only there.

    What else they need is made before the model comes by.
    """
    return frozenset(
        node.id for node in graph.nodes if isinstance(node, Write) and _is_by_row(graph, node)
    )


def _is_by_row(graph: Graph, write: Write) -> bool:
    parts: dict[NodeId, _Index] = {}
    for id in _needed(graph, write.value):
        node = graph[id]
        if _is_read_of(node, write):
            parts[id] = ()
            continue
        used = [other for other in dependencies(node) if other in parts]
        if used:
            part = _part(node, used, parts, graph)
            if part is None:
                return False
            parts[id] = part
    # A value that has nothing of the place is the same whichever rows are there.
    return parts.get(write.value, ()) == ()


def _needed(graph: Graph, value: NodeId) -> list[NodeId]:
    found, stack = set(), [value]
    while stack:
        id = stack.pop()
        if id not in found:
            found.add(id)
            stack.extend(dependencies(graph[id]))
    return sorted(found)


def _is_read_of(node: Node, write: Write) -> bool:
    return isinstance(node, Read) and (node.address, node.step, node.invoke) == (
        write.address,
        write.step,
        write.invoke,
    )


def _part(
    node: Node, used: list[NodeId], parts: dict[NodeId, _Index], graph: Graph
) -> _Index | None:
    """Which part of the place a node holds, row by row; None when rows may be mixed."""
    first = used[0]
    match node:
        case Call(op="operator.getitem", args=(Ref(), index)) if parts[first] == ():
            return _index(index)
        case Call(op="lab.assign", args=(Ref(base), steps, value)):
            if base == first and parts[base] == () and _fits(value, _only_index(steps), parts):
                return ()
        case Call(op="lab.set_item", args=(Ref(base), (), index, value)):
            if base == first and parts[base] == () and _fits(value, _index(index), parts):
                return ()
        case Call(op=op, args=args, kwargs=()) if op in EACH_FOR_ITSELF:
            own = {parts[id] for id in used}
            if len(own) == 1 and all(_is_no_axis(arg, parts, graph) for arg in args):
                return own.pop()
    return None


def _index(index: Arg) -> _Index | None:
    """An index of batch, position and what comes after, of numbers and slices only."""
    items: list[Arg] = list(index) if isinstance(index, tuple) else [index]
    if not all(isinstance(item, SliceArg) or type(item) is int for item in items):
        return None
    while items and items[-1] == _ALL:
        items.pop()
    return tuple(items)


def _only_index(steps: Arg) -> _Index | None:
    match steps:
        case ():
            return ()
        case (("operator.getitem", (index,), DictArg(items=())),):
            return _index(index)
    return None


def _fits(value: Arg, index: _Index | None, parts: dict[NodeId, _Index]) -> bool:
    """Whether what is put at an index has, of the place itself, that part or nothing."""
    if index is None:
        return False
    return not isinstance(value, Ref) or parts.get(value.id, index) == index


def _is_no_axis(arg: Arg, parts: dict[NodeId, _Index], graph: Graph) -> bool:
    """Whether an operand is part of the place, a number, or constant along all but the last axis."""
    if not isinstance(arg, Ref):
        return isinstance(arg, int | float)
    node = graph[arg.id]
    return arg.id in parts or (isinstance(node, Constant) and len(node.value.shape) <= 1)
