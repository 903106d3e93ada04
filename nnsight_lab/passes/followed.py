"""Which forward passes of a run a backward pass goes back through.

Autograd follows those and no others: a generation beside a trace with gradients keeps nothing.
"""

from __future__ import annotations

from collections import defaultdict

from nnsight_lab.ir import Gradient, GradientWrite, Graph, NodeId, Read, Skip, Write
from nnsight_lab.ir.nodes import dependencies
from nnsight_lab.passes.generation import no_gradient
from nnsight_lab.passes.stages import Stages

__all__ = ["check_gradients", "followed_parts"]


def followed_parts(graph: Graph, stages: Stages) -> frozenset[int]:
    """The parts of a run that some loss depends on, also by what is written into them."""
    effects: dict[int, list[NodeId]] = defaultdict(list)
    for node in graph.nodes:
        if isinstance(node, Write | Skip):
            effects[stages.at(node.step).part].append(node.value)
    found: set[int] = set()
    seen: set[NodeId] = set()
    stack = [node.of for node in graph.nodes if isinstance(node, Gradient | GradientWrite)]
    while stack:
        id = stack.pop()
        if id in seen:
            continue
        seen.add(id)
        node = graph[id]
        stack.extend(dependencies(node))
        if isinstance(node, Read):
            part = stages.at(node.step).part
            stack.extend(() if part in found else effects[part])
            found.add(part)
    return frozenset(found)


def check_gradients(graph: Graph, stages: Stages) -> None:
    """Refuse a gradient of, or at, what a generation gives.

    Raises:
        NotSupported: at the line of the gradient.
    """
    if not any(part.generates for part in stages.parts):
        return
    for node in graph.nodes:
        if isinstance(node, Gradient | GradientWrite) and _is_generated(graph, node, stages):
            error = no_gradient()
            error.node = node.id
            raise error.at(node.where)


def _is_generated(graph: Graph, gradient: Gradient | GradientWrite, stages: Stages) -> bool:
    seen: set[NodeId] = set()
    stack = [gradient.of, gradient.at]
    while stack:
        id = stack.pop()
        if id in seen:
            continue
        seen.add(id)
        node = graph[id]
        if isinstance(node, Read) and stages.parts[stages.at(node.step).part].generates:
            return True
        stack.extend(dependencies(node))
    return False
