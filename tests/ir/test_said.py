"""`Graph.quick_key`: graphs that say the same are found again, and no others are taken for them."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given

from nnsight_lab.ir import Address, Call, Constant, Graph, Output, Read, Ref, TensorData
from nnsight_lab.ir.literals import ListArg, SliceArg
from tests.support.graphs import graphs

LIKE_ONE = [
    1,
    1.0,
    True,
    1 + 0j,
    "1",
    Ref(0),
    (1,),
    ListArg((1,)),
    ((1,),),
    SliceArg(1, None, None),
]
LIKE_ZERO = [0, 0.0, -0.0, False, 0j, -0j, None, "", (), ListArg(())]


def _with(arg: Any) -> Graph:
    nodes = (Read(id=0, address=Address("a")), Call(id=1, op="torch.add", args=(Ref(0), arg)))
    return Graph(nodes, (Output("x", 1),))


@pytest.mark.parametrize("args", [LIKE_ONE, LIKE_ZERO])
def test_arguments_that_python_takes_for_equal_are_told_apart(args: list[Any]) -> None:
    for one, other in combinations(args, 2):
        same = _with(one).key == _with(other).key
        assert (_with(one).quick_key == _with(other).quick_key) == same, (one, other)
    assert len({_with(arg).quick_key for arg in args}) == len({_with(arg).key for arg in args})


@given(graphs())
def test_a_graph_that_came_as_bytes_has_the_same(graph: Graph) -> None:
    again = Graph.from_bytes(graph.to_bytes())
    assert again.quick_key == graph.quick_key
    assert hash(again.quick_key) == hash(graph.quick_key)


@given(graphs(), graphs())
def test_two_graphs_share_it_where_they_say_the_same(one: Graph, other: Graph) -> None:
    assert (one.quick_key == other.quick_key) == (one.key == other.key)


def test_constants_outputs_and_invokes_are_part_of_it() -> None:
    base = _with(2)
    constant = Constant(id=0, value=TensorData("int8", (1,), b"\x01"))
    others = [
        Graph(base.nodes, (Output("y", 1),)),
        Graph(base.nodes, (Output("x", 0),)),
        Graph(base.nodes, base.outputs, (1,)),
        Graph((constant,)),
        Graph((Constant(id=0, value=TensorData("int8", (1,), b"\x02")),)),
        Graph((Constant(id=0, value=TensorData("uint8", (1,), b"\x01")),)),
    ]
    assert len({graph.quick_key for graph in (base, *others)}) == 1 + len(others)
