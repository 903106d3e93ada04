"""`drop_dead_nodes`: after it, every node serves an output or does something to the run."""

from __future__ import annotations

from collections import defaultdict

from nnsight_lab.ir import (
    Call,
    Cond,
    Constant,
    Foreach,
    Gradient,
    GradientWrite,
    Graph,
    LocalCall,
    Node,
    NodeId,
    Read,
    Weight,
    While,
)
from nnsight_lab.ir.nodes import dependencies, has_value, nodes_within

__all__ = ["drop_dead_nodes", "live_ids"]


def live_ids(graph: Graph, *, calls: bool = True) -> set[NodeId]:
    """What writes and skips, what is saved, and the nodes these depend on.

    An edit of a gradient does something only where a gradient of the same pass is needed.
    calls: whether local functions are called for what they do, not only for what they give.
    """
    stack: list[NodeId] = [output.node for output in graph.outputs]
    edits: defaultdict[int, list[NodeId]] = defaultdict(list)
    for node in graph.nodes:
        if isinstance(node, _ONLY_VALUES):
            continue  # most are
        if isinstance(node, GradientWrite):
            edits[node.sweep].append(node.id)
        elif not has_value(node) or (calls and _calls(node)):
            stack.append(node.id)
    live: set[NodeId] = set()
    while stack:
        id = stack.pop()
        if id not in live:
            live.add(id)
            node = graph[id]
            stack.extend(dependencies(node))
            if isinstance(node, Gradient):
                stack.extend(edits.pop(node.sweep, ()))
    return live


_ONLY_VALUES = (Call, Constant, Read, Weight)
_REGIONS = (Cond, Foreach, While)  # a union would be put together at each call


def _calls(node: Node) -> bool:
    """Whether a local function is called here, or in a block of this node."""
    if not isinstance(node, _REGIONS):
        return isinstance(node, LocalCall)
    return any(isinstance(found, LocalCall) for found in nodes_within(node))


def drop_dead_nodes(graph: Graph, *, calls: bool = True) -> Graph:
    """The same experiment without the nodes nothing depends on. Ids close up."""
    live = live_ids(graph, calls=calls)
    return graph if len(live) == len(graph) else graph.renumbered(live)
