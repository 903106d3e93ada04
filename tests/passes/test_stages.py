"""The forward passes of a run: numbered through its parts, each with its tree, size and moments."""

from __future__ import annotations

import pytest

from nnsight_lab.contract import Generation, TokenRows
from nnsight_lab.errors import BadInput, WriteTooEarly
from nnsight_lab.ir import (
    RESULT,
    STEP,
    TOKENS,
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
from nnsight_lab.passes import Part, Stages, check_graph, schedule, then

BATCH, POS, ONE = Dim(SizeForm.BATCH), Dim(SizeForm.POS), Dim(SizeForm.FIXED, 1)
STREAM, LATE = Address("block"), Address("head")


def _tree(*dims: Dim) -> ModuleTree:
    spec = TensorSpec("float32", dims)
    cards = (ModuleCard("", "Net"), ModuleCard("block", "Block"), ModuleCard("head", "Linear"))
    return ModuleTree(cards, (Site(STREAM, 0, spec), Site(LATE, 1, spec)))


FIRST, DECODE = _tree(BATCH, POS), _tree(BATCH, ONE)
PROMPTS = ((1, 2, 3), (4,))
TRACE = Part(TokenRows(PROMPTS), FIRST)
TEXT = Part(TokenRows(PROMPTS, Generation(4)), FIRST, DECODE)


def test_steps_count_the_passes_of_all_parts() -> None:
    stages = Stages((TRACE, TEXT, TRACE))

    assert len(stages) == 6
    assert [stages.at(step).part for step in range(6)] == [0, 1, 1, 1, 1, 2]
    assert (stages.at(3).first, stages.at(3).last) == (1, 4)
    assert stages.at(1).tree.by_address[STREAM].spec == FIRST.by_address[STREAM].spec
    assert stages.at(2).tree.by_address[STREAM].spec == DECODE.by_address[STREAM].spec
    assert TOKENS not in stages.at(0).tree.by_address
    assert TOKENS in stages.at(4).tree.by_address
    with pytest.raises(BadInput, match="Step 6 of a run that has 6"):
        stages.at(6)


def test_a_text_grows_by_one_position_a_step() -> None:
    stages = Stages((TEXT,))
    graph = Graph((), (), (1, 1))

    assert [stages.at(step).pos for step in range(4)] == [3, 4, 5, 6]
    assert [span.pos for span in stages.spans(graph, 0).values()] == [3, 1]
    assert [(span.start, span.rows, span.pos) for span in stages.spans(graph, 2).values()] == [
        (0, 1, 5),
        (1, 1, 3),
    ]


def test_moments_follow_each_other_through_the_steps() -> None:
    nodes = (
        Read(id=0, address=LATE),
        Read(id=1, address=STREAM, step=2),
        Read(id=2, address=TOKENS, step=1),
        Read(id=3, address=RESULT),
        Call(id=4, op="torch.stack", args=(ListArg((Ref(0), Ref(1))),)),
    )
    names = ("late", "stream", "tokens", "result", "both")
    outputs = tuple(Output(name, id) for id, name in enumerate(names))

    plan = schedule(Graph(nodes, outputs), Stages((TEXT,)))

    order = [name for moment in sorted(plan.moments) for name, _ in plan.moments[moment].outputs]
    assert order == ["late", "tokens", "stream", "both", "result"]
    assert [moment // STEP for moment in sorted(plan.moments)] == [0, 1, 2, 3]


def test_a_later_step_cannot_be_written_into_an_earlier_one() -> None:
    def copied(source: int, target: int) -> Graph:
        return Graph(
            (
                Read(id=0, address=STREAM, step=source),
                Write(id=1, address=STREAM, value=0, step=target),
            )
        )

    schedule(copied(1, 2), Stages((TEXT,)))
    with pytest.raises(WriteTooEarly):
        schedule(copied(2, 1), Stages((TEXT,)))


def test_the_cost_counts_every_step_at_its_size() -> None:
    nodes = tuple(Read(id=step, address=STREAM, step=step) for step in range(4))
    graph = Graph(nodes, tuple(Output(f"h{step}", step) for step in range(4)))

    cost = check_graph(graph, Stages((TEXT,)), TEXT.inputs)

    assert cost.saved_bytes == 4 * (2 * 3 + 3 * 2 * 1)


def test_a_second_graph_sees_the_edits_of_its_own_step() -> None:
    edit = Graph(
        (
            Read(id=0, address=STREAM, step=1),
            Call(id=1, op="torch.mul", args=(Ref(0), 2)),
            Write(id=2, address=STREAM, value=1, step=1),
        )
    )
    look = Graph(
        (Read(id=0, address=STREAM, step=1), Read(id=1, address=STREAM, step=2)),
        (Output("edited", 0), Output("after", 1)),
    )

    both = then(edit, look)

    found = {output.name: both[output.node] for output in both.outputs}
    assert isinstance(found["edited"], Call)
    assert isinstance(found["after"], Read)
    assert found["after"].step == 2
