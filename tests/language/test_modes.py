"""`torch.no_grad()` and `torch.autocast` inside a block, and around it, mean what they mean in torch.

The page: `docs/explanation/what-a-graph-cannot-say.md`.
"""

from __future__ import annotations

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import NotSupported
from tests.server.lab_server import Serving
from tests.support.lines import assert_at
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_same
from tests.support.three_ways import assert_three_ways

IDS = [[5, 17, 3, 42, 8, 29]]
PROMPT = "The capital of France is"


def test_nothing_under_no_grad_has_a_gradient(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS):
        h = lm.layers[0].output
        with torch.no_grad():
            doubled = h * 2
            last = h[:, -1]
            values, ids = h.topk(2)
            normed = lm.norm(h)
        loss = (doubled * h).sum() + last.sum() + values.sum() + normed.sum()
        with loss.backward():
            gradient = h.grad.save()
        stream, best = h.save(), ids.save()

    assert_same(gradient, 2 * stream)  # and not 4 times, or with that of the others
    assert torch.equal(best, stream.topk(2).indices)


def test_a_view_under_no_grad_is_still_a_view(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS):
        plain = lm.logits.save()
    with lm.trace(IDS):
        h = lm.layers[0].output
        with torch.no_grad():
            last = h[:, -1]
            last *= 0
            h[:, 0] = 0
        edited = h.save()
        logits = lm.logits.save()

    assert not edited[:, [0, -1]].any()
    assert edited[:, 1].any()
    assert not torch.allclose(logits, plain)


def test_it_is_the_same_three_ways(tiny: nl.LanguageModel, lab: Serving) -> None:
    with tiny.trace(PROMPT) as tracer:
        h = tiny.layers[1].output
        with torch.no_grad():
            weights = h.softmax(-1)
        with (weights * h).sum().backward():
            gradient = h.grad.save()
        probabilities = weights.save()

    assert_same(gradient, probabilities)
    assert_three_ways(tiny, tracer, lab)


def test_a_write_under_no_grad_and_a_gradient_exclude_each_other(lm: nl.LanguageModel) -> None:
    with pytest.raises(NotSupported, match="write in place") as caught, lm.trace(IDS):
        with torch.no_grad():
            lm.layers[0].output[:, -1] = 0
        lm.logits[0, -1, 7].backward()  # goes back after the write
    assert_at(caught.value, "goes back after the write")

    with pytest.raises(NotSupported, match="write in place") as caught, lm.trace(IDS):
        h = lm.layers[0].output
        lm.logits[0, -1, 7].backward()
        with torch.no_grad():
            h *= 2  # writes after the loss
    assert_at(caught.value, "writes after the loss")


def test_no_grad_around_a_block_takes_no_gradient_away(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS):
        h = lm.layers[0].output
        lm.logits[0, -1, 7].backward()
        expected = h.grad.save()
    with torch.no_grad(), lm.trace(IDS):
        h = lm.layers[0].output
        lm.logits[0, -1, 7].backward()
        gradient = h.grad.save()

    assert gradient.any()
    assert torch.equal(gradient, expected)


def test_autocast_around_a_block_on_a_server_is_refused(served: nl.LanguageModel) -> None:
    """There it would do nothing, silently."""
    with pytest.raises(NotSupported, match="autocast") as caught, torch.autocast("cpu"):
        with served.trace("The capital of France is"):
            served.logits.save()
    assert "served in" in caught.value.hint


def test_autocast_inside_a_block_is_refused(lm: nl.LanguageModel) -> None:
    with pytest.raises(NotSupported, match="autocast") as caught, lm.trace(IDS):
        h = lm.layers[0].output
        with torch.autocast("cpu", torch.bfloat16):
            h @ h.mT  # would be bfloat16
    assert_at(caught.value, "would be bfloat16")


@pytest.mark.one_way  # a mode of this thread, which a server has not
def test_autocast_around_a_block_is_that_of_the_model(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with torch.autocast("cpu", torch.bfloat16), lm.trace(IDS):
        logits = lm.logits.save()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected = family.module(torch.tensor(IDS), use_cache=False).logits

    assert logits.dtype == torch.bfloat16
    assert torch.equal(logits, expected)
