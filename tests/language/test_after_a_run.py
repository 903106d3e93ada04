"""`run.trace()`: a block on an earlier run's prompt, after its edits.

The page: `docs/reference/magic.md`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import NotSupported

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def lm() -> nl.LanguageModel:
    return nl.LanguageModel("tiny")


def by_hand(lm: nl.LanguageModel, *layers: int) -> torch.Tensor:
    """The logits when the last position is set to zero after these layers."""
    module: Any = lm.executor.module  # type: ignore[attr-defined]

    def zero(_: Any, args: Any, output: Any) -> Any:
        stream = output[0] if isinstance(output, tuple) else output
        stream = stream.clone()
        stream[:, -1] = 0
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    handles = [module.model.layers[layer].register_forward_hook(zero) for layer in layers]
    with torch.no_grad():
        logits: torch.Tensor = module(torch.tensor(lm.tokenize(PROMPT).rows)).logits
    for handle in handles:
        handle.remove()
    return logits


def test_it_sees_the_edits_of_the_run(lm: nl.LanguageModel) -> None:
    with lm.trace(PROMPT) as tracer:
        lm.layers[1].output[:, -1] = 0
    with tracer.run.trace():
        logits = lm.logits.save()

    torch.testing.assert_close(logits, by_hand(lm, 1))
    assert (by_hand(lm, 1) - by_hand(lm)).abs().max() > 1e-2


def test_it_can_edit_further(lm: nl.LanguageModel) -> None:
    with lm.trace(PROMPT) as tracer:
        lm.layers[1].output[:, -1] = 0
    with tracer.run.trace() as after:
        lm.layers[3].output[:, -1] = 0
        logits = lm.logits.save()

    torch.testing.assert_close(logits, by_hand(lm, 1, 3))
    with after.run.trace():
        again = lm.logits.save()
    assert torch.equal(again, logits)


def test_a_session_has_no_prompt_of_its_own(lm: nl.LanguageModel) -> None:
    with lm.session() as session:
        with lm.trace(PROMPT):
            lm.logits.save()
    with pytest.raises(NotSupported, match="several traces"):
        session.run.trace()
