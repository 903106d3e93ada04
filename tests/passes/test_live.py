"""`drop_dead_nodes`: what is left serves an output or does something to the run, of every kind."""

from __future__ import annotations

from hypothesis import given, settings

from nnsight_lab.ir import Gradient, GradientWrite, Graph, LocalCall, Node, Skip, Write
from nnsight_lab.ir.nodes import blocks_of, dependencies
from nnsight_lab.passes import drop_dead_nodes
from tests.support.graphs import graphs


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_every_node_left_serves_something(graph: Graph) -> None:
    lean = drop_dead_nodes(graph)
    used = {output.node for output in lean.outputs}
    used |= {other for node in lean for other in dependencies(node)}
    sweeps = {node.sweep for node in lean if isinstance(node, Gradient)}
    for node in lean:
        edits = isinstance(node, GradientWrite) and node.sweep in sweeps
        assert node.id in used or isinstance(node, Write | Skip) or edits or _calls(node)


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_nothing_that_does_something_is_dropped(graph: Graph) -> None:
    lean = drop_dead_nodes(graph)
    for kind in (Write, Skip):
        assert [node.where for node in lean if isinstance(node, kind)] == [
            node.where for node in graph if isinstance(node, kind)
        ]
    assert sum(map(_calls, lean)) == sum(map(_calls, graph))
    sweeps = {node.sweep for node in lean if isinstance(node, Gradient)}
    assert sum(isinstance(node, GradientWrite) for node in lean) == sum(
        isinstance(node, GradientWrite) and node.sweep in sweeps for node in graph
    )
    assert [output.name for output in lean.outputs] == [output.name for output in graph.outputs]
    assert drop_dead_nodes(lean) == lean
    assert Graph.from_bytes(lean.to_bytes()) == lean


def _calls(node: Node) -> bool:
    """Whether a local function is called here, or in a block of the node."""
    return isinstance(node, LocalCall) or any(
        _calls(inner) for block in blocks_of(node) for inner in block.nodes
    )
