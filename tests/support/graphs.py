"""Graphs out of nothing: every kind of node and argument, for laws that hold for all graphs."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from nnsight_lab.errors import SourceLine
from nnsight_lab.ir import (
    Address,
    Apply,
    Call,
    Constant,
    DictArg,
    Graph,
    ListArg,
    Name,
    Node,
    Output,
    Read,
    Ref,
    SliceArg,
    Special,
    TensorData,
    Weight,
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


def _node(draw: st.DrawFn, id: int, values: list[int]) -> Node:
    where = draw(_lines)
    kinds = ["read", "constant", "weight", "call", "apply", *(["write"] if values else [])]
    kind = draw(st.sampled_from(kinds))
    if kind == "read":
        return Read(id=id, address=draw(_addresses), where=where)
    if kind == "constant":
        return Constant(id=id, value=draw(_tensors()), where=where)
    if kind == "weight":
        return Weight(id=id, path=draw(_texts), name=draw(_texts), where=where)
    if kind == "write":
        value = draw(st.sampled_from(values))
        return Write(id=id, address=draw(_addresses), value=value, where=where)
    args = [arg for arg in draw(st.lists(arguments(id), max_size=3)) if _sound(arg, values)]
    named = {key: arg for key, arg in draw(st.dictionaries(_texts, arguments(id), max_size=2)).items()
             if _sound(arg, values)}  # fmt: skip
    kwargs = tuple(named.items())
    if kind == "call":
        op = draw(st.sampled_from(_OPS))
        return Call(id=id, op=op, args=tuple(args), kwargs=kwargs, where=where)
    return Apply(id=id, path=draw(_texts), args=tuple(args), kwargs=kwargs, where=where)


def _sound(arg: Any, values: list[int]) -> bool:
    from nnsight_lab.ir.nodes import argument_refs

    return all(ref in values for ref in argument_refs(arg))


@st.composite
def graphs(draw: st.DrawFn, most: int = 8) -> Graph:
    """A graph of up to `most` nodes that refer to each other as a graph may."""
    nodes: list[Node] = []
    values: list[int] = []
    for id in range(draw(st.integers(0, most))):
        nodes.append(_node(draw, id, values))
        if not isinstance(nodes[-1], Write):
            values.append(id)
    names = draw(st.lists(_texts, unique=True, max_size=3)) if values else []
    outputs = tuple(Output(name, draw(st.sampled_from(values))) for name in names)
    return Graph(tuple(nodes), outputs)


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
