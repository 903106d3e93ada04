"""A graph meets a forward pass: any host will do, here one written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from nnsight_lab import errors
from nnsight_lab.ir import (
    Address,
    Apply,
    Call,
    Dim,
    Graph,
    ModuleCard,
    ModuleTree,
    Output,
    Read,
    Ref,
    Site,
    SizeForm,
    TensorSpec,
    Weight,
    Write,
)
from nnsight_lab.passes import schedule
from nnsight_lab.runtime import Host, Interleaver, Values
from nnsight_lab.runtime.values import copied, in_order

FIRST, SECOND = Address("first"), Address("second")
PAIR = TensorSpec("float32", (Dim(SizeForm.FIXED, 2),))
TREE = ModuleTree(
    (ModuleCard("", "Net"), ModuleCard("first", "Linear")), (Site(FIRST, 0, PAIR), Site(SECOND, 1, PAIR))
)  # fmt: skip


class PaperHost:
    """No torch module at all: two values, one weight, one function."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.kept = torch.tensor([3.0, 4.0])

    def apply(self, path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return args[0] * 10

    def go_on(self) -> None:
        pass

    def aside(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return function(*args, **kwargs)

    def weight(self, path: str, name: str) -> torch.Tensor:
        return self.kept


def _run(graph: Graph) -> tuple[Interleaver, dict[str, Any], PaperHost]:
    host: PaperHost = PaperHost()
    assert isinstance(host, PaperHost)
    as_host: Host = host
    saved: dict[str, Any] = {}
    return Interleaver(schedule(graph, TREE), as_host, saved.__setitem__), saved, host


def test_moments_come_and_values_go() -> None:
    graph = Graph(
        (
            Read(id=0, address=FIRST),
            Call(id=1, op="Tensor.add", args=(Ref(0), 1)),
            Read(id=2, address=SECOND),
            Apply(id=3, path="first", args=(Ref(1),)),
            Write(id=4, address=SECOND, value=3),
            Weight(id=5, path="first", name="weight"),
            Call(id=6, op="Tensor.mul", args=(Ref(5), Ref(2))),
        ),
        (Output("sum", 1), Output("scaled", 6)),
    )
    run, saved, _ = _run(graph)
    run.begin()
    assert run.reach(0, lambda _: torch.tensor([1.0, 2.0])) == []
    assert saved["sum"].tolist() == [2, 3]
    unfinished = not run.finished
    ((place, written),) = run.reach(1, lambda _: torch.tensor([5.0, 6.0]))
    assert place.address == SECOND
    assert written.tolist() == [20, 30]
    assert saved["scaled"].tolist() == [15, 24]
    assert unfinished
    assert run.finished
    run.end()
    assert len(run._values) == 0


def test_a_moment_comes_once() -> None:
    """A module called again is not read again."""
    run, saved, _ = _run(Graph((Read(id=0, address=FIRST),), (Output("x", 0),)))
    run.begin()
    run.reach(0, lambda _: torch.zeros(2))
    assert run.reach(0, lambda _: torch.ones(2)) == []
    assert saved["x"].tolist() == [0, 0]


def test_a_place_that_never_comes_is_an_error() -> None:
    run, _, _ = _run(Graph((Read(id=0, address=SECOND),), (Output("x", 0),)))
    run.begin()
    with pytest.raises(errors.NeverReached, match="second"):
        run.end()


def test_saved_values_do_not_share_the_models_memory() -> None:
    """Not with what was read, not with what is written back, not with a parameter."""
    graph = Graph(
        (
            Read(id=0, address=FIRST),
            Call(id=1, op="operator.getitem", args=(Ref(0), 0)),
            Call(id=2, op="Tensor.neg", args=(Ref(0),)),
            Write(id=3, address=FIRST, value=2),
            Weight(id=4, path="first", name="weight"),
            Call(id=5, op="operator.getitem", args=(Ref(4), 1)),
        ),
        tuple(Output(f"v{id}", id) for id in (0, 1, 2, 4, 5)),
    )
    run, saved, host = _run(graph)
    mine = torch.tensor([1.0, 2.0])
    run.begin()
    ((_, written),) = run.reach(0, lambda _: mine)
    mine.zero_()
    written.zero_()
    host.kept.zero_()
    assert saved["v0"].tolist() == [1, 2]
    assert saved["v1"].item() == 1
    assert saved["v2"].tolist() == [-1, -2]
    assert saved["v4"].tolist() == [3, 4]
    assert saved["v5"].item() == 4


def test_a_value_that_outlives_its_moment_is_kept_as_it_was() -> None:
    graph = Graph(
        (
            Read(id=0, address=FIRST),
            Read(id=1, address=SECOND),
            Call(id=2, op="Tensor.add", args=(Ref(0), Ref(1))),
        ),
        (Output("x", 2),),
    )
    run, saved, _ = _run(graph)
    mine = torch.tensor([1.0, 2.0])
    run.begin()
    run.reach(0, lambda _: mine)
    mine.fill_(100.0)
    run.reach(1, lambda _: mine)
    assert saved["x"].tolist() == [101, 102]


def test_an_operation_that_raises_becomes_an_error_of_ours() -> None:
    graph = Graph(
        (Read(id=0, address=FIRST), Call(id=1, op="operator.getitem", args=(Ref(0), 9))),
        (Output("x", 1),),
    )
    run, _, _ = _run(graph)
    run.begin()
    with pytest.raises(errors.OpFailed, match=r"operator\.getitem failed") as caught:
        run.reach(0, lambda _: torch.zeros(2))
    assert caught.value.node == 1
    assert isinstance(caught.value.__cause__, IndexError)


def test_a_chain_of_a_hundred_thousand_operations_runs() -> None:
    nodes = [Read(id=0, address=FIRST)]
    calls = [Call(id=id, op="Tensor.add", args=(Ref(id - 1), 1)) for id in range(1, 100_000)]
    run, saved, _ = _run(Graph((*nodes, *calls), (Output("x", 99_999),)))
    run.begin()
    run.reach(0, lambda _: torch.zeros(2, dtype=torch.float64))
    assert saved["x"].tolist() == [99_999, 99_999]


def test_values_know_themselves() -> None:
    values = Values()
    values[3] = torch.zeros(1)
    assert 3 in values
    assert len(values) == 1
    values.forget([3, 4])
    assert 3 not in values


def test_values_are_taken_in_the_order_of_their_axes_and_copied_apart() -> None:
    base = torch.arange(6.0).view(2, 3)
    nested = {"a": (base.T, [base.expand(2, 2, 3), None])}
    flat = in_order(nested)
    assert flat["a"][0].is_contiguous()
    assert torch.equal(flat["a"][0], base.T)
    assert in_order(base) is base
    apart = copied(nested)
    apart["a"][0].zero_()
    assert base.sum() == 15
