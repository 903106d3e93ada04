"""Law of admission: whatever a graph says, it is admitted or refused with one of our errors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnsight_lab.contract import Generation, TokenRows
from nnsight_lab.errors import LabError, LimitExceeded
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.ir import (
    Address,
    Call,
    Graph,
    ListArg,
    ModuleSource,
    Name,
    Output,
    Read,
    Ref,
    Special,
    Weight,
)
from nnsight_lab.ir.literals import Arg
from nnsight_lab.ir.ops import op_names
from nnsight_lab_server.admission import admit
from nnsight_lab_server.config import ServerLimits
from tests.server.lab_server import ROWS, reads


def sources_of(local: LocalExecutor) -> Callable[[str], ModuleSource]:
    return lambda path: local.source_of(path, TokenRows(ROWS))


LEAF: st.SearchStrategy[Arg] = st.one_of(
    st.integers(0, 1).map(Ref),
    st.sampled_from([0, 1, -1, 2, 2**40, -(2**63), 0.5, True, None, "sum", ...]),
    st.sampled_from([Special("nan"), Name("dtype", "torch.int8"), Name("device", "cuda")]),
)
ARG = (
    LEAF
    | st.lists(LEAF, max_size=3).map(tuple)
    | st.lists(LEAF, max_size=3).map(lambda items: ListArg(tuple(items)))
)
KEY = st.sampled_from(["dim", "dtype", "out", "keepdim", "self", "nonsense"])
PLACE = st.sampled_from(
    [
        Address("layers.0"),
        Address("", "logits"),
        Address("layers.1.attn", "pattern"),
        Address("layers.0", "output", 7),
        Address("layers.\ud7ff", "input"),
    ]
)


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    PLACE, st.sampled_from(sorted(op_names())), st.lists(ARG, max_size=4), st.dictionaries(KEY, ARG)
)
def test_any_operation_on_anything_is_admitted_or_refused_with_a_type(
    local: LocalExecutor, place: Address, op: str, args: list[Arg], kwargs: dict[str, Arg]
) -> None:
    graph = Graph(
        (
            Read(id=0, address=place),
            Weight(id=1, path="model.norm", name="weight"),
            Call(id=2, op=op, args=tuple(args), kwargs=tuple(kwargs.items())),
        ),
        (Output("x", 2),),
    )
    with suppress(LabError):
        admit(graph.to_bytes(), (TokenRows(ROWS),), local.card(), ServerLimits(), sources_of(local))


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_graph_with_bytes_changed_is_admitted_or_refused_with_a_type(
    local: LocalExecutor, data: st.DataObject
) -> None:
    good = reads("layers.0.output", "logits").to_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    spoiled = good[:place] + data.draw(st.binary(max_size=3)) + good[place + 1 :]

    with suppress(LabError):
        admit(spoiled, (TokenRows(ROWS),), local.card(), ServerLimits(), sources_of(local))


def test_a_good_graph_is_admitted_as_it_is(local: LocalExecutor) -> None:
    graph = reads("layers.0.output", "logits")

    admitted, inputs = admit(
        graph.to_bytes(), (TokenRows(ROWS),), local.card(), ServerLimits(), sources_of(local)
    )

    assert admitted == graph
    assert inputs == TokenRows(ROWS)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (ServerLimits(prompts=5), "6 prompts of up to 3 tokens"),
        (ServerLimits(batch_tokens=19), "20 tokens, padding and new ones included"),
        (ServerLimits(new_tokens=3), "4 forward passes"),
    ],
)
def test_the_traces_of_a_session_count_together(
    local: LocalExecutor, limits: ServerLimits, words: str
) -> None:
    """Two traces and a generation of two prompts each: none of them is too large by itself."""
    rows = ((3, 10, 40), (5,))
    parts = (TokenRows(rows), TokenRows(rows), TokenRows(rows, Generation(2)))
    graph = Graph((Read(id=0, address=Address("layers.0")),), (Output("h", 0),), (2, 2, 2))
    with pytest.raises(LimitExceeded, match=words):
        admit(graph.to_bytes(), parts, local.card(), limits, sources_of(local))
    for part in parts:
        alone = Graph(graph.nodes, graph.outputs)
        small = ServerLimits(
            prompts=min(limits.prompts, 5), batch_tokens=min(limits.batch_tokens, 19), new_tokens=3
        )
        admit(alone.to_bytes(), (part,), local.card(), small, sources_of(local))
