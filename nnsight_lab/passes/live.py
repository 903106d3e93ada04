"""`drop_dead_nodes`: after it, every node serves an output or does something to the run."""

from __future__ import annotations

from nnsight_lab.ir import Graph, LocalCall, NodeId
from nnsight_lab.ir.nodes import dependencies, has_value

__all__ = ["drop_dead_nodes", "live_ids"]


def live_ids(graph: Graph, *, calls: bool = True) -> set[NodeId]:
    """What writes and skips, what is saved, and the nodes these depend on.

    calls: whether local functions are called for what they do, not only for what they give.
    """
    stack: list[NodeId] = [output.node for output in graph.outputs]
    stack += [node.id for node in graph.nodes if not has_value(node)]
    stack += [node.id for node in graph.nodes if calls and isinstance(node, LocalCall)]
    live: set[NodeId] = set()
    while stack:
        id = stack.pop()
        if id not in live:
            live.add(id)
            stack.extend(dependencies(graph[id]))
    return live


def drop_dead_nodes(graph: Graph, *, calls: bool = True) -> Graph:
    """The same experiment without the nodes nothing depends on. Ids close up."""
    live = live_ids(graph, calls=calls)
    return graph if len(live) == len(graph) else graph.renumbered(live)
