"""`check_features`: whether an engine can do what a graph asks of it, before anything is sent.

local_fn    functions of the user's own process
gradient    backward passes
source      operations inside a module's forward
"""

from __future__ import annotations

from nnsight_lab.contract import ModelCard
from nnsight_lab.errors import NotSupported
from nnsight_lab.ir import Graph, LocalCall
from nnsight_lab.ir.nodes import Gradient, GradientWrite, Node, nodes_within
from nnsight_lab.passes.sources import paths_with_source

__all__ = ["check_features"]

_ELSEWHERE = (
    "Ask whoever runs the server to serve the model with --engine auto, or load it in this process."
)


def check_features(graph: Graph, card: ModelCard) -> None:
    """Check a graph against the words of an engine's capabilities.

    Raises:
        NotSupported: the engine lacks one of them; the error has the line.
    """
    able = card.capabilities.features
    if {"local_fn", "gradient", "source"} <= able:
        return
    for node in graph.nodes:
        for inner in nodes_within(node):
            refusal = _refusal(inner, card, able)
            if refusal is not None:
                refusal.node = node.id
                raise refusal.at(inner.where or node.where)
    if "source" not in able:
        for path, place in paths_with_source(graph).items():
            raise NotSupported(
                f"{card.name} is served by {card.capabilities.engine}, which computes the inside of"
                f" {path or 'the model'} in its own way: there is no source of it.",
                hint=_ELSEWHERE,
                node=place.id,
            ).at(place.where)


def _refusal(node: Node, card: ModelCard, able: frozenset[str]) -> NotSupported | None:
    match node:
        case LocalCall(function=function) if "local_fn" not in able:
            return NotSupported(
                f"{function} is a local function (local_fn); {card.name} is on a server, "
                "which runs no code of yours.",
                hint="Load the model in this process, or save the value and call the function "
                "after the block.",
            )
        case Gradient() | GradientWrite() if "gradient" not in able:
            return NotSupported(
                f"{card.name} is served by {card.capabilities.engine}, which computes no gradients.",
                hint=_ELSEWHERE,
            )
    return None
