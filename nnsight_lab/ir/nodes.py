"""Graph nodes. Frozen data: what to do, never what happened.

A node refers to others by id, always to earlier ones, so a graph cannot hold a cycle. The
source line of a node is carried along for errors and is no part of its identity.
To run a graph, see `nnsight_lab.runtime.interleaver`; to build one, `nnsight_lab.tracing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from nnsight_lab.errors import SourceLine
from nnsight_lab.ir.address import Address
from nnsight_lab.ir.literals import Arg, DictArg, ListArg, Ref, SliceArg, TensorData

__all__ = [
    "Apply",
    "Call",
    "Constant",
    "Gradient",
    "Node",
    "NodeId",
    "Read",
    "Weight",
    "Write",
    "argument_refs",
    "dependencies",
    "with_new_ids",
]

NodeId: TypeAlias = int


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A tensor that travels with the graph."""

    id: NodeId
    value: TensorData
    where: SourceLine | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """The value the model has at `address`, before any write there. `invoke` None: all rows."""

    id: NodeId
    address: Address
    invoke: int | None = None
    where: SourceLine | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Put `value` at `address` before the model goes on. `invoke` None: all rows."""

    id: NodeId
    address: Address
    value: NodeId
    invoke: int | None = None
    where: SourceLine | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One operation of the op table on earlier values. Operations never change their inputs."""

    id: NodeId
    op: str
    args: tuple[Arg, ...] = ()
    kwargs: tuple[tuple[str, Arg], ...] = ()
    where: SourceLine | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Call one of the model's modules out of its order, as in `lm.lm_head(lm.norm(h))`."""

    id: NodeId
    path: str
    args: tuple[Arg, ...] = ()
    kwargs: tuple[tuple[str, Arg], ...] = ()
    where: SourceLine | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A parameter or buffer of one of the model's modules."""

    id: NodeId
    path: str
    name: str
    where: SourceLine | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradient:
    """The gradient of the scalar `of` with respect to `at`, after the forward pass."""

    id: NodeId
    of: NodeId
    at: NodeId
    where: SourceLine | None = field(default=None, compare=False)


Node: TypeAlias = Constant | Read | Write | Call | Apply | Weight | Gradient


def argument_refs(arg: Arg) -> Iterator[NodeId]:
    """The ids an argument refers to, in order, without recursion."""
    stack: list[Arg] = [arg]
    while stack:
        match stack.pop():
            case Ref(id=id):
                yield id
            case SliceArg(start=start, stop=stop, step=step):
                stack.extend((step, stop, start))
            case ListArg(items=items):
                stack.extend(reversed(items))
            case DictArg(items=pairs):
                stack.extend(value for _, value in reversed(pairs))
            case tuple() as items:
                stack.extend(reversed(items))


def dependencies(node: Node) -> tuple[NodeId, ...]:
    """The ids of the values a node needs, in the order it names them."""
    match node:
        case Call(args=args, kwargs=kwargs) | Apply(args=args, kwargs=kwargs):
            found = list(argument_refs(args))
            for _, value in kwargs:
                found.extend(argument_refs(value))
            return tuple(found)
        case Write(value=value):
            return (value,)
        case Gradient(of=of, at=at):
            return (of, at)
        case _:
            return ()


def _arg_with_new_ids(arg: Arg, new_ids: Mapping[NodeId, NodeId]) -> Arg:
    match arg:
        case Ref(id=id):
            return Ref(new_ids[id])
        case SliceArg(start=start, stop=stop, step=step):
            return SliceArg(*(_arg_with_new_ids(part, new_ids) for part in (start, stop, step)))
        case ListArg(items=items):
            return ListArg(tuple(_arg_with_new_ids(item, new_ids) for item in items))
        case DictArg(items=pairs):
            return DictArg(tuple((key, _arg_with_new_ids(item, new_ids)) for key, item in pairs))
        case tuple() as items:
            return tuple(_arg_with_new_ids(item, new_ids) for item in items)
        case _:
            return arg


def with_new_ids(node: Node, new_ids: Mapping[NodeId, NodeId]) -> Node:
    """The same node, itself and its references renamed by `new_ids`."""
    match node:
        case Call() | Apply():
            args = tuple(_arg_with_new_ids(arg, new_ids) for arg in node.args)
            kwargs = tuple((key, _arg_with_new_ids(arg, new_ids)) for key, arg in node.kwargs)
            return replace(node, id=new_ids[node.id], args=args, kwargs=kwargs)
        case Write():
            return replace(node, id=new_ids[node.id], value=new_ids[node.value])
        case Gradient():
            return replace(node, id=new_ids[node.id], of=new_ids[node.of], at=new_ids[node.at])
        case _:
            return replace(node, id=new_ids[node.id])
