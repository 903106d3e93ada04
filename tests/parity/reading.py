"""Methods that look and change nothing: lens, patterns, attribution to the logits, probes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.parity.case import Case
from tests.parity.method import Expected, Method, Values
from tests.support.family_hooks import by_hand
from tests.support.family_models import LAYERS
from tests.support.hooks import forward, inputs_seen, outputs_seen, tensor_of

__all__ = ["READING"]

ONE, OTHER = 5, 23
"""Two tokens: attributions are to the difference of their logits."""


def _lens(lm: Any, case: Case) -> Values:
    values: Values = {}
    with lm.trace(case.clean):
        for i in range(LAYERS):
            values[f"layer {i} logits"] = lm.lm_head(lm.norm(lm.layers[i].output)).save()
        values["logits"] = lm.logits.save()
    return values


def _unembed(case: Case) -> Callable[[torch.Tensor], torch.Tensor]:
    module = case.small.module
    norm = module.get_submodule(str(case.small.norm))

    def unembed(stream: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = module.lm_head(norm(stream))
        return found

    return unembed


def _streams(case: Case) -> list[torch.Tensor]:
    paths = [case.small.block.format(i=i) for i in range(LAYERS)]
    seen = outputs_seen(case.small.module, case.clean, *paths)
    return [tensor_of(seen[path]) for path in paths]


def _lens_by_hand(case: Case) -> Expected:
    unembed = _unembed(case)
    values = {f"layer {i} logits": unembed(h) for i, h in enumerate(_streams(case))}
    return Expected({**values, "logits": forward(case.small.module, case.clean)})


def _patterns(lm: Any, case: Case) -> Values:
    values: Values = {}
    with lm.trace(case.clean):
        for i in range(LAYERS):
            values[f"pattern {i}"] = lm.layers[i].attn.pattern.save()
    return values


def _patterns_by_hand(case: Case) -> Expected:
    seen = by_hand(case.small, case.clean)
    return Expected({f"pattern {i}": seen[f"layers.{i}.attn.pattern"] for i in range(LAYERS)})


def _attribution(lm: Any, case: Case) -> Values:
    """What each part gives: along the direction of the logits, and through the final norm."""
    values: Values = {}
    with lm.trace(case.clean):
        parts = [lm.embed.output]
        for i in range(LAYERS):
            parts += [lm.layers[i].attn.output, lm.layers[i].mlp.output]
        last = torch.stack([part[0, -1] for part in parts])
        weight = lm.lm_head.weight
        values["along"] = (last @ (weight[ONE] - weight[OTHER])).save()
        final = lm.layers[LAYERS - 1].output[0, -1]
        with_all, without = lm.lm_head(lm.norm(final)), lm.lm_head(lm.norm(final - last))
        values["direct"] = (with_all - without).save()
    return values


def _attribution_by_hand(case: Case) -> Expected:
    small = case.small
    paths = [small.embed]
    for i in range(LAYERS):
        paths += [small.attn.format(i=i), small.mlp[1].format(i=i)]
    seen = outputs_seen(small.module, case.clean, *paths)
    # Some families hand their mlp the positions as rows.
    last = torch.stack([tensor_of(seen[path]).flatten(0, -2)[-1] for path in paths])
    weight = small.module.lm_head.weight.detach()
    unembed, final = _unembed(case), _streams(case)[-1][0, -1]
    along = last @ (weight[ONE] - weight[OTHER])
    return Expected({"along": along, "direct": unembed(final) - unembed(final - last)})


def _probe(lm: Any, case: Case) -> Values:
    """Features of the last position of prompts of unequal length, and a probe on them."""
    weight, bias = case.probe
    values: Values = {}
    with lm.trace(case.many):
        for i in range(LAYERS):
            features = lm.layers[i].output[:, -1]
            values[f"stream {i}"] = features.save()
            values[f"probe {i}"] = (features @ weight + bias).softmax(-1).save()
            values[f"mlp {i}"] = lm.layers[i].mlp.output[:, -1].save()
            if i not in case.small.experts:
                values[f"neurons {i}"] = lm.layers[i].mlp.neurons[:, -1].save()
    return values


def _probe_by_hand(case: Case) -> Expected:
    weight, bias = case.probe
    alone = [_features(case, ids) for ids in case.many]
    values = {name: torch.stack([row[name] for row in alone]) for name in alone[0]}
    for i in range(LAYERS):
        values[f"probe {i}"] = (values[f"stream {i}"] @ weight + bias).softmax(-1)
    return Expected(values)


def _features(case: Case, ids: list[int]) -> Values:
    """Of one prompt, run alone: nothing is padded."""
    small = case.small
    after = {f"stream {i}": small.block.format(i=i) for i in range(LAYERS)}
    after |= {f"mlp {i}": small.mlp[1].format(i=i) for i in range(LAYERS)}
    before = {
        f"neurons {i}": small.mlp_down.format(i=i) for i in range(LAYERS) if i not in small.experts
    }
    out = outputs_seen(small.module, [ids], *after.values())
    inputs = inputs_seen(small.module, [ids], *before.values())
    found = {name: tensor_of(out[path]) for name, path in after.items()}
    found |= {name: inputs[path] for name, path in before.items()}
    return {name: value.flatten(0, -2)[-1] for name, value in found.items()}


READING = (
    Method("logit lens", _lens, _lens_by_hand),
    Method("attention pattern", _patterns, _patterns_by_hand),
    Method("direct logit attribution", _attribution, _attribution_by_hand),
    Method("probing a batch", _probe, _probe_by_hand),
)
