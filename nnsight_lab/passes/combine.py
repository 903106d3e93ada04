"""`then`: one graph after another, the second seeing what the first one edited.

Used to look at a run that has already been recorded: the views add their own reads to the
experiment's edits, and nothing is recorded twice.
"""

from __future__ import annotations

from dataclasses import replace

from nnsight_lab.errors import NotSupported
from nnsight_lab.ir import Graph, Node, NodeId, Read, Write
from nnsight_lab.ir.nodes import with_new_ids
from nnsight_lab.passes.live import drop_dead_nodes

__all__ = ["then"]


def then(first: Graph, second: Graph, *, keep_outputs: bool = False) -> Graph:
    """The edits of `first`, followed by `second`; a read of an edited place gets the edit.

    keep_outputs: also save what `first` saves. Names of `second` win.
    """
    _check_same_rows(first, second)
    nodes: list[Node] = list(first.nodes)
    edited = {(node.address, node.step): node.value for node in first.writes()}
    written = {(node.address, node.step) for node in second.writes()}
    nodes = [
        node
        for node in nodes
        if not (isinstance(node, Write) and (node.address, node.step) in written)
    ]
    ids: dict[NodeId, NodeId] = {node.id: place for place, node in enumerate(nodes)}
    nodes = [with_new_ids(node, ids) for node in nodes]
    theirs: dict[NodeId, NodeId] = {}
    for node in second.nodes:
        if isinstance(node, Read) and (node.address, node.step) in edited:
            theirs[node.id] = ids[edited[node.address, node.step]]
            continue
        theirs[node.id] = len(nodes)
        nodes.append(with_new_ids(node, theirs))
    outputs = tuple(replace(output, node=theirs[output.node]) for output in second.outputs)
    if keep_outputs:
        taken = {output.name for output in outputs}
        kept = (output for output in first.outputs if output.name not in taken)
        outputs += tuple(replace(output, node=ids[output.node]) for output in kept)
    # A view of a run does not do again what its local functions did.
    return drop_dead_nodes(Graph(tuple(nodes), outputs, first.invokes), calls=False)


def _check_same_rows(first: Graph, second: Graph) -> None:
    """A read of all rows would have to see an edit of some; that is not put together yet."""
    edited = {node.address for node in first.writes() if node.invoke is not None}
    places: tuple[Read | Write, ...] = (*second.reads(), *second.writes())
    for node in places:
        if node.address in edited:
            raise NotSupported(
                f"{node.address} was edited in one invoke, so a view of all rows cannot show it.",
                hint="Trace the prompts one by one, and look at each run.",
            )
