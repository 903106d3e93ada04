"""The plan of a run: when each node runs, what is dropped, and what is impossible."""

from __future__ import annotations

import pytest

from nnsight_lab import errors
from nnsight_lab.errors import SourceLine
from nnsight_lab.ir import (
    Address,
    Call,
    Dim,
    Graph,
    ModuleCard,
    ModuleTree,
    Node,
    Output,
    Read,
    Ref,
    Site,
    SizeForm,
    TensorSpec,
    Write,
)
from nnsight_lab.passes import drop_dead_nodes, schedule
from nnsight_lab.passes.schedule import BEFORE

VECTOR = TensorSpec("float32", (Dim(SizeForm.FIXED, 2),))
A, B, C = Address("a"), Address("b"), Address("c")
PART = Address("parts", "of_b")
TREE = ModuleTree(
    modules=tuple(ModuleCard(path, "Linear") for path in ("", "a", "b", "c")),
    sites=tuple(
        Site(address, moment, VECTOR) for address, moment in ((A, 1), (B, 4), (PART, 4), (C, 7))
    ),
)


def _add(id: int, *of: int) -> Call:
    return Call(id=id, op="torch.add", args=tuple(map(Ref, of)))


def _graph(*nodes: Node, **outputs: int) -> Graph:
    return Graph(nodes, tuple(Output(name, node) for name, node in outputs.items()))


def test_each_node_runs_at_the_first_moment_it_can() -> None:
    graph = _graph(
        Read(id=0, address=C), Read(id=1, address=A), _add(2, 1, 1), _add(3, 2, 0),
        Write(id=4, address=B, value=2), early=2, late=3,
    )  # fmt: skip
    moments = schedule(graph, TREE).moments
    assert sorted(moments) == [1, 4, 7]
    assert moments[1].steps == (2,)
    assert moments[1].outputs == (("early", 2),)
    assert [write.id for write in moments[4].writes] == [4]
    assert moments[7].steps == (3,)
    assert schedule(graph, TREE).last == 7


def test_values_are_dropped_at_their_last_use_and_not_before() -> None:
    graph = _graph(
        Read(id=0, address=A), _add(1, 0, 0), Read(id=2, address=C), _add(3, 1, 2), out=3
    )
    moments = schedule(graph, TREE).moments
    assert moments[1].drops == (0,)
    assert set(moments[7].drops) == {1, 2, 3}


def test_what_needs_nothing_runs_before_the_model() -> None:
    from nnsight_lab.ir import Constant, TensorData, Weight

    constant = Constant(id=0, value=TensorData("float32", (1,), bytes(4)))
    graph = _graph(constant, Weight(id=1, path="a", name="weight"), _add(2, 0, 1), x=2)
    plan = schedule(graph, TREE)
    assert list(plan.moments) == [BEFORE]
    assert plan.last == BEFORE


@pytest.mark.parametrize(("first", "second", "allowed"), [
    (A, B, True), (A, C, True), (B, C, True), (A, A, True), (B, A, False), (C, A, False),
    (C, B, False),
])  # fmt: skip
def test_a_write_may_use_the_past_and_the_present_only(
    first: Address, second: Address, allowed: bool
) -> None:
    line = SourceLine("user.py", 3)
    graph = _graph(
        Read(id=0, address=first, where=SourceLine("user.py", 2)),
        _add(1, 0, 0),
        Write(id=2, address=second, value=1, where=line),
    )
    if allowed:
        schedule(graph, TREE)
        return
    with pytest.raises(errors.WriteTooEarly) as caught:
        schedule(graph, TREE)
    assert caught.value.where == line
    assert caught.value.node == 2
    assert "user.py, line 2" in caught.value.message


def test_an_edit_of_a_place_under_two_names_is_refused() -> None:
    """A part of a module's output, and the output itself: one edit would be lost."""
    part_written = _graph(Read(id=0, address=PART), Write(id=1, address=PART, value=0), x=0)
    schedule(part_written, TREE)
    mixed = _graph(
        Read(id=0, address=PART), Write(id=1, address=PART, value=0), Read(id=2, address=B), x=2
    )
    with pytest.raises(errors.NotSupported, match="two names"):
        schedule(mixed, TREE)


@pytest.mark.parametrize(("address", "hint"), [
    (Address("aa"), "a.output"), (Address("a", "outptu"), "output"), (Address("a", call=3), "time"),
    (Address("nothing like it"), "print"),
])  # fmt: skip
def test_an_address_the_model_does_not_reach_is_named(address: Address, hint: str) -> None:
    line = SourceLine("user.py", 9)
    with pytest.raises(errors.AddressNotFound) as caught:
        schedule(_graph(Read(id=0, address=address, where=line), x=0), TREE)
    assert hint in caught.value.hint
    assert caught.value.where == line


def test_dead_nodes_go_and_the_rest_means_the_same() -> None:
    """Every node left serves an output or a write; ids close up."""
    graph = _graph(
        Read(id=0, address=A), Read(id=1, address=C), _add(2, 1, 1), _add(3, 0, 0),
        Write(id=4, address=B, value=3), _add(5, 3, 3), x=5,
    )  # fmt: skip
    kept = drop_dead_nodes(graph)
    assert kept == _graph(
        Read(id=0, address=A), _add(1, 0, 0), Write(id=2, address=B, value=1), _add(3, 1, 1), x=3
    )
    assert drop_dead_nodes(kept) is kept
    assert len(drop_dead_nodes(_graph(Read(id=0, address=A)))) == 0


def test_a_hundred_thousand_nodes_in_a_row_are_no_trouble() -> None:
    chain = [_add(id, id - 1) for id in range(1, 100_000)]
    graph = _graph(Read(id=0, address=A), *chain, x=99_999)
    plan = schedule(drop_dead_nodes(graph), TREE)
    assert len(plan.moments[1].steps) == 99_999
