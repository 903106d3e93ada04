"""`last_positions`: of how many last positions the logits are needed; the rest need not be computed.

Known only where every use of the logits picks positions counted from the end, as `logits[:, -1]`
does: such an index means the same when the first positions are not there. Whatever else is done
with them, or after them, needs them all.
"""

from __future__ import annotations

from typing import NamedTuple

from nnsight_lab.ir import (
    RESULT,
    TOKENS,
    Address,
    Call,
    Graph,
    ModuleTree,
    Node,
    NodeId,
    Read,
    Skip,
    Write,
)
from nnsight_lab.ir.literals import Arg, Ref, SliceArg
from nnsight_lab.ir.nodes import dependencies

__all__ = ["View", "asks_for_logits", "last_positions", "picked"]

_HEAD = Address("lm_head", "input")
_AT_THE_END = {_HEAD, Address("lm_head", "output"), Address("", "logits")}
"""The standard names whose rows are the ones the head is given: `[batch, pos, …]`."""


class View(NamedTuple):
    """A value in which the positions are still whole: which axis they are, of how many."""

    id: NodeId
    axis: int = 1
    rank: int = 3


def last_positions(graph: Graph, tree: ModuleTree) -> int | None:
    """So many last positions of the logits serve this graph; None when all are needed.

    Also None when it does not read them at all.
    """
    views = _reads(graph, tree)
    if not views:
        return None
    uses: dict[NodeId, list[Node]] = {view.id: [] for view in views}
    for node in graph.nodes:
        for id in dependencies(node):
            uses.setdefault(id, []).append(node)
    saved = {output.node for output in graph.outputs}
    most = 0
    while views:
        view = views.pop()
        if view.id in saved:
            return None
        for use in uses.get(view.id, ()):
            found = picked(use, view)
            if isinstance(found, View):
                views.append(found)
            elif found is None:
                return None
            else:
                most = max(most, found)
    return most or None


def asks_for_logits(graph: Graph, tree: ModuleTree, step: int) -> bool:
    """Whether a graph comes by the head in a forward pass of a generation.

    Where it does not, the last position's logits are enough to sample from.
    """
    head = tree.by_address.get(_HEAD)
    if head is None:
        return True
    for node in graph.nodes:
        if not isinstance(node, Read | Write | Skip) or node.step != step:
            continue
        site = tree.by_address.get(node.address)
        if node.address in (TOKENS, RESULT):
            continue
        # The whole model's own path: in its forward the head is given the positions to look at.
        if site is None or not node.address.path or site.moment >= head.moment:
            return True
    return False


def _reads(graph: Graph, tree: ModuleTree) -> list[View]:
    """The reads of the logits and of what the head is given; none if anything else is there."""
    head = tree.by_address.get(_HEAD)
    if head is None:
        return []
    found = []
    for node in graph.nodes:
        if not isinstance(node, Read | Write | Skip):
            continue
        site = tree.by_address.get(node.address)
        if site is None or node.step:
            return []
        if isinstance(node, Read) and node.address in _AT_THE_END:
            found.append(View(node.id))
        elif site.moment >= head.moment or node.address.path == "lm_head":
            return []
    return found


def picked(use: Node, view: View) -> int | View | None:
    """How many last positions a use picks, or the view in which it leaves all; None for others."""
    if not isinstance(use, Call) or use.op != "operator.getitem" or len(use.args) != 2:
        return None
    if use.args[0] != Ref(view.id) or dependencies(use).count(view.id) != 1:
        return None
    items = _of_every_axis(use.args[1], view.rank)
    axis = new_axis = 0
    for item in items:
        if axis == view.axis and item is not None and item != _ALL:
            return _from_the_end(item)
        if not _is_simple(item):
            return None
        if axis == view.axis and item == _ALL:
            break
        axis += item is not None
        new_axis += not isinstance(item, int)
    if not all(map(_is_simple, items)):
        return None
    rank = view.rank + items.count(None) - sum(isinstance(item, int) for item in items)
    return View(use.id, new_axis, rank)


_ALL = SliceArg(None, None, None)


def _of_every_axis(index: Arg, rank: int) -> list[Arg]:
    """The items of an index, one for each axis, and None for each new one."""
    items: list[Arg] = list(index) if isinstance(index, tuple) else [index]
    missing: list[Arg] = [_ALL] * (
        rank - sum(item is not None and item is not ... for item in items)
    )
    dots = next((place for place, item in enumerate(items) if item is ...), None)
    if dots is None:
        return items + missing
    return items[:dots] + missing + items[dots + 1 :]


def _is_simple(item: Arg) -> bool:
    """Whether an item is about one axis for certain; a mask may be about several."""
    return item is None or isinstance(item, SliceArg) or type(item) is int


def _from_the_end(item: Arg) -> int | None:
    """How many last positions an item needs to mean the same; None for all of them."""
    match item:
        case bool():
            return None
        case int() if item < 0:
            return -item
        case SliceArg(start=int() as start, stop=None | int() as stop) if start < 0:
            return -start if stop is None or stop < 0 else None
    return None
