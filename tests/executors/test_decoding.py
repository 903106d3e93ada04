"""How a model looks while it decodes, and that nothing of a generation stays on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import LabError
from nnsight_lab.ir import Address
from nnsight_lab.wire import WireLimits
from nnsight_lab.wire.trees import decode_card, encode_card
from tests.support.family_models import FAMILY_NAMES, family_model
from tests.support.fixtures import IDS
from tests.support.small_models import SmallModel, small_llama


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_every_name_of_a_prompt_is_there_while_decoding(name: str) -> None:
    """With one query position, and keys of the whole text."""
    card = nl.LanguageModel(family_model(name).module).card
    assert card.decode is not None
    here, there = card.tree.by_address, card.decode.by_address

    assert set(here) == set(there)
    for place, axes in {
        Address("layers.1", "output"): "[batch, 1, 32]",
        Address("layers.1.attn", "pattern"): "[batch, 4, 1, pos]",
        Address("", "logits"): "[batch, 1, 61]",
    }.items():
        assert str(there[place].spec) == f"float32{axes}"


def test_a_card_travels_with_both_its_trees(lm: nl.LanguageModel) -> None:
    card = decode_card(encode_card(lm.card), WireLimits())

    assert card == lm.card
    assert card.decode is not None
    assert card.decode != card.tree


def _hooks(module: Any) -> int:
    kinds = [name for name in vars(module) if name.endswith("_hooks") or "_hooks_" in name]
    return sum(len(getattr(part, kind)) for part in module.modules() for kind in kinds)


def test_nothing_stays_on_the_model(lm: nl.LanguageModel, family: SmallModel) -> None:
    module = family.module
    before = _hooks(module), module.config._attn_implementation, torch.is_grad_enabled()
    state = torch.random.get_rng_state()

    with lm.generate(IDS, max_new_tokens=3, temperature=0.9) as tracer:
        for _step in tracer.iter[:]:
            lm.layers[0].attn.pattern[:, 0] *= 0.5
            lm.layers[1].output[:, -1] += 1.0
        tracer.result.save()
    with pytest.raises(LabError), lm.generate(IDS, max_new_tokens=3) as tracer:
        for _step in tracer.iter[2]:
            lm.tokens = 61
        tracer.result.save()

    assert (_hooks(module), module.config._attn_implementation, torch.is_grad_enabled()) == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_context_too_short_for_a_second_token() -> None:
    lm = nl.LanguageModel(small_llama(max_position_embeddings=2).module)

    assert lm.card.decode is None
    assert "generate" not in lm.card.capabilities.features
