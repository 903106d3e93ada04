"""Where prompts are not padded, a graph that looks at the padding is refused, and no other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

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


def halved(lm: Any) -> None:
    lm.layers[1].output[:] *= 0.5


def added_up(lm: Any) -> None:
    earlier = lm.layers[0].output
    lm.layers[1].output[:] += earlier


def one_number_doubled(lm: Any) -> None:
    lm.layers[1].output[:, :, 3] = lm.layers[1].output[:, :, 3] * 2


def second_row_halved(lm: Any) -> None:
    lm.layers[1].output[1:] *= 0.5


def last_ones_doubled(lm: Any) -> None:
    lm.layers[1].output[:, -2:] *= 2.0


def of_a_shorter_row(lm: Any) -> None:
    lm.layers[1].output[1:] = lm.layers[1].output[:1]


def turned(lm: Any) -> None:
    lm.layers[1].output[:, :, 3] = lm.layers[1].output[:, :, 3].flip(1)


def first_ones_moved(lm: Any) -> None:
    lm.layers[1].output[:, -4:] = lm.layers[1].output[:, :4]


def one_axis_less(lm: Any) -> None:
    """Its rows would stand where the positions are."""
    lm.layers[1].output[:, :, :20] = lm.layers[1].output[:1, :, 3]


SAME = [halved, added_up, one_number_doubled, second_row_halved, last_ones_doubled]
LOOKING = [of_a_shorter_row, turned, first_ones_moved, one_axis_less]


@pytest.mark.parametrize("edit", SAME)
def test_an_edit_of_positions_each_for_itself_gives_what_each_prompt_gives_alone(
    lm: Any, edit: Any
) -> None:
    """The oracle: each prompt by itself, where there is no padding; rows are picked by hand."""
    prompts = [[5, 7, 9], list(range(20, 40))]
    with lm.trace(prompts) as tracer:
        edit(lm)
        together = lm.logits[:, -1].save()
    check(lm, tracer.graph, prompts)
    with lm.trace(prompts):
        plain = lm.logits[:, -1].save()
    assert float((together - plain)[1].abs().max()) > 1e-3
    for row, prompt in enumerate(prompts):
        if edit is second_row_halved and row == 0:
            torch.testing.assert_close(together[0], plain[0])
            continue
        with lm.trace([prompt]):
            if edit is second_row_halved:
                halved(lm)
            else:
                edit(lm)
            alone = lm.logits[:, -1].save()
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("edit", LOOKING)
def test_an_edit_that_puts_padding_where_a_prompt_is_stays_refused(lm: Any, edit: Any) -> None:
    with lm.trace(SHORTER) as tracer:
        edit(lm)
        lm.logits[:, -1].save()

    with pytest.raises(NotSupported, match="not padded"):
        check(lm, tracer.graph, SHORTER)


@pytest.mark.parametrize(
    ("source", "place", "seen"), [(SHORTER, LONGER, True), (LONGER, SHORTER, False)]
)
@pytest.mark.parametrize("inside", [False, True])
def test_the_padding_of_other_prompts_may_only_come_where_padding_is(
    lm: Any, source: list[list[int]], place: list[list[int]], seen: bool, inside: bool
) -> None:
    with lm.trace() as tracer:
        with tracer.invoke(source):
            other = lm.layers[0].output
        with tracer.invoke(place):
            if inside:
                lm.layers[1].output[:] += other * 0.5
            else:
                lm.layers[1].output = other
            lm.logits[:, -1].save()

    if seen:
        with pytest.raises(NotSupported, match="not padded"):
            check(lm, tracer.graph, [*source, *place])
    else:
        check(lm, tracer.graph, [*source, *place])
