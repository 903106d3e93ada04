"""direct_logit_attribution: what each head and MLP says for a token, by itself.

The last residual stream is a sum, of the embedding and of what each attention and MLP added. With
the scale of the final norm held at its value, logits are linear in it, so a difference of two
logits falls apart into one share for each of them (Elhage et al., 2021). The shares sum to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from nnsight_lab.errors import BadInput
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.models.run import Run
from nnsight_lab.recipes.prompt import model_of, prompt_of, run_on, token_id, tokens_of
from nnsight_lab.recipes.readout import recorded_gain
from nnsight_lab.recipes.result import Result
from nnsight_lab.tracing.source import one_frame

__all__ = ["DirectLogits", "direct_logit_attribution"]


@dataclass(frozen=True, eq=False, repr=False)
class DirectLogits(Result):
    """Shares of a difference of two logits at one position.

    tokens: the prompt. position: which one, from 0. target: the difference in words.
    logit_difference: what the model gave. embed: the share of the embedding.
    attn, mlp: `[layer]`, of what each returns. heads: `[layer, head]`, of each head's part of
    `attn`, without the bias of its projection; None where they were not asked for.
    bias: the share of the biases of the final norm and the unembedding.
    rest: what these leave of the difference. It is rounding where a block adds to the stream what
    its attention and its MLP return, and logits are the unembedding's; it is not in families
    that norm them first or cap the logits (Gemma 2).
    """

    tokens: list[str]
    position: int
    target: str
    logit_difference: float
    embed: float
    attn: torch.Tensor
    mlp: torch.Tensor
    heads: torch.Tensor | None
    bias: float
    rest: float

    @cached_property
    def total(self) -> float:
        """The sum of all shares but `rest`."""
        return self.embed + float(self.attn.sum() + self.mlp.sum()) + self.bias


@one_frame
def direct_logit_attribution(
    source: LanguageModel | Run,
    prompt: Any = None,
    *,
    answer: str | int,
    wrong: str | int | None = None,
    position: int = -1,
    row: int = 0,
    heads: bool = True,
) -> DirectLogits:
    """Split the logit of `answer` minus that of `wrong` over embedding, attention and MLPs.

    source: a model, with a `prompt`; or a run, whose prompt and edits are used.
    answer, wrong: tokens, `" Paris"`, or their ids; without `wrong`, the logit of `answer`.
    position: at which the next token is predicted. row: which prompt of a batch.
    heads: also head by head; takes gradients, one short backward pass a layer.

    Raises:
        BadInput: no such token, position or row.
        NotSupported: the model has no standard names, or its engine no gradients.
    """
    model = model_of(source)
    given = prompt_of(source, prompt, row)
    tokens = tokens_of(model, given, row)
    if position not in range(-len(tokens), len(tokens)):
        raise BadInput(
            f"There is no position {position!r} in {len(tokens)} tokens.",
            hint=f"0 to {len(tokens) - 1}, or negative, from the end.",
        )
    # Shorter rows are padded on the left, so places are counted from the end.
    at = (row, position % len(tokens) - len(tokens))
    ids = [token_id(model, token) for token in (answer, wrong) if token is not None]
    with model.trace(given, execute=False) as tracer:
        tracer.save(**_recorded(model, at, ids, heads=heads))
    run = run_on(source, tracer.graph, given)
    target = " minus ".join(model.token_string(id) for id in ids)
    return _as_result(run, tokens, position % len(tokens), target)


def _recorded(
    model: LanguageModel, at: tuple[int, int], ids: list[int], *, heads: bool
) -> dict[str, Any]:
    """The shares, as recorded values."""
    final = model.layers[-1].output[at].float()
    norm = recorded_gain(model, final.shape[-1])
    weight = model.lm_head.weight[torch.tensor(ids)].float()
    added = model.lm_head(torch.zeros(final.shape[-1])).float()[torch.tensor(ids)]
    logits = model.logits[at].float()[torch.tensor(ids)]
    if len(ids) == 2:
        weight, added, logits = (part[0] - part[1] for part in (weight, added, logits))
    else:
        weight, added, logits = (part[0] for part in (weight, added, logits))
    # The direction in the last stream, before the scale: gains in, mean out where the norm does.
    direction = weight * norm["gain"]
    direction = direction - norm["centred"] * direction.mean()
    scale = _scale(final, norm, model.norm.output[at].float())
    direction = scale * direction
    blocks = list(model.layers)
    shares = {
        "embed": model.layers[0].input[at].float() @ direction,
        "attn": torch.stack([block.attn.output[at].float() @ direction for block in blocks]),
        "mlp": torch.stack([block.mlp.output[at].float() @ direction for block in blocks]),
        "bias": norm["bias"] @ weight + added,
        "difference": logits,
    }
    if heads:
        shares["heads"] = torch.stack([_by_head(block, at, direction) for block in blocks])
    return shares


def _scale(final: Any, norm: dict[str, Any], normed: Any) -> Any:
    """By what the final norm multiplies the stream, besides its gain."""
    before = (final - norm["centred"] * final.mean()) * norm["gain"]
    return ((normed - norm["bias"]) * before).sum() / before.square().sum()


def _by_head(block: Any, at: tuple[int, int], direction: Any) -> Any:
    """The projection is linear, so a head's share is its `z` times the gradient at it: `[head]`."""
    z = block.attn.z
    with (block.attn.output[at].float() @ direction.detach()).backward():
        share = (z * z.grad)[at].float().sum(-1)
    return share


def _as_result(run: Run, tokens: list[str], position: int, target: str) -> DirectLogits:
    embed, bias, difference = (float(run[name]) for name in ("embed", "bias", "difference"))
    attn, mlp = run["attn"], run["mlp"]
    rest = difference - embed - bias - float(attn.sum() + mlp.sum())
    heads = run["heads"] if "heads" in list(run) else None
    return DirectLogits(tokens, position, target, difference, embed, attn, mlp, heads, bias, rest)
