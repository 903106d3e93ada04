"""`check_padding`: whether a graph can see what stands before short prompts to fill a batch up.

A local run pads prompts of unequal length on the left, and what the model computes there means
nothing. An engine without padding has nothing there at all, so a graph that looks would get other
numbers, and is refused. Picking positions counted from the end, and changing positions each for
itself, is not looking; nor is putting such values where padding is padding again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

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
from nnsight_lab.ir.literals import Arg, DictArg, Ref, SliceArg
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


class _Rows(NamedTuple):
    """A value with padding.

    rank: how many axes it has; 0 where the second is not that of positions. lengths: of its rows.
    """

    rank: int
    lengths: tuple[int, ...]


_Padded = dict[NodeId, _Rows]
_ALL = SliceArg(None, None, None)


def check_padding(graph: Graph, stages: Stages) -> None:
    """Check that a graph gives the same whether short prompts are padded or not.

    Raises:
        NotSupported: it uses values of the padding; the error has the line.
    """
    padded: _Padded = {}
    saved = {output.node for output in graph.outputs}
    for node in graph.nodes:
        found: _Rows | None
        if isinstance(node, Read):
            found = _place(graph, node, stages)
            found = found if found is not None and len(set(found.lengths)) > 1 else None
        else:
            used = [id for id in dependencies(node) if id in padded]
            if used and isinstance(node, Write):
                _check_write(padded[node.value], node, _place(graph, node, stages))
            found = _use(node, graph, padded, used) if used else None
        if found is not None:
            padded[node.id] = found
            if node.id in saved:
                raise _seen(node)


def _place(graph: Graph, node: Read | Write, stages: Stages) -> _Rows | None:
    """What is at a place of the model; None where nothing of it is filled up to one length."""
    stage = stages.at(node.step)
    inputs = stages.parts[stage.part].inputs
    site = stage.tree.by_address.get(node.address)
    if not isinstance(inputs, TokenRows) or site is None or not isinstance(site.spec, TensorSpec):
        return None
    if node.address == RESULT:  # token ids, filled up in the same way everywhere
        return None
    if all(dim.form in (SizeForm.FIXED, SizeForm.BATCH) for dim in site.spec.dims):
        return None
    lengths = tuple(len(row) for row in inputs.rows)
    if node.invoke is not None:
        span = stages.spans(graph, node.step).get(node.invoke)
        lengths = lengths[span.start : span.start + span.rows] if span is not None else ()
    along = [place for place, dim in enumerate(site.spec.dims) if dim.form is SizeForm.POS]
    return _Rows(len(site.spec.dims) if along == [1] else 0, lengths)


def _check_write(value: _Rows, node: Write, place: _Rows | None) -> None:
    """Check that the padding of what is written comes where padding is."""
    if place is not None and not _covers(value.lengths, place.lengths):
        raise _seen(node)


def _use(node: Node, graph: Graph, padded: _Padded, used: list[NodeId]) -> _Rows | None:
    """What a node makes of values with padding: another such value, or one without."""
    rank = padded[used[0]].rank
    match node:
        case Write():
            return None
        case Call(op="operator.getitem", args=(Ref(), index)) if rank:
            if isinstance(part := _at(node, index, used[0], padded), _Rows):
                return part
            if isinstance(part, int) and part <= min(padded[used[0]].lengths):
                return None
        case Call(op="lab.assign" | "lab.set_item", args=args) if rank and args[0] == Ref(used[0]):
            if _may_hold(node, padded, used):
                return padded[used[0]]
        case Call(op=op, args=args, kwargs=()) if rank and op in EACH_FOR_ITSELF:
            lengths = _together([padded[id].lengths for id in used])
            if lengths and all(_keeps_axes(arg, graph, padded, rank) for arg in args):
                return _Rows(rank, lengths)
        case Apply(args=(Ref(),), kwargs=()) if rank:
            return padded[used[0]]
    raise _seen(node)


def _at(node: Call, index: Arg, base: NodeId, padded: _Padded) -> _Rows | int | None:
    """What an index picks of a value: whole positions of some rows, or so many of the last ones."""
    rank, lengths = padded[base]
    asked = replace(node, op="operator.getitem", args=(Ref(base), index), kwargs=())
    found = picked(asked, View(base, 1, rank))
    if not isinstance(found, View):
        return found
    items = index if isinstance(index, tuple) else (index,)
    # Rows are the first axis, and stay it: no axis before that of the positions went or came.
    match items[0] if items and items[0] is not ... else _ALL:
        case SliceArg(None | int() as start, None | int() as stop, None | int() as step):
            kept = lengths[slice(start, stop, step)]
            return _Rows(found.rank, kept) if found.axis == 1 and kept else None
    return None


def _may_hold(node: Call, padded: _Padded, used: list[NodeId]) -> bool:
    """Whether what is put into a value has its padding where the value has it, or none."""
    base, value = used[0], node.args[-1]
    if set(used) == {base} and value != Ref(base):
        return True
    if not isinstance(value, Ref) or value.id not in padded or not {*used} <= {base, value.id}:
        return False
    match node.op, node.args[1:-1]:
        case ("lab.assign", ((),)):
            index: Arg = _ALL
        case ("lab.assign", ((("operator.getitem", (index,), DictArg(items=())),),)):
            pass
        case ("lab.set_item", ((), index)):
            pass
        case _:
            return False
    part, new = _at(node, index, base, padded), padded[value.id]
    return isinstance(part, _Rows) and part.rank == new.rank and _covers(new.lengths, part.lengths)


def _covers(lengths: tuple[int, ...], place: tuple[int, ...]) -> bool:
    """Whether rows of these lengths have something wherever those of a place do."""
    lengths = lengths * len(place) if len(lengths) == 1 else lengths
    return len(lengths) == len(place) and all(map(int.__ge__, lengths, place))


def _together(several: list[tuple[int, ...]]) -> tuple[int, ...]:
    """How much of each row all of some values have; empty where their rows are not the same."""
    rows = max(map(len, several))
    each = [lengths * rows if len(lengths) == 1 else lengths for lengths in several]
    return tuple(map(min, zip(*each, strict=True))) if {*map(len, each)} == {rows} else ()


def _keeps_axes(arg: Arg, graph: Graph, padded: _Padded, rank: int) -> bool:
    """Whether an operand leaves the axes of the other where they are."""
    if not isinstance(arg, Ref):
        return isinstance(arg, int | float)
    if arg.id in padded:
        return padded[arg.id].rank == rank
    node = graph[arg.id]
    return isinstance(node, Constant) and len(node.value.shape) <= min(rank, 1)


def _seen(node: Node) -> NotSupported:
    return NotSupported(
        "Prompts of unequal length are not padded on vLLM, and this uses the values there.",
        hint="Give each prompt its own `with tracer.invoke(prompt):`, or count positions from the"
        " end, as in `[:, -1]`.",
        node=node.id,
    ).at(node.where)
