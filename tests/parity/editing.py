"""Methods that change one prompt's run: steering, ablations, knock-out, an SAE in the stream."""

from __future__ import annotations

from typing import Any

import torch

from tests.parity.case import Case
from tests.parity.method import Expected, Method, Values
from tests.support.family_hooks import by_hand, changed_by_hand
from tests.support.hooks import forward, hooked, outputs_seen, tensor_of

__all__ = ["EDITING"]

FEATURE = 7
"""The feature of the SAE that is turned up."""


def _before(case: Case) -> Values:
    return {"logits": forward(case.small.module, case.clean)}


def _steering(lm: Any, case: Case) -> Values:
    with lm.trace(case.clean):
        lm.layers[1].output += 2.0 * case.direction
        late = lm.layers[2].output.save()
        logits = lm.logits.save()
    return {"late": late, "logits": logits}


def _steering_by_hand(case: Case) -> Expected:
    small = case.small
    late = small.block.format(i=2)
    found = hooked(
        small.module,
        case.clean,
        after={small.block.format(i=1): lambda h: h + 2.0 * case.direction},
        see=(late,),
    )
    values = {"late": tensor_of(found[late]), "logits": found["logits"]}
    return Expected(values, _before(case))


def _zero(lm: Any, case: Case) -> Values:
    with lm.trace(case.clean):
        lm.layers[1].attn.output[:] = 0
        lm.layers[2].mlp.output[:] = 0
        logits = lm.logits.save()
    return {"logits": logits}


def _zero_by_hand(case: Case) -> Expected:
    small = case.small
    places = (small.attn.format(i=1), small.mlp[1].format(i=2))
    found = hooked(small.module, case.clean, after=dict.fromkeys(places, torch.zeros_like))
    return Expected({"logits": found["logits"]}, _before(case))


def _mean(lm: Any, case: Case) -> Values:
    """The mean over other prompts, taken in the same run."""
    with lm.trace() as tracer:
        with tracer.invoke(case.reference):
            mean = lm.layers[1].mlp.output.mean((0, 1)).save()
        with tracer.invoke(case.clean):
            lm.layers[1].mlp.output[:] = mean
            logits = lm.logits.save()
    return {"mean": mean, "logits": logits}


def _mean_by_hand(case: Case) -> Expected:
    small = case.small
    place = small.mlp[1].format(i=1)
    mean = outputs_seen(small.module, case.reference, place)[place].flatten(0, -2).mean(0)
    found = hooked(small.module, case.clean, after={place: lambda out: mean.expand_as(out).clone()})
    return Expected({"mean": mean, "logits": found["logits"]}, _before(case))


def _knock_out(lm: Any, case: Case) -> Values:
    """No head of a layer looks from the later positions at the third."""
    with lm.trace(case.clean):
        lm.layers[1].attn.pattern[:, :, 6:, 2] = 0
        lm.layers[1].attn.pattern[:, 1, -1] *= 0.5
        z = lm.layers[1].attn.z.save()
        logits = lm.logits.save()
    return {"z": z, "logits": logits}


def _knocked_out(pattern: torch.Tensor) -> torch.Tensor:
    new = pattern.clone()
    new[:, :, 6:, 2] = 0
    new[:, 1, -1] *= 0.5
    return new


def _knock_out_by_hand(case: Case) -> Expected:
    small = case.small
    logits = changed_by_hand(small, case.clean, "layers.1.attn.pattern", _knocked_out)
    seen = by_hand(small, case.clean)
    pattern, v = (seen[f"layers.1.attn.{port}"] for port in ("pattern", "v"))
    repeated = v.repeat_interleave(pattern.shape[1] // v.shape[2], dim=2)
    z = torch.einsum("bhqk,bkhd->bqhd", _knocked_out(pattern), repeated)
    return Expected({"z": z, "logits": logits}, _before(case))


def _splice(lm: Any, case: Case) -> Values:
    """The stream through an SAE with one feature turned up; its error stays in the stream."""
    encoder, encoder_bias, decoder, decoder_bias = case.sae
    with lm.trace(case.clean):
        h = lm.layers[1].output
        pushed: Any = (h - decoder_bias) @ encoder + encoder_bias
        features = pushed.relu().save()
        error = h - (features @ decoder + decoder_bias)
        turned_up = features.clone()
        turned_up[:, :, FEATURE] += 5.0
        lm.layers[1].output = turned_up @ decoder + decoder_bias + 0.5 * error
        logits = lm.logits.save()
    return {"features": features, "logits": logits}


def _splice_by_hand(case: Case) -> Expected:
    encoder, encoder_bias, decoder, decoder_bias = case.sae
    kept: Values = {}

    def through(h: torch.Tensor) -> torch.Tensor:
        features = torch.relu((h - decoder_bias) @ encoder + encoder_bias)
        kept["features"] = features.clone()
        error = h - (features @ decoder + decoder_bias)
        features[:, :, FEATURE] += 5.0
        return features @ decoder + decoder_bias + 0.5 * error

    small = case.small
    found = hooked(small.module, case.clean, after={small.block.format(i=1): through})
    return Expected({**kept, "logits": found["logits"]}, _before(case))


EDITING = (
    Method("steering", _steering, _steering_by_hand),
    Method("zero ablation", _zero, _zero_by_hand),
    Method("mean ablation", _mean, _mean_by_hand),
    Method("attention knock-out", _knock_out, _knock_out_by_hand),
    Method("SAE splice", _splice, _splice_by_hand),
)
