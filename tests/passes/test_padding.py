"""Where prompts are not padded, a graph that looks at the padding is refused, and no other."""

from __future__ import annotations

from typing import Any

import pytest

import nnsight_lab as nl
from nnsight_lab.contract import TokenRows
from nnsight_lab.errors import NotSupported
from nnsight_lab.ir import Graph
from nnsight_lab.passes import Part, Stages, check_padding

LONGER = [[1] * 10, [1] * 20]
SHORTER = [[1] * 3, [1] * 20]


@pytest.fixture(scope="module")
def lm() -> nl.LanguageModel:
    return nl.LanguageModel("tiny")


def check(lm: Any, graph: Graph, prompts: list[list[int]]) -> None:
    inputs = TokenRows(tuple(map(tuple, prompts)))
    check_padding(graph, Stages((Part(inputs, lm.card.tree, None),)))


@pytest.mark.parametrize(("count", "seen"), [(3, False), (4, True)])
def test_last_positions_may_be_picked_while_every_prompt_has_them(
    lm: Any, count: int, seen: bool
) -> None:
    with lm.trace(SHORTER) as tracer:
        lm.layers[1].output[:, -count:].save()

    if seen:
        with pytest.raises(NotSupported, match="not padded"):
            check(lm, tracer.graph, SHORTER)
    else:
        check(lm, tracer.graph, SHORTER)


def test_of_two_values_together_the_one_with_the_shorter_prompt_counts(lm: Any) -> None:
    with lm.trace() as tracer:
        with tracer.invoke(LONGER):
            one = lm.layers[1].output
        with tracer.invoke(SHORTER):
            (one + lm.layers[1].output)[:, -5:].save()

    with pytest.raises(NotSupported, match="not padded"):
        check(lm, tracer.graph, [*LONGER, *SHORTER])
