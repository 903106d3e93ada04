"""attention_pattern: where each head of one layer looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nnsight_lab.errors import AddressNotFound
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.models.run import Run

__all__ = ["AttentionPattern", "attention_pattern"]


@dataclass(frozen=True)
class AttentionPattern:
    """The pattern of one layer on one prompt.

    tokens: the prompt, one string a position. layer: which block, from 0.
    pattern: `[head, query, key]`, after the softmax; rows sum to 1.
    """

    tokens: list[str]
    layer: int
    pattern: torch.Tensor


def attention_pattern(
    source: LanguageModel | Run, layer: int, prompt: Any = None, *, row: int = 0
) -> AttentionPattern:
    """The attention pattern of every head of a layer.

    source: a model, with a `prompt`; or a run, whose prompt and edits are used.
    layer: from 0; negative counts from the last. row: which prompt of a batch.

    Raises:
        AddressNotFound: there is no such layer.
    """
    model = source.model if isinstance(source, Run) else source
    assert isinstance(model, LanguageModel), "runs of wrapped modules have no attention"
    count = model.card.layers
    place = layer + count if layer < 0 else layer
    if not 0 <= place < count:
        raise AddressNotFound(f"{model.name} has no layer {layer}.", hint=f"0 to {count - 1}.")
    given = source.inputs if isinstance(source, Run) else model.tokenize(prompt)
    with model.trace(given, execute=False) as tracer:
        tracer.save(pattern=model.layers[place].attn.pattern)
    run = source.then(tracer.graph) if isinstance(source, Run) else model.run(tracer.graph, given)
    tokens = model.token_strings(run.inputs)[row]
    shown = run["pattern"][row, :, -len(tokens) :, -len(tokens) :]
    return AttentionPattern(tokens, place, shown)
