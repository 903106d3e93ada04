"""The residual stream of many prompts, fetched in batches: what probes and translators learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nnsight_lab.errors import BadInput
from nnsight_lab.models.language_model import LanguageModel

__all__ = ["stream_at", "streams_of"]


def _stacked(model: LanguageModel) -> Any:
    """In the open block: the stream before block 0 and after each, `[row, batch, pos, d_model]`."""
    return torch.stack([model.layers[0].input, *(layer.output for layer in model.layers)])


def _batches(prompts: Sequence[Any], batch: int) -> list[Any]:
    if isinstance(prompts, str) or not len(prompts):
        raise BadInput("There are no prompts.", hint="Give a list of texts.")
    if batch < 1:
        raise BadInput(f"A run cannot have {batch} prompts.", hint="batch=32, say.")
    return [list(prompts[start : start + batch]) for start in range(0, len(prompts), batch)]


def stream_at(
    model: LanguageModel, prompts: Sequence[Any], position: int, batch: int
) -> torch.Tensor:
    """The stream at one position of each prompt, from its end: `[prompt, row, d_model]`.

    Raises:
        BadInput: there are no prompts, or one is too short.
    """
    parts = []
    for chosen in _batches(prompts, batch):
        given = model.tokenize(chosen)
        if position >= 0 or -position > min(map(len, given.rows)):
            raise BadInput(
                f"Not every prompt has a position {position}.",
                hint="Count from the end, where prompts differ in length: position=-1.",
            )
        with model.trace(given) as tracer:
            tracer.save(found=_stacked(model)[:, :, position].transpose(0, 1))
        parts.append(tracer.run["found"].float())
    return torch.cat(parts)


def streams_of(model: LanguageModel, prompts: Sequence[Any], batch: int) -> list[torch.Tensor]:
    """The stream at every position of each prompt: `[row, pos, d_model]` each."""
    found = []
    for chosen in _batches(prompts, batch):
        given = model.tokenize(chosen)
        with model.trace(given) as tracer:
            tracer.save(found=_stacked(model))
        whole = tracer.run["found"].float()
        found += [whole[:, place, -len(row) :] for place, row in enumerate(given.rows)]
    return found
