"""induction_scores: what each head looks at when random tokens are said twice.

Olsson et al. (2022). Nothing but looking back predicts the second time, so the pattern of a head
on such a prompt tells its kind. Only the scores leave the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from nnsight_lab.contract import TokenRows
from nnsight_lab.errors import BadInput
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.recipes.prompt import model_of, token_id
from nnsight_lab.recipes.result import Result
from nnsight_lab.tracing.source import one_frame

__all__ = ["HeadKind", "InductionScores", "induction_scores"]

HeadKind: TypeAlias = Literal["induction", "previous", "duplicate", "first"]

_KINDS: tuple[HeadKind, ...] = ("induction", "previous", "duplicate", "first")


@dataclass(frozen=True, eq=False, repr=False)
class InductionScores(Result):
    """Scores of every head, each a mean attention weight in 0 to 1, `[layer, head]`.

    induction: from a token of the second time to the one after it the first time.
    previous: to the token before. duplicate: to the same token the first time.
    first: to the first position, where heads rest. Positions are those of the second time, in all
    but `previous`, which takes every position but the first. length, batch: of the sequences.
    Options of the figure: `kind`, by default `"induction"`.
    """

    induction: torch.Tensor
    previous: torch.Tensor
    duplicate: torch.Tensor
    first: torch.Tensor
    length: int
    batch: int

    def best(self, kind: HeadKind = "induction", count: int = 5) -> list[tuple[int, int, float]]:
        """The heads with the highest score: `(layer, head, score)`, best first.

        Raises:
            BadInput: there is no such kind of head.
        """
        scores = self.of(kind)
        values, places = scores.flatten().topk(min(count, scores.numel()))
        heads = scores.shape[1]
        found = zip(places.tolist(), values.tolist(), strict=True)
        return [(place // heads, place % heads, score) for place, score in found]

    def of(self, kind: HeadKind) -> torch.Tensor:
        """The scores of one kind.

        Raises:
            BadInput: there is no such kind of head.
        """
        if kind not in _KINDS:
            raise BadInput(f"There is no kind of head {kind!r}.", hint=f"{', '.join(_KINDS)}.")
        found: torch.Tensor = getattr(self, kind)
        return found


@one_frame
def induction_scores(
    model: LanguageModel,
    *,
    length: int = 24,
    batch: int = 8,
    tokens: Sequence[str | int] | None = None,
    seed: int = 0,
) -> InductionScores:
    """Score every head on random tokens that are said twice.

    length: how many tokens are said twice. batch: how many such prompts.
    tokens: which to draw from, as text or ids; all of the vocabulary, if left out. The token that
        the tokenizer puts in front of a prompt, if any, stands in front of these.
    seed: draws the same ones again.

    Raises:
        BadInput: there are too few tokens to draw from, or no such token.
    """
    model = model_of(model)
    rows, front = _said_twice(model, length, batch, tokens, seed)
    with model.trace(TokenRows(rows), execute=False) as tracer:
        found = [_scores(layer.attn.pattern, length, front) for layer in model.layers]
        parts = {kind: torch.stack([scores[kind] for scores in found]) for kind in _KINDS}
        tracer.save(**parts)
    run = model.run(tracer.graph, TokenRows(rows))
    return InductionScores(**{kind: run[kind] for kind in _KINDS}, length=length, batch=batch)


def _scores(pattern: Any, length: int, front: int) -> dict[str, Any]:
    """Means over prompts and queries, `[head]` each; `pattern` is `[batch, head, query, key]`."""
    whole = front + 2 * length
    # The first token of the second time has nothing yet to be recognised by.
    second = torch.arange(front + length + 1, whole)
    every = torch.arange(1, whole)

    def to(queries: torch.Tensor, keys: torch.Tensor) -> Any:
        return pattern[:, :, queries, keys].float().mean(-1).mean(0)

    return {
        "induction": to(second, second - length + 1),
        "previous": to(every, every - 1),
        "duplicate": to(second, second - length),
        "first": to(second, torch.zeros_like(second)),
    }


def _said_twice(
    model: LanguageModel, length: int, batch: int, tokens: Sequence[str | int] | None, seed: int
) -> tuple[tuple[tuple[int, ...], ...], int]:
    """The prompts as ids, and how many tokens stand in front."""
    if length < 2 or batch < 1:
        raise BadInput("Too short to be said twice.", hint="length=24, batch=8, say.")
    front = _in_front(model)
    if tokens is None:
        special = set(getattr(model.tokenizer, "all_special_ids", ()))
        pool = [id for id in range(model.card.vocab) if id not in special]
    else:
        pool = sorted({token_id(model, token) for token in tokens})
    if len(pool) < length:
        raise BadInput(
            f"{length} different tokens are needed; there are {len(pool)} to draw from.",
            hint=f"Give more tokens, or length={len(pool)}.",
        )
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(batch):
        chosen = torch.randperm(len(pool), generator=draw)[:length].tolist()
        said = [pool[place] for place in chosen]
        rows.append((*front, *said, *said))
    return tuple(rows), len(front)


def _in_front(model: LanguageModel) -> list[int]:
    """What the tokenizer puts in front of every prompt."""
    if model.tokenizer is None:
        return []
    with_them, bare = (
        model.tokenizer.encode("a", add_special_tokens=special) for special in (True, False)
    )
    count = 0
    while count < len(with_them) and with_them[count:][: len(bare)] != bare:
        count += 1
    return list(with_them[:count])
