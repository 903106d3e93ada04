"""What a node says, as a Python value: equal where nodes mean the same, and quick to make.

Where a slider stands is left out, so that graphs that differ in that are run by one plan.

Not the nodes themselves: `1`, `1.0` and `True` are equal in Python, and so are `0.0` and `-0.0`,
but to an operation they are not. Nothing here leaves the process; see `codec.py` for what does.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import astuple

from nnsight_lab.ir.constants import ConstantWriter
from nnsight_lab.ir.literals import Arg, DictArg, ListArg, Ref, SliceArg
from nnsight_lab.ir.nodes import Call, Constant, Node, Read, SliderRange, Write
from nnsight_lab.ir.plain_nodes import node_to_plain

__all__ = ["said_by"]

_PLAIN = frozenset({type(None), bool, int, str})


def said_by(node: Node) -> Hashable:
    """What a node says, without its line. Its id is its place in the graph."""
    match node:
        case Read():
            return "read", node.address, node.invoke, node.step
        case Write():
            return "write", node.address, node.value, node.invoke, node.step
        case Call():
            kwargs = tuple([(key, _said_by_argument(arg)) for key, arg in node.kwargs])
            return "call", node.op, tuple(map(_said_by_argument, node.args)), kwargs
        case Constant(slider=SliderRange() as may_be):  # wherever it stands: the plan is the same
            return "slider", *((type(part), part) for part in astuple(may_be))
        case Constant():
            return "constant", node.value
        case _:
            constants = ConstantWriter()
            return json.dumps(node_to_plain(node, constants, sources=False)), *constants.parts


def _said_by_argument(arg: Arg) -> Hashable:
    if type(arg) in _PLAIN:
        return type(arg), arg
    match arg:
        case Ref(id=id):
            return Ref, id
        case SliceArg(start=start, stop=stop, step=step):
            return SliceArg, *map(_said_by_argument, (start, stop, step))
        case float() | complex():
            return type(arg), repr(arg)
        case tuple() | ListArg():
            items = arg.items if isinstance(arg, ListArg) else arg
            return type(arg), *map(_said_by_argument, items)
        case DictArg(items=pairs):
            return DictArg, *((key, _said_by_argument(item)) for key, item in pairs)
        case _:
            return type(arg), arg
