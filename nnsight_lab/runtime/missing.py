"""Values of steps that did not happen: a generation that ended early made no more of them.

What is computed from a missing value is missing too, but a list of values is then a list of those
that are there: `torch.stack(values)` after a loop stacks the steps that ran.
"""

from __future__ import annotations

from dataclasses import replace

from nnsight_lab.errors import OpFailed
from nnsight_lab.ir import Apply, Call, DictArg, ListArg, LocalCall, Node, NodeId, Skip, Write
from nnsight_lab.ir.literals import Arg
from nnsight_lab.ir.nodes import argument_refs, dependencies

__all__ = ["MISSING", "did_not_happen", "without_missing"]


class _Missing:
    """The value of a step that did not happen."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()
"""Stands in the table of values, and is handed over by hosts, for what did not happen."""


def did_not_happen(node: Write | Skip) -> OpFailed:
    """The error for an edit, in a pass that is made, with a value of one that was not."""
    return OpFailed(
        f"{node.address} is edited with the value of a step that did not happen:"
        " its text ended before it.",
        hint="Take a step that happens, or generate with eos_token_id=[], so that all do.",
        node=node.id,
    )


def without_missing(node: Node, missing: set[NodeId]) -> Node | None:
    """The node with its lists cut to what is there; None when it cannot be computed."""
    if missing.isdisjoint(dependencies(node)):
        return node
    if not isinstance(node, Call | Apply | LocalCall):
        return None
    args = tuple(_cut(arg, missing) for arg in node.args)
    kwargs = tuple((key, _cut(arg, missing)) for key, arg in node.kwargs)
    cut = replace(node, args=args, kwargs=kwargs)
    return cut if missing.isdisjoint(dependencies(cut)) else None


def _cut(arg: Arg, missing: set[NodeId]) -> Arg:
    """An argument without the list items that are missing; a list of which nothing is left stays."""
    match arg:
        case ListArg(items=items):
            items = tuple(_cut(item, missing) for item in items)
            kept = tuple(item for item in items if missing.isdisjoint(argument_refs(item)))
            return ListArg(kept) if kept or not items else arg
        case DictArg(items=pairs):
            return DictArg(tuple((key, _cut(item, missing)) for key, item in pairs))
        case tuple() as items:
            return tuple(_cut(item, missing) for item in items)
        case _:
            return arg
