"""Which last positions of the logits a graph needs: decided by what is done with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.passes import last_positions
from tests.support.fixtures import IDS

Block = Callable[[nl.LanguageModel], Any]


def needed(lm: nl.LanguageModel, block: Block) -> int | None:
    with lm.trace(IDS, execute=False) as tracer:
        block(lm)
    return last_positions(tracer.graph, lm.tree)


@pytest.mark.parametrize(
    ("block", "positions"),
    [
        (lambda lm: lm.logits[:, -1].save(), 1),
        (lambda lm: lm.logits[:, -1, :].save(), 1),
        (lambda lm: lm.logits[0, -2].save(), 2),
        (lambda lm: lm.logits[:, -3:].save(), 3),
        (lambda lm: lm.logits[:, -3:-1].save(), 3),
        (lambda lm: lm.logits[:, -4::2].save(), 4),
        (lambda lm: lm.logits[..., -2, :].save(), 2),
        (lambda lm: lm.logits[0][-2].save(), 2),
        (lambda lm: lm.logits[:][0, -2:].save(), 2),
        (lambda lm: lm.logits[:, :, 5][0][-3].save(), 3),
        (lambda lm: lm.logits[None][0, :, -2].save(), 2),
        (lambda lm: lm.logits[0, -1, [3, 7]].save(), 1),
        (lambda lm: lm.logits[:, -1, torch.tensor([3, 7])].save(), 1),
        (lambda lm: (lm.logits[:, -1] + lm.logits[:, -3]).save(), 3),
        (lambda lm: lm.logits[:, -1].argmax(-1).save(), 1),
        (lambda lm: (lm.logits[:, -2].save(), lm.layers[0].output.save()), 2),
        (lambda lm: (lm.layers[1].output.mul_(2), lm.logits[:, -2].save()), 2),
        (lambda lm: lm.lm_head.output[:, -1].save(), 1),
        (lambda lm: (lm.lm_head.input[:, -1].save(), lm.logits[:, -2].save()), 2),
    ],
)
def test_positions_counted_from_the_end(
    tiny: nl.LanguageModel, block: Block, positions: int
) -> None:
    assert needed(tiny, block) == positions


def edited(lm: nl.LanguageModel) -> None:
    lm.logits[:, -1] = 0.0
    lm.logits[:, -1].save()


@pytest.mark.parametrize(
    "block",
    [
        lambda lm: lm.logits.save(),
        lambda lm: lm.logits[:, 3].save(),
        lambda lm: lm.logits[:, 3:].save(),
        lambda lm: lm.logits[:, :-1].save(),
        lambda lm: lm.logits[:, -3:5].save(),
        lambda lm: lm.logits.flip(1)[:, -1].save(),
        lambda lm: lm.logits[0].save(),
        lambda lm: lm.logits[0, :, 5].save(),
        lambda lm: lm.logits[:, [-1, -2]].save(),
        lambda lm: lm.logits[lm.logits[:, -1].argmax(-1) * 0, -1].save(),
        lambda lm: lm.logits[lm.logits > 0].save(),
        lambda lm: lm.logits.mean(1)[-1].save(),
        lambda lm: lm.logits.transpose(0, 1)[-1].save(),
        lambda lm: (lm.logits[:, -1].save(), lm.logits.sum().save()),
        lambda lm: (lm.logits[:, -1].save(), lm.logits.save()),
        edited,
        lambda lm: (lm.lm_head.output.mul_(2), lm.logits[:, -1].save()),
        lambda lm: (lm.lm_head.input.mul_(2), lm.logits[:, -1].save()),
        lambda lm: (lm.get("lm_head").output.sum().save(), lm.logits[:, -1].save()),
        lambda lm: lm.layers[0].output.save(),
        lambda lm: lm.lm_head(lm.norm.output)[:, -1].save(),
    ],
)
def test_whatever_else_is_done_needs_them_all(tiny: nl.LanguageModel, block: Block) -> None:
    assert needed(tiny, block) is None


def test_a_gradient_at_the_logits_needs_them_all(tiny: nl.LanguageModel) -> None:
    with tiny.trace(IDS, execute=False) as tracer:
        logits = tiny.logits
        with logits[0, -1, 3].backward():
            logits.grad.save()

    assert last_positions(tracer.graph, tiny.tree) is None
