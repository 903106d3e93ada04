"""attention_pattern: where each head of one layer looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.models.run import Run
from nnsight_lab.recipes.prompt import layers_of, model_of, prompt_of, run_on, tokens_of
from nnsight_lab.recipes.result import Result
from nnsight_lab.tracing.source import one_frame

__all__ = ["AttentionPattern", "attention_pattern"]


@dataclass(frozen=True, eq=False, repr=False)
class AttentionPattern(Result):
    """The pattern of one layer on one prompt.

    tokens: the prompt, one string a position. layer: which block, from 0.
    pattern: `[head, query, key]`, after the softmax; rows sum to 1.
    """

    tokens: list[str]
    layer: int
    pattern: torch.Tensor


@one_frame
def attention_pattern(
    source: LanguageModel | Run, layer: int, prompt: Any = None, *, row: int = 0
) -> AttentionPattern:
    """The attention pattern of every head of a layer.

    source: a model, with a `prompt`; or a run, whose prompt and edits are used.
    layer: from 0; negative counts from the last. row: which prompt of a batch.

    Raises:
        AddressNotFound: there is no such layer.
        BadInput: there is no such row.
    """
    model = model_of(source)
    (place,) = layers_of(model, [layer])
    given = prompt_of(source, prompt, row)
    with model.trace(given, execute=False) as tracer:
        tracer.save(pattern=model.layers[place].attn.pattern)
    run = run_on(source, tracer.graph, given)
    tokens = tokens_of(model, given, row)
    shown = run["pattern"][row, :, -len(tokens) :, -len(tokens) :]
    return AttentionPattern(tokens, place, shown)
