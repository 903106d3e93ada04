"""`check_features`: whether an engine can do what a graph asks of it, before anything is sent."""

from __future__ import annotations

from nnsight_lab.contract import ModelCard
from nnsight_lab.errors import NotSupported
from nnsight_lab.ir import Graph, LocalCall
from nnsight_lab.ir.nodes import nodes_within

__all__ = ["check_features"]


def check_features(graph: Graph, card: ModelCard) -> None:
    """Check a graph against the words of an engine's capabilities.

    Raises:
        NotSupported: the graph calls a local function, and the model is not in this process.
    """
    if "local_fn" in card.capabilities.features:
        return
    for node in graph.nodes:
        for call in nodes_within(node):
            if isinstance(call, LocalCall):
                raise NotSupported(
                    f"{call.function} is a local function (local_fn); {card.name} is on a server, "
                    "which runs no code of yours.",
                    hint="Load the model in this process, or save the value and call the function "
                    "after the block.",
                    node=node.id,
                ).at(call.where or node.where)
