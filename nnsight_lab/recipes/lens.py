"""logit_lens: what each layer would say if it were the last (nostalgebraist, 2020).

The residual stream after each block goes through the final norm and the unembedding, inside the
trace, so only the top few tokens of each place travel. The last row is the model's own output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch

from nnsight_lab.contract import TokenRows
from nnsight_lab.errors import BadInput
from nnsight_lab.ir import Graph
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.models.run import Run
from nnsight_lab.recipes.prompt import model_of, prompt_of, run_on, tokens_of, word
from nnsight_lab.recipes.result import Result
from nnsight_lab.tracing.source import one_frame

__all__ = ["LogitLens", "lens_through", "logit_lens", "stream_names"]

Translator: TypeAlias = Callable[[int, Any], Any]
"""Gives what is read in place of one row of the stream."""


@dataclass(frozen=True, eq=False, repr=False)
class LogitLens(Result):
    """The lens of one prompt.

    tokens: the prompt, one string a position.
    layers: row names, `embed` (before block 0), then `0`, `1`, … (after each block), `output`.
    probabilities, ids: `[layer, pos, top]`, best first. entropy: `[layer, pos]`, in nats.
    words: `[layer][pos][top]`, the tokens of `ids` as text.
    targets: ids that were asked for. target_probabilities, target_ranks: `[target, layer, pos]`;
    rank 0 is the likeliest.
    """

    tokens: list[str]
    layers: list[str]
    probabilities: torch.Tensor
    ids: torch.Tensor
    entropy: torch.Tensor
    words: list[list[list[str]]]
    targets: tuple[int, ...] = ()
    target_probabilities: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0, 0))
    target_ranks: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0, 0).long())


def stream_names(model: LanguageModel) -> list[str]:
    """The rows of the residual stream: `embed` (before block 0), then `0`, `1`, …"""
    return ["embed", *(str(index) for index in range(model.card.layers))]


def _graph(
    model: LanguageModel, prompt: Any, top: int, targets: tuple[int, ...], translated: Translator
) -> Graph:
    with model.trace(prompt, execute=False) as tracer:
        stream = [model.layers[0].input, *(layer.output for layer in model.layers)]
        read = (translated(index, resid) for index, resid in enumerate(stream))
        rows = [*(model.lm_head(model.norm(resid)) for resid in read), model.logits]
        spread = [logits.float().log_softmax(-1) for logits in rows]
        found = [_likeliest(log_probs, top) for log_probs in spread]
        parts = [torch.stack(part) for part in zip(*found, strict=True)]
        tracer.save(probabilities=parts[0], ids=parts[1], entropy=parts[2])
        if targets:
            of = [_of_targets(log_probs, targets) for log_probs in spread]
            chances, ranks = (torch.stack(part) for part in zip(*of, strict=True))
            tracer.save(target_probabilities=chances, target_ranks=ranks)
    return tracer.graph


def _likeliest(log_probs: Any, top: int) -> tuple[Any, Any, Any]:
    values, ids = log_probs.topk(top, dim=-1)
    return values.exp(), ids, -(log_probs.exp() * log_probs).sum(-1)


def _of_targets(log_probs: Any, targets: tuple[int, ...]) -> tuple[Any, Any]:
    own = [log_probs[..., id] for id in targets]
    ranks = [(log_probs > each[..., None]).sum(-1) for each in own]
    return torch.stack(own).exp(), torch.stack(ranks)


@one_frame
def logit_lens(
    source: LanguageModel | Run,
    prompt: Any = None,
    *,
    top: int = 5,
    row: int = 0,
    targets: Sequence[int] = (),
) -> LogitLens:
    """Read every layer's residual stream through the unembedding.

    A row of a layer goes through the weights of the final norm and the unembedding, so it sees a
    run's edits of the stream up to that layer. The last row, `output`, is the softmax of the
    logits the model gave, and sees every edit, also of the final norm and of the logits.

    source: a model, with a `prompt`; or a run, whose prompt and edits are used.
    top: how many tokens to keep for each layer and position. row: which prompt of a batch.
    targets: ids of tokens to follow, however unlikely they are.

    Raises:
        NotSupported: the model has no standard names for its layers.
        BadInput: there is no such row or target, or there are fewer tokens than `top`.
    """
    return lens_through(
        lambda index, resid: resid, source, prompt, top=top, row=row, targets=targets
    )


def lens_through(
    translated: Translator,
    source: LanguageModel | Run,
    prompt: Any = None,
    *,
    top: int = 5,
    row: int = 0,
    targets: Sequence[int] = (),
) -> LogitLens:
    """The lens, with each row of the stream translated first.

    translated: gives what to read for row `index` (0 is `embed`) of the stream.

    Raises:
        BadInput: as for `logit_lens`, and so `NotSupported`.
    """
    model = model_of(source)
    given = prompt_of(source, prompt, row)
    most = model.card.vocab or top
    if top not in range(1, most + 1):
        raise BadInput(f"There is no top {top!r} of {most} tokens.", hint="top=5, say.")
    for id in targets:
        if id not in range(model.card.vocab or id + 1):
            raise BadInput(f"There is no token {id!r}.", hint=f"Ids are 0 to {most - 1}.")
    followed = tuple(targets)
    run = run_on(source, _graph(model, given, top, followed, translated), given)
    return _as_lens(model, run, given, row, followed)


def _as_lens(
    model: LanguageModel, run: Run, given: TokenRows, row: int, targets: tuple[int, ...]
) -> LogitLens:
    tokens = tokens_of(model, given, row)
    probabilities, ids, entropy = (
        run[name][:, row, -len(tokens) :] for name in ("probabilities", "ids", "entropy")
    )
    spelt = {id: word(model, id) for id in ids.unique().tolist()}
    words = [[[spelt[id] for id in top] for top in place] for place in ids.tolist()]
    layers = [*stream_names(model), "output"]
    lens = LogitLens(tokens, layers, probabilities, ids, entropy, words)
    if not targets:
        return lens
    chances, ranks = (
        run[name][:, :, row, -len(tokens) :].transpose(0, 1)
        for name in ("target_probabilities", "target_ranks")
    )
    return replace(lens, targets=targets, target_probabilities=chances, target_ranks=ranks)
