"""Direct logit attribution: shares that hooks give, and that sum to the logit difference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab import errors
from nnsight_lab.recipes import direct_logit_attribution
from nnsight_lab.recipes.tuned import readout_of
from tests.recipes.by_hand import (
    CLEAN,
    D_HEAD,
    HEADS,
    JOHN,
    LAYERS,
    MARY,
    close,
    difference,
    ids_of,
    part_of,
    plain,
    stream,
)
from tests.support.hooks import forward, inputs_seen, outputs_seen, tensor_of
from tests.support.small_models import SmallModel


def direction_by_hand(tiny: nl.LanguageModel, ids: list[int]) -> torch.Tensor:
    """What one unit in the last stream says for Mary over John, the norm's scale held."""
    final = stream(tiny.module, ids)[-1, -1]
    scale = (final.square().mean() + tiny.module.config.rms_norm_eps).rsqrt()
    mary, john = (ids_of(tiny, name)[-1] for name in (MARY, JOHN))
    weight = tiny.module.lm_head.weight.detach()
    apart: torch.Tensor = (weight[mary] - weight[john]) * tiny.module.model.norm.weight.detach()
    return apart * float(scale)


def test_every_share_is_what_hooks_give(either: nl.LanguageModel, tiny: nl.LanguageModel) -> None:
    found = direct_logit_attribution(either, CLEAN, answer=MARY, wrong=JOHN)
    ids = ids_of(tiny, CLEAN)
    direction = direction_by_hand(tiny, ids)
    attn, mlp, heads = [], [], []
    for layer in range(LAYERS):
        attn.append(part_of(tiny.module, ids, "attn", layer)[-1] @ direction)
        mlp.append(part_of(tiny.module, ids, "mlp", layer)[-1] @ direction)
        z = part_of(tiny.module, ids, "heads", layer)[-1].unflatten(0, (HEADS, D_HEAD))
        out = tiny.module.model.layers[layer].self_attn.o_proj.weight.detach()
        by_head = torch.einsum("hd,ohd->ho", z, out.unflatten(1, (HEADS, D_HEAD)))
        heads.append(by_head @ direction)

    close(found.attn, torch.stack(attn))
    close(found.mlp, torch.stack(mlp))
    assert found.heads is not None
    close(found.heads, torch.stack(heads))
    assert found.embed == pytest.approx(
        float(stream(tiny.module, ids)[0, -1] @ direction), abs=1e-4
    )
    assert found.logit_difference == pytest.approx(
        difference(tiny, plain(tiny.module, ids)), abs=1e-3
    )
    assert found.total == pytest.approx(found.logit_difference, abs=1e-3)
    assert abs(found.rest) < 1e-3
    assert abs(found.logit_difference) > 10


@pytest.mark.parametrize("position", [-1, 2])
def test_shares_sum_to_the_difference_in_every_family(
    family: SmallModel, lm: nl.LanguageModel, position: int
) -> None:
    """Also where norms centre, and where projections, norms and all else have biases."""
    ids = [5, 17, 3, 42, 8, 29]
    found = direct_logit_attribution(lm, [ids], answer=11, wrong=30, position=position)
    logits = forward(family.module, [ids])[0, position]
    expected = float(logits[11] - logits[30])

    assert found.logit_difference == pytest.approx(expected, abs=1e-4)
    assert found.total == pytest.approx(expected, abs=1e-4)
    assert abs(expected) > 0.1
    assert found.heads is not None
    projections = [family.module.get_submodule(family.at(family.attn_out, n)) for n in range(3)]
    bias = torch.stack([part.bias.detach() for part in projections])
    # A head's share has no part in the bias of the projection; attention's has all of it.
    left = (found.attn - found.heads.sum(-1)) / bias.norm(dim=-1)
    assert left.abs().max() > 1e-3


def test_one_token_and_a_run_with_an_edit(tiny: nl.LanguageModel) -> None:
    """A run's edits are in it: silenced attention has no share, and the sum is the new logit."""
    with tiny.trace(CLEAN) as tracer:
        tiny.layers[4].attn.output[:] = 0.0
        logits = tiny.logits.save()

    found = direct_logit_attribution(tracer.run, answer=MARY)

    assert found.attn[4] == 0
    assert found.logit_difference == pytest.approx(float(logits[0, -1, 524]), abs=1e-3)
    assert abs(found.rest) < 1e-3
    assert found.target == "·Mary"


def test_a_row_of_a_padded_batch_is_that_prompt_alone(tiny: nl.LanguageModel) -> None:
    alone = direct_logit_attribution(tiny, "The capital of France is", answer=" Paris", heads=False)
    batch = direct_logit_attribution(
        tiny, [CLEAN, "The capital of France is"], answer=" Paris", heads=False, row=1
    )

    assert alone.heads is None
    assert batch.tokens == alone.tokens
    close(batch.attn, alone.attn)


def test_the_readout_is_the_models_own(family: SmallModel, lm: nl.LanguageModel) -> None:
    """Gain, bias, epsilon and centring, found out by asking: the same logits."""
    readout = readout_of(lm)
    ids = [[5, 17, 3, 42]]
    path = family.norm
    final = inputs_seen(family.module, ids, path)[path]
    normed = tensor_of(outputs_seen(family.module, ids, path)[path])

    close(readout.logits(final), forward(family.module, ids))
    assert readout.epsilon == pytest.approx(1e-6 if family.kv_heads == 2 else 1e-5, rel=0.02)
    # A stream so small that epsilon matters.
    small = final * 1e-3
    again = family.module.get_submodule(path)(small).detach() @ readout.unembed.T
    close(readout.logits(small), again + readout.unembed_bias)
    assert normed.shape == final.shape


@pytest.mark.parametrize("wrong", [{"position": 15}, {"answer": "Zanzibar"}, {"answer": 99999}])
def test_what_is_not_there_is_refused(tiny: nl.LanguageModel, wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.BadInput) as caught:
        direct_logit_attribution(tiny, CLEAN, **{"answer": MARY, **wrong})

    assert caught.value.hint
