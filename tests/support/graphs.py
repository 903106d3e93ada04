"""Graphs out of nothing: every kind of node and argument, for laws that hold for all graphs."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from nnsight_lab.errors import SourceLine
from nnsight_lab.ir import (
    Address,
    Apply,
    Block,
    Call,
    Cond,
    Constant,
    DictArg,
    Foreach,
    Gradient,
    GradientWrite,
    Graph,
    ListArg,
    LocalCall,
    Name,
    Node,
    Output,
    Param,
    Read,
    Ref,
    Skip,
    SliceArg,
    Special,
    TensorData,
    Weight,
    While,
    Write,
)
from nnsight_lab.ir.literals import DTYPE_SIZES
from nnsight_lab.ir.ops import op_names

__all__ = ["arguments", "graphs", "many_kinds"]

_OPS = sorted(op_names())
_texts = st.text(max_size=8)
_addresses = st.builds(Address, _texts, _texts, st.integers(0, 3))
_lines = st.none() | st.builds(
    SourceLine, _texts, st.integers(0, 10**6), st.none() | st.integers(0, 99)
)


def arguments(ids: int) -> st.SearchStrategy[Any]:
    """An argument of any kind, that may refer to nodes below `ids`."""
    leaves: st.SearchStrategy[Any] = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.complex_numbers(allow_nan=False),
        st.text(max_size=12),
        st.just(...),
        st.sampled_from([Special("nan"), Special("inf"), Special("-inf")]),
        st.sampled_from([Name("dtype", "torch.float16"), Name("layout", "torch.strided")]),
        st.integers(0, ids - 1).map(Ref) if ids else st.none(),
    )

    def inside(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        few = st.lists(parts, max_size=3).map(tuple)
        pairs = st.lists(st.tuples(_texts, parts), max_size=2).map(tuple)
        return st.one_of(
            few, few.map(ListArg), pairs.map(DictArg), st.builds(SliceArg, parts, parts, parts)
        )

    return st.recursive(leaves, inside, max_leaves=5)


@st.composite
def _tensors(draw: st.DrawFn) -> TensorData:
    dtype = draw(st.sampled_from(sorted(DTYPE_SIZES)))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    size = DTYPE_SIZES[dtype]
    for axis in shape:
        size *= axis
    return TensorData(dtype, shape, draw(st.binary(min_size=size, max_size=size)))


def _node(draw: st.DrawFn, id: int, values: list[int], invokes: int) -> Node:
    kinds = _KINDS if values else _WITHOUT_VALUES
    kind = draw(st.sampled_from(kinds))
    where = draw(_lines)
    if kind in ("read", "write", "skip"):
        return _place(draw, id, kind, values, invokes, where)
    if kind in ("gradient", "gradient-write", "cond", "foreach", "while"):
        return _region_or_gradient(draw, id, kind, values, where)
    return _pure(draw, id, kind, values, where)


_WITHOUT_VALUES = ("read", "constant", "weight", "call", "apply", "local")
_KINDS = (
    *_WITHOUT_VALUES,
    *("write", "skip", "gradient", "gradient-write", "cond", "foreach", "while"),
)


def _place(
    draw: st.DrawFn, id: int, kind: str, values: list[int], invokes: int, where: Any
) -> Node:
    address, step = draw(_addresses), draw(st.integers(0, 3))
    invoke = draw(st.none() | st.integers(0, invokes - 1)) if invokes else None
    if kind == "read":
        return Read(id=id, address=address, invoke=invoke, step=step, where=where)
    value = draw(st.sampled_from(values))
    if kind == "skip":
        return Skip(id=id, address=address, value=value, step=step, where=where)
    return Write(id=id, address=address, value=value, invoke=invoke, step=step, where=where)


def _pure(draw: st.DrawFn, id: int, kind: str, values: list[int], where: Any) -> Node:
    if kind == "constant":
        return Constant(id=id, value=draw(_tensors()), where=where)
    if kind == "weight":
        return Weight(id=id, path=draw(_texts), name=draw(_texts), where=where)
    args = tuple(arg for arg in draw(st.lists(arguments(id), max_size=3)) if _sound(arg, values))
    named = draw(st.dictionaries(_texts, arguments(id), max_size=2))
    kwargs = tuple((key, arg) for key, arg in named.items() if _sound(arg, values))
    if kind == "call":
        op = draw(st.sampled_from(_OPS))
        return Call(id=id, op=op, args=args, kwargs=kwargs, where=where)
    if kind == "local":
        return LocalCall(id=id, function=draw(_texts), args=args, kwargs=kwargs, where=where)
    return Apply(id=id, path=draw(_texts), args=args, kwargs=kwargs, where=where)


def _region_or_gradient(draw: st.DrawFn, id: int, kind: str, values: list[int], where: Any) -> Node:
    one, other, third = (draw(st.sampled_from(values)) for _ in range(3))
    sweep = draw(st.integers(0, 2))
    if kind == "gradient":
        return Gradient(id=id, of=one, at=other, sweep=sweep, where=where)
    if kind == "gradient-write":
        return GradientWrite(id=id, of=one, at=other, value=third, sweep=sweep, where=where)
    carry = tuple(draw(st.lists(st.sampled_from(values), min_size=1, max_size=2)))
    inputs = tuple(draw(st.lists(st.sampled_from(values), max_size=2)))
    given = len(carry) + len(inputs)
    if kind == "cond":
        sides = [draw(_blocks(len(inputs), 2)) for _ in range(2)]
        return Cond(id=id, test=one, inputs=inputs, then=sides[0], otherwise=sides[1], where=where)
    if kind == "foreach":
        body = draw(_blocks(given + 1, len(carry) + 1))
        return Foreach(id=id, over=one, carry=carry, inputs=inputs, body=body, where=where)
    test, body = draw(_blocks(given, 1)), draw(_blocks(given, len(carry)))
    return While(
        id=id, carry=carry, inputs=inputs, test=test, body=body, limit=sweep + 1, where=where
    )


@st.composite
def _blocks(draw: st.DrawFn, params: int, results: int) -> Block:
    """A block of pure nodes, with ids of its own."""
    nodes: list[Node] = [Param(id=place, index=place) for place in range(params)]
    for id in range(params, params + draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(("constant", "weight", "call", "apply", "local")))
        nodes.append(_pure(draw, id, kind, list(range(id)), draw(_lines)))
    given = tuple(draw(st.integers(0, len(nodes) - 1)) for _ in range(results))
    return Block(params, tuple(nodes), given)


def _sound(arg: Any, values: list[int]) -> bool:
    from nnsight_lab.ir.nodes import argument_refs

    return all(ref in values for ref in argument_refs(arg))


@st.composite
def graphs(draw: st.DrawFn, most: int = 8) -> Graph:
    """A graph of up to `most` nodes that refer to each other as a graph may."""
    nodes: list[Node] = []
    values: list[int] = []
    invokes = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    for id in range(draw(st.integers(0, most))):
        nodes.append(_node(draw, id, values, len(invokes)))
        if not isinstance(nodes[-1], Write | Skip | GradientWrite):
            values.append(id)
    names = draw(st.lists(_texts, unique=True, max_size=3)) if values else []
    outputs = tuple(Output(name, draw(st.sampled_from(values))) for name in names)
    return Graph(tuple(nodes), outputs, invokes)


def many_kinds() -> Graph:
    """One graph with every kind of node and argument in it."""
    slices = (SliceArg(1, None, Ref(0)), ..., ListArg((1, 2.5, Special("nan"))))
    named = (("dtype", Name("dtype", "torch.float16")), ("k", DictArg((("a", (1 + 2j, None)),))))
    return Graph(
        (
            Read(id=0, address=Address("layers.0", "output", 1), where=SourceLine("é.py", 3)),
            Constant(id=1, value=TensorData("bfloat16", (2, 3), bytes(range(12)))),
            Weight(id=2, path="lm_head", name="weight"),
            Call(id=3, op="operator.getitem", args=(Ref(0), slices)),
            Apply(id=4, path="norm", args=(Ref(3),), kwargs=named),
            Write(id=5, address=Address("layers.1"), value=4, where=SourceLine("é.py", 4, 7)),
        ),
        (Output("h", 3), Output("w", 2)),
    )
