"""Steps that do not happen: what is missing, what is computed without it, what is not written."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from nnsight_lab.contract import Generation, TokenRows
from nnsight_lab.ir import (
    STEP,
    Address,
    Call,
    Dim,
    Graph,
    ListArg,
    ModuleCard,
    ModuleTree,
    Output,
    Read,
    Ref,
    Site,
    SizeForm,
    TensorSpec,
    Write,
)
from nnsight_lab.passes import Part, Stages, schedule
from nnsight_lab.runtime import Interleaver
from tests.runtime.test_interleaver import PaperHost

STREAM = Address("block")
PAIR = TensorSpec("float32", (Dim(SizeForm.FIXED, 2),))
TREE = ModuleTree((ModuleCard("", "Net"), ModuleCard("block", "Block")), (Site(STREAM, 0, PAIR),))
STAGES = Stages((Part(TokenRows(((1,),), Generation(3)), TREE, TREE),))


def _given(value: torch.Tensor, _: object) -> torch.Tensor:
    return value


def _after_two_of_three(*nodes: Any, **outputs: int) -> tuple[dict[str, Any], list[Any]]:
    """Read three steps, make two, then give up; what was saved, and what would be written."""
    reads = tuple(Read(id=step, address=STREAM, step=step) for step in range(3))
    named = tuple(Output(name, node) for name, node in outputs.items())
    saved: dict[str, Any] = {}
    plan = schedule(Graph((*reads, *nodes), named), STAGES)
    run = Interleaver(plan, PaperHost(), saved.__setitem__)
    run.begin()
    writes = []
    for step in range(2):
        value = torch.full((2,), float(step))
        writes += run.reach(step * STEP, partial(_given, value))
        run.end(step)
    assert run.waiting(3 * STEP)
    run.miss(3 * STEP)
    assert run.finished
    return saved, writes


def test_a_list_holds_what_is_there() -> None:
    all_three = ListArg((Ref(0), Ref(1), Ref(2)))
    saved, _ = _after_two_of_three(
        Call(id=3, op="torch.stack", args=(all_three,)),
        Call(id=4, op="torch.mean", args=(Ref(3),)),
        h0=0,
        h2=2,
        stack=3,
        mean=4,
    )

    assert set(saved) == {"h0", "stack", "mean"}
    assert saved["stack"].tolist() == [[0, 0], [1, 1]]
    assert saved["mean"].item() == 0.5


def test_what_needs_a_missing_value_is_missing() -> None:
    saved, _ = _after_two_of_three(
        Call(id=3, op="torch.add", args=(Ref(1), Ref(2))),
        Call(id=4, op="torch.stack", args=(ListArg((Ref(2), Ref(3))),)),
        Call(id=5, op="torch.add", args=(Ref(0), Ref(1))),
        sum=3,
        of_none=4,
        there=5,
    )

    assert set(saved) == {"there"}


def test_an_edit_of_a_step_that_did_not_happen_is_not_made() -> None:
    _, writes = _after_two_of_three(
        Write(id=3, address=STREAM, value=0, step=1), Write(id=4, address=STREAM, value=0, step=2)
    )

    assert [place.step for place, _ in writes] == [1]
