"""`drop_dead_nodes`: after it, every node serves an output or a write."""

from __future__ import annotations

from nnsight_lab.ir import Graph, NodeId, Write
from nnsight_lab.ir.nodes import dependencies

__all__ = ["drop_dead_nodes", "live_ids"]


def live_ids(graph: Graph) -> set[NodeId]:
    """The nodes that an output or a write depends on, and the writes."""
    stack: list[NodeId] = [output.node for output in graph.outputs]
    stack += [node.id for node in graph.nodes if isinstance(node, Write)]
    live: set[NodeId] = set()
    while stack:
        id = stack.pop()
        if id not in live:
            live.add(id)
            stack.extend(dependencies(graph[id]))
    return live


def drop_dead_nodes(graph: Graph) -> Graph:
    """The same experiment without the nodes nothing depends on. Ids close up."""
    live = live_ids(graph)
    return graph if len(live) == len(graph) else graph.renumbered(live)
