"""A graph is a value: equal to what says the same, frozen, printable, and bytes any time."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsight_lab.errors import SourceLine
from nnsight_lab.ir import Address, Call, Constant, Graph, ListArg, Output, Read, Ref, TensorData
from nnsight_lab.ir.nodes import dependencies, with_new_ids
from nnsight_lab.ir.text import node_to_text
from tests.support.graphs import graphs, many_kinds


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_bytes_come_back_as_an_equal_graph(graph: Graph) -> None:
    back = Graph.from_bytes(graph.to_bytes())
    assert back == graph
    assert hash(back) == hash(graph)
    assert back.nodes == graph.nodes
    assert back.outputs == graph.outputs
    assert [node.where for node in back] == [node.where for node in graph]
    assert str(back) == str(graph)
    assert back.to_bytes() == graph.to_bytes()


def test_every_kind_of_node_and_argument_comes_back() -> None:
    graph = many_kinds()
    back = Graph.from_bytes(graph.to_bytes())
    assert back.nodes == graph.nodes
    assert back[0].where == SourceLine("é.py", 3)
    assert back[5].where == SourceLine("é.py", 4, 7)
    assert all(node.where is None for node in Graph.from_bytes(graph.to_bytes(sources=False)))


def test_two_graphs_are_equal_when_they_say_the_same() -> None:
    """Where they were written does not matter; everything else does."""
    here = Read(id=0, address=Address("a"), where=SourceLine("one.py", 1))
    there = Read(id=0, address=Address("a"), where=SourceLine("two.py", 9))
    one = Graph((here,), (Output("x", 0),))
    assert one == Graph((there,), (Output("x", 0),))
    assert len({one, Graph((there,), (Output("x", 0),))}) == 1
    for other in (
        Graph((here,)),
        Graph((here,), (Output("y", 0),)),
        Graph((Read(id=0, address=Address("a", "input")),), (Output("x", 0),)),
        Graph((Read(id=0, address=Address("a", call=1)),), (Output("x", 0),)),
        Graph((here, here), (Output("x", 0),)),
    ):
        assert one != other
    assert one != "a graph"
    numbers = (1, 1.0, True, "1", (1,), ListArg((1,)), None, 0.0, -0.0)
    keys = {Graph((Call(id=0, op="torch.add", args=(number,)),)).key for number in numbers}
    assert len(keys) == len(numbers)
    constants = [TensorData("float32", (2,), bytes(8)), TensorData("float32", (1, 2), bytes(8)),
                 TensorData("int32", (2,), bytes(8)), TensorData("float32", (2,), b"\x01" * 8)]  # fmt: skip
    assert len({Graph((Constant(id=0, value=value),)).key for value in constants}) == 4


def test_a_graph_and_its_nodes_cannot_be_changed() -> None:
    graph = many_kinds()
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.nodes = ()  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph[0].id = 4  # type: ignore[misc]
    assert len(graph) == 6
    assert [node.id for node in graph] == list(range(6))
    assert repr(graph) == "<Graph of 6 nodes, saves h, w>"


def test_the_text_form_shows_every_kind_of_node() -> None:
    assert str(many_kinds()).splitlines() == [
        "graph, schema 2",
        "  %0 = read layers.0.output#1                            # line 3",
        "  %1 = const bfloat16[2, 3] 16e98d80",
        "  %2 = weight lm_head.weight",
        "  %3 = %0[1::%0, ..., [1, 2.5, nan]]",
        "  %4 = apply norm(%3, dtype=torch.float16, k={a: ((1+2j), None)})",
        "       write layers.1.output <- %4                       # line 4",
        "save h = %3",
        "save w = %2",
    ]


def test_edits_read_as_edits() -> None:
    steps = (("operator.getitem", (0,), ()), ("Tensor.transpose", (0, 1), ()))
    put = Call(id=2, op="lab.set_item", args=(Ref(0), steps, (3, "k"), Ref(1)))
    assign = Call(id=3, op="lab.assign", args=(Ref(0), steps[:1], Ref(1)))
    assert node_to_text(put) == "edit %0[0].transpose(0, 1)[3, 'k'] <- %1"
    assert node_to_text(assign) == "edit %0[0] <- %1"


def test_dependencies_are_found_wherever_they_stand() -> None:
    graph = many_kinds()
    assert dependencies(graph[3]) == (0, 0)
    assert dependencies(graph[4]) == (3,)
    assert dependencies(graph[5]) == (4,)
    renamed = with_new_ids(graph[3], {0: 7, 3: 9})
    assert dependencies(renamed) == (7, 7)
    assert renamed.id == 9


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_renumbering_all_nodes_changes_nothing(graph: Graph) -> None:
    assert graph.renumbered(range(len(graph))) == graph


@settings(max_examples=100, deadline=None)
@given(graphs(), st.data())
def test_renumbering_keeps_what_nodes_say_of_each_other(graph: Graph, data: st.DataObject) -> None:
    """Whatever is kept with all it needs refers to the same nodes, under their new ids."""
    keep = set(
        data.draw(st.sets(st.sampled_from(range(len(graph)))) if len(graph) else st.just(()))
    )
    keep |= {output.node for output in graph.outputs}
    for id in sorted(keep, reverse=True):
        keep |= set(_all_needed(graph, id))
    kept = sorted(keep)
    smaller = graph.renumbered(kept)
    assert [node.id for node in smaller] == list(range(len(kept)))
    for node in smaller:
        old = graph[kept[node.id]]
        assert type(node) is type(old)
        assert [kept[id] for id in dependencies(node)] == list(dependencies(old))
        assert with_new_ids(node, dict(enumerate(kept))) == old
    assert [kept[output.node] for output in smaller.outputs] == [out.node for out in graph.outputs]
    assert smaller.invokes == graph.invokes
    assert Graph.from_bytes(smaller.to_bytes()) == smaller


def _all_needed(graph: Graph, id: int) -> set[int]:
    stack, found = [id], set[int]()
    while stack:
        needed = set(dependencies(graph[stack.pop()])) - found
        found |= needed
        stack += needed
    return found


def test_special_numbers_written_by_hand_travel_too() -> None:
    """Not-a-number and the infinities, alone and inside complex numbers."""
    odd = (float("nan"), float("inf"), complex(float("-inf"), float("nan")), 1e308)
    graph = Graph((Call(id=0, op="torch.add", args=odd),))
    back = Graph.from_bytes(graph.to_bytes())
    assert back == graph
    assert str(back[0]) != ""


def test_names_may_be_any_text() -> None:
    """Also what no encoding likes: lone surrogates in a file name."""
    line = SourceLine("caf\udce9.py", 1)
    graph = Graph((Read(id=0, address=Address("ü.💡"), where=line),), (Output('x["a\n"]', 0),))
    assert Graph.from_bytes(graph.to_bytes())[0].where == line
