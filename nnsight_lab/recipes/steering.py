"""steering_vector: the mean difference of two kinds of prompts; and text written with it added.

Activation addition (Turner et al., 2023; Rimsky et al., 2024): the mean residual stream at the last
position of one kind of prompts, minus that of another kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nnsight_lab.errors import BadInput
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.recipes.prompt import layers_of, model_of, one_prompt, word
from nnsight_lab.recipes.result import Result
from nnsight_lab.tracing.source import one_frame

__all__ = [
    "SteeredText",
    "SteeredTexts",
    "SteeringVector",
    "steered_texts",
    "steering_vector",
    "texts_one_by_one",
]


@dataclass(frozen=True, eq=False, repr=False)
class SteeringVector(Result):
    """A direction in the residual stream after one block.

    layer: from 0. direction: `[d_model]`, the difference of the means; strength 1 goes all the way
    from one mean to the other. positive, negative: `[prompt]`, how far along the direction's unit
    vector each prompt is, from the middle between the means.
    """

    layer: int
    direction: torch.Tensor
    positive: torch.Tensor
    negative: torch.Tensor

    @property
    def unit(self) -> torch.Tensor:
        """`[d_model]`: the direction, of length 1."""
        found: torch.Tensor = self.direction / self.direction.norm()
        return found

    @property
    def separation(self) -> float:
        """How far the kinds are apart, in their common standard deviation (d')."""
        spread = ((self.positive.var(correction=0) + self.negative.var(correction=0)) / 2).sqrt()
        return float((self.positive.mean() - self.negative.mean()) / spread)

    @one_frame
    def on(self, model: LanguageModel, strength: float = 1.0) -> LanguageModel:
        """The model with `strength` times the direction added at every position of the layer.

        `with vector.on(lm, 0.3).generate(prompt):` writes steered text; `lm` stays as it is.
        """
        push = strength * self.direction
        with model.edit() as steered:
            model.layers[self.layer].output[:] += push
        return steered


@one_frame
def steering_vector(
    model: LanguageModel,
    positive: Sequence[Any],
    negative: Sequence[Any],
    layer: int,
    *,
    batch: int = 32,
) -> SteeringVector:
    """The mean stream at the last position of `positive` prompts minus that of `negative` ones.

    layer: after which block, from 0; negative counts from the last.
    batch: how many prompts a run has.

    Raises:
        BadInput: one of the kinds has no prompts.
        AddressNotFound: there is no such layer.
    """
    model = model_of(model)
    (layer,) = layers_of(model, [layer])
    found = [_last(model, prompts, layer, batch) for prompts in (positive, negative)]
    means = [kind.mean(0) for kind in found]
    direction = means[0] - means[1]
    middle, unit = (means[0] + means[1]) / 2, direction / direction.norm()
    return SteeringVector(layer, direction, *((kind - middle) @ unit for kind in found))


def _last(model: LanguageModel, prompts: Sequence[Any], layer: int, batch: int) -> torch.Tensor:
    """`[prompt, d_model]`: the stream after a block, at each prompt's last position."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise BadInput("A mean needs prompts.", hint="Give a list of texts for each kind.")
    parts = []
    for start in range(0, len(prompts), batch):
        with model.trace(prompts[start : start + batch]) as tracer:
            tracer.save(last=model.layers[layer].output[:, -1])
        parts.append(tracer.run["last"].float())
    return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class SteeredText:
    """What was written at one strength.

    text: the continuation. words: its tokens. along: `[token]`, for each token the stream at the
    position that predicts it, along the unit vector, with the push in it.
    """

    strength: float
    text: str
    words: list[str]
    along: torch.Tensor


@dataclass(frozen=True, eq=False, repr=False)
class SteeredTexts(Result):
    """The same prompt, continued at several strengths. texts: one `SteeredText` a strength."""

    prompt: str
    texts: list[SteeredText]


@one_frame
def steered_texts(
    model: LanguageModel,
    vector: SteeringVector,
    prompt: Any,
    strengths: Sequence[float] = (-1.0, 0.0, 1.0),
    **options: Any,
) -> SteeredTexts:
    """Go on with a prompt at several strengths of a steering vector.

    options: of the generation, as for `lm.generate`: `max_new_tokens=12`, `seed=0`, …

    Raises:
        BadInput: no such option, or no single prompt.
    """
    texts = list(texts_one_by_one(model, vector, prompt, strengths, **options))
    tokens = model.token_strings(one_prompt(model, prompt))[0]
    return SteeredTexts(prompt if isinstance(prompt, str) else "".join(tokens), texts)


@one_frame
def texts_one_by_one(
    model: LanguageModel,
    vector: SteeringVector,
    prompt: Any,
    strengths: Sequence[float] = (-1.0, 0.0, 1.0),
    **options: Any,
) -> Iterator[SteeredText]:
    """The texts of `steered_texts`, each written when it is asked for.

    Raises:
        BadInput: as there.
    """
    model = model_of(model)
    given = one_prompt(model, prompt)
    if options.get("max_new_tokens") is None:
        options["max_new_tokens"] = 12
    return (_written(model, vector, given, strength, options) for strength in strengths)


def _written(
    model: LanguageModel, vector: SteeringVector, given: Any, strength: float, options: Any
) -> SteeredText:
    steered, unit = vector.on(model, strength), vector.unit
    along, tokens = [], []
    with steered.generate(given, **options) as tracer:
        for _ in tracer.iter[:]:
            along.append(steered.layers[vector.layer].output[0, -1].float() @ unit)
            tokens.append(steered.tokens[0])
        tracer.save(along=torch.stack(along), ids=torch.stack(tokens))
    run = tracer.run
    ids = run["ids"].tolist()
    text = str(model.tokenizer.decode(ids))
    return SteeredText(float(strength), text, [word(model, id) for id in ids], run["along"])
