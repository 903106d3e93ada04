"""`check_padding`: whether a graph can see what stands before short prompts to fill a batch up.

A local run pads prompts of unequal length on the left, and what the model computes there means
nothing. An engine without padding has nothing there at all, so a graph that looks would get other
numbers, and is refused. Picking positions counted from the end, and changing positions each for
itself, is not looking.
"""

from __future__ import annotations

from nnsight_lab.contract import TokenRows
from nnsight_lab.errors import NotSupported
from nnsight_lab.ir import (
    RESULT,
    Apply,
    Call,
    Constant,
    Graph,
    Node,
    NodeId,
    Read,
    SizeForm,
    TensorSpec,
    Write,
)
from nnsight_lab.ir.literals import Arg, Ref
from nnsight_lab.ir.nodes import dependencies
from nnsight_lab.passes.positions import View, picked
from nnsight_lab.passes.stages import Stages

__all__ = ["EACH_FOR_ITSELF", "check_padding"]

EACH_FOR_ITSELF = frozenset(
    f"{owner}.{name}{after}"
    for owner in ("Tensor", "torch", "operator")
    for name in (
        "add sub mul div truediv neg abs exp log sqrt square tanh sigmoid relu pow sign clamp"
    ).split()
    for after in ("", "_")
)
"""Operations that give every position of a value what they make of that position alone."""

_Padded = dict[NodeId, tuple[int, int]]
"""Values with padding in them: how many axes, and how long the shortest prompt is."""


def check_padding(graph: Graph, stages: Stages) -> None:
    """Check that a graph gives the same whether short prompts are padded or not.

    Raises:
        NotSupported: it uses values of the padding; the error has the line.
    """
    padded: _Padded = {}
    saved = {output.node for output in graph.outputs}
    for node in graph.nodes:
        if isinstance(node, Read):
            found = _read(graph, node, stages)
        else:
            used = [id for id in dependencies(node) if id in padded]
            found = _use(node, graph, padded, used) if used else None
        if found is not None:
            padded[node.id] = found
            if node.id in saved:
                raise _seen(node)


def _read(graph: Graph, node: Read, stages: Stages) -> tuple[int, int] | None:
    stage = stages.at(node.step)
    inputs = stages.parts[stage.part].inputs
    site = stage.tree.by_address.get(node.address)
    if not isinstance(inputs, TokenRows) or site is None or not isinstance(site.spec, TensorSpec):
        return None
    if node.address == RESULT:  # token ids, filled up in the same way everywhere
        return None
    if all(dim.form in (SizeForm.FIXED, SizeForm.BATCH) for dim in site.spec.dims):
        return None
    lengths = [len(row) for row in inputs.rows]
    if node.invoke is not None:
        span = stages.spans(graph, node.step).get(node.invoke)
        lengths = lengths[span.start : span.start + span.rows] if span is not None else []
    if len(set(lengths)) <= 1:
        return None
    along = [place for place, dim in enumerate(site.spec.dims) if dim.form is SizeForm.POS]
    return (len(site.spec.dims) if along == [1] else 0), min(lengths)


def _use(node: Node, graph: Graph, padded: _Padded, used: list[NodeId]) -> tuple[int, int] | None:
    """What a node makes of values with padding: another such value, or one without."""
    rank, shortest = padded[used[0]][0], min(padded[id][1] for id in used)
    match node:
        case Write():
            return None
        case Call(op="operator.getitem") if rank:
            found = picked(node, View(used[0], 1, rank))
            if isinstance(found, View) and found.axis == 1:
                return found.rank, shortest
            if isinstance(found, int) and found <= shortest:
                return None
        case Call(op="lab.assign" | "lab.set_item", args=args) if rank:
            if used == [used[0]] and args[0] == Ref(used[0]):
                return rank, shortest
        case Call(op=op, args=args, kwargs=()) if rank and op in EACH_FOR_ITSELF:
            if all(_keeps_axes(arg, graph, padded, rank) for arg in args):
                return rank, shortest
        case Apply(args=(Ref(),), kwargs=()) if rank:
            return rank, shortest
    raise _seen(node)


def _keeps_axes(arg: Arg, graph: Graph, padded: _Padded, rank: int) -> bool:
    """Whether an operand leaves the axes of the other where they are."""
    if not isinstance(arg, Ref):
        return isinstance(arg, int | float)
    if arg.id in padded:
        return padded[arg.id][0] == rank
    node = graph[arg.id]
    return isinstance(node, Constant) and len(node.value.shape) <= min(rank, 1)


def _seen(node: Node) -> NotSupported:
    return NotSupported(
        "Prompts of unequal length are not padded on vLLM, and this uses the values there.",
        hint="Give each prompt its own `with tracer.invoke(prompt):`, or count positions from the"
        " end, as in `[:, -1]`.",
        node=node.id,
    ).at(node.where)
