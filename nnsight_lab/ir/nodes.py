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
    "Block",
    "Call",
    "Cond",
    "Constant",
    "Foreach",
    "Gradient",
    "GradientWrite",
    "LocalCall",
    "Node",
    "NodeId",
    "Param",
    "Read",
    "Skip",
    "SliderRange",
    "Weight",
    "While",
    "Write",
    "argument_refs",
    "blocks_of",
    "dependencies",
    "has_value",
    "nodes_within",
    "with_new_ids",
]

NodeId: TypeAlias = int


@dataclass(frozen=True, slots=True)
class SliderRange:
    """What a slider is called, and what it may be: limits, and the step it moves by if any."""

    name: str
    low: float
    high: float
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether it takes whole numbers: where its limits and its step are."""
        return all(type(number) is int for number in (self.low, self.high, self.step))


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A tensor that travels with the graph; a `slider` may be given another value (`sliders.py`)."""

    id: NodeId
    value: TensorData
    slider: SliderRange | None = None
    where: SourceLine | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """The value the model has at `address`, before any write there.

    invoke: whose rows; None for all. step: in which forward pass of the run, from 0.
    """

    id: NodeId
    address: Address
    invoke: int | None = None
    step: int = 0
    where: SourceLine | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Put `value` at `address` before the model goes on; `invoke` and `step` as in `Read`."""

    id: NodeId
    address: Address
    value: NodeId
    invoke: int | None = None
    step: int = 0
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
    """The gradient of the scalar `of` with respect to `at`.

    sweep: which backward pass, in the order of the program; each may be edited on its own.
    """

    id: NodeId
    of: NodeId
    at: NodeId
    sweep: int = 0
    where: SourceLine | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientWrite:
    """Go back through `at` with `value` in place of the gradient that arrived there."""

    id: NodeId
    of: NodeId
    at: NodeId
    value: NodeId
    sweep: int = 0
    where: SourceLine | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """Do not run the module of `address` (an output): its result is `value`."""

    id: NodeId
    address: Address
    value: NodeId
    step: int = 0
    where: SourceLine | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCall:
    """Call a Python function that travels beside the graph, under `function`. This process only."""

    id: NodeId
    function: str
    args: tuple[Arg, ...] = ()
    kwargs: tuple[tuple[str, Arg], ...] = ()
    where: SourceLine | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """The `index`-th value that a block is given. Stands in blocks only."""

    id: NodeId
    index: int
    where: SourceLine | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Block:
    """A program within a program: pure, closed, with ids of its own from 0.

    params: how many values it is given. results: the ids of what it gives back.
    """

    params: int
    nodes: tuple[Node, ...]
    results: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cond:
    """One of two blocks, by whether `test` is true. Both are given `inputs`.

    Its value is the tuple of the chosen block's results; both have equally many.
    """

    id: NodeId
    test: NodeId
    inputs: tuple[NodeId, ...]
    then: Block
    otherwise: Block
    where: SourceLine | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreach:
    """A block for each item of `over` (along its first axis, or of a tuple).

    The block is given `(item, *carry, *inputs)` and gives `(*new carry, *made)`. The value is
    `(*last carry, *tuples)`: for each thing made, the tuple of it over all items.
    """

    id: NodeId
    over: NodeId
    carry: tuple[NodeId, ...]
    inputs: tuple[NodeId, ...]
    body: Block
    where: SourceLine | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class While:
    """A block again and again, as long as `test` gives true; an error after `limit` times.

    Both blocks are given `(*carry, *inputs)`; `body` gives the new carry. The value is the tuple
    of the last carry.
    """

    id: NodeId
    carry: tuple[NodeId, ...]
    inputs: tuple[NodeId, ...]
    test: Block
    body: Block
    limit: int
    where: SourceLine | None = field(default=None, compare=False)


Node: TypeAlias = (
    Constant
    | Read
    | Write
    | Call
    | Apply
    | Weight
    | Gradient
    | GradientWrite
    | Skip
    | LocalCall
    | Param
    | Cond
    | Foreach
    | While
)


def has_value(node: Node) -> bool:
    """Whether other nodes may refer to it; a write and a skip only do something."""
    return not isinstance(node, _EFFECTS)


_EFFECTS = (Write, GradientWrite, Skip)  # a union would be put together at each call


def blocks_of(node: Node) -> tuple[Block, ...]:
    """The blocks within a node."""
    match node:
        case Cond(then=then, otherwise=otherwise):
            return then, otherwise
        case Foreach(body=body):
            return (body,)
        case While(test=test, body=body):
            return test, body
        case _:
            return ()


def nodes_within(node: Node) -> Iterator[Node]:
    """The node, and all nodes in its blocks and theirs, without recursion."""
    stack = [node]
    while stack:
        found = stack.pop()
        yield found
        stack.extend(inner for block in blocks_of(found) for inner in block.nodes)


_WITHOUT_REFS = frozenset({type(None), bool, int, float, str})
"""Types of arguments that refer to nothing. Most do not, so they are asked first."""


def argument_refs(arg: Arg) -> Iterator[NodeId]:
    """The ids an argument refers to, in order, without recursion."""
    stack: list[Arg] = [arg]
    while stack:
        part = stack.pop()
        if type(part) in _WITHOUT_REFS:
            continue
        match part:
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
        case Read():  # the most frequent, and not to be compared with each kind below
            return ()
        case Call(args=args, kwargs=kwargs) | Apply(args=args, kwargs=kwargs):
            return _refs_of_call(args, kwargs)
        case LocalCall(args=args, kwargs=kwargs):
            return _refs_of_call(args, kwargs)
        case Write(value=value) | Skip(value=value):
            return (value,)
        case Gradient(of=of, at=at):
            return (of, at)
        case GradientWrite(of=of, at=at, value=value):
            return (of, at, value)
        case Cond(test=test, inputs=inputs):
            return (test, *inputs)
        case Foreach(over=over, carry=carry, inputs=inputs):
            return (over, *carry, *inputs)
        case While(carry=carry, inputs=inputs):
            return (*carry, *inputs)
        case _:
            return ()


def _refs_of_call(args: tuple[Arg, ...], kwargs: tuple[tuple[str, Arg], ...]) -> tuple[NodeId, ...]:
    found = list(argument_refs(args))
    for _, value in kwargs:
        found.extend(argument_refs(value))
    return tuple(found)


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
    new = new_ids.__getitem__
    id = new(node.id)
    match node:
        case Call() | Apply() | LocalCall():
            args = tuple(_arg_with_new_ids(arg, new_ids) for arg in node.args)
            kwargs = tuple((key, _arg_with_new_ids(arg, new_ids)) for key, arg in node.kwargs)
            return replace(node, id=id, args=args, kwargs=kwargs)
        case Write() | Skip():
            return replace(node, id=id, value=new(node.value))
        case Gradient():
            return replace(node, id=id, of=new(node.of), at=new(node.at))
        case GradientWrite():
            return replace(node, id=id, of=new(node.of), at=new(node.at), value=new(node.value))
        case Cond(inputs=inputs):
            return replace(node, id=id, test=new(node.test), inputs=tuple(map(new, inputs)))
        case Foreach(carry=carry, inputs=inputs):
            carried, given = tuple(map(new, carry)), tuple(map(new, inputs))
            return replace(node, id=id, over=new(node.over), carry=carried, inputs=given)
        case While(carry=carry, inputs=inputs):
            return replace(
                node, id=id, carry=tuple(map(new, carry)), inputs=tuple(map(new, inputs))
            )
        case _:
            return replace(node, id=id)
