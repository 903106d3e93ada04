"""Scores of heads are means over attention patterns that the model itself gives."""

from __future__ import annotations

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab import errors
from nnsight_lab.models.under_way import RunUnderWay, watching
from nnsight_lab.recipes import InductionScores, induction_scores
from tests.support.hooks import eager_patterns

WORDS = [f" {word}" for word in "river lamp seven queen gold cat book table rain stone".split()]


def with_prompts(
    model: nl.LanguageModel, **options: object
) -> tuple[InductionScores, list[list[int]]]:
    """The scores, and the ids of the prompts that were run."""
    seen: list[RunUnderWay] = []
    with watching(lambda run, _: seen.append(run)):
        found = induction_scores(model, **options)  # type: ignore[arg-type]
    return found, [list(row) for row in seen[0].inputs.rows]  # type: ignore[union-attr]


def test_scores_are_means_of_the_models_patterns(
    either: nl.LanguageModel, tiny: nl.LanguageModel
) -> None:
    found, rows = with_prompts(either, length=6, batch=3, tokens=WORDS, seed=2)

    pool = {tiny.tokenizer.encode(word, add_special_tokens=False)[0] for word in WORDS}
    for row in rows:
        assert row[0] == tiny.tokenizer.bos_token_id
        assert row[1:7] == row[7:]
        assert set(row[1:]) <= pool
        assert len(set(row[1:])) == 6
    for layer, pattern in enumerate(eager_patterns(tiny.module, rows)):
        weights: dict[str, list[torch.Tensor]] = {
            "induction": [],
            "duplicate": [],
            "first": [],
            "previous": [],
        }
        for query in range(8, 13):
            weights["induction"].append(pattern[:, :, query, query - 5])
            weights["duplicate"].append(pattern[:, :, query, query - 6])
            weights["first"].append(pattern[:, :, query, 0])
        for query in range(1, 13):
            weights["previous"].append(pattern[:, :, query, query - 1])
        for kind, each in weights.items():
            expected = torch.stack(each).mean((0, 1))
            torch.testing.assert_close(found.of(kind)[layer], expected, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


def test_the_bundled_models_induction_heads_stand_out(tiny: nl.LanguageModel) -> None:
    """The ones its card names: those of layer 3, and head 0 of layer 4."""
    found = induction_scores(tiny)
    best = {(layer, head) for layer, head, score in found.best(count=5) if score > 0.5}
    previous = {(layer, head) for layer, head, _ in found.best("previous", 3)}

    assert best == {(3, 0), (3, 1), (3, 2), (3, 3), (4, 0)}
    assert previous == {(1, 1), (1, 2), (2, 1)}
    assert all(float(found.of(kind).max()) <= 1 for kind in ("induction", "first"))


def test_the_same_seed_draws_the_same_tokens(tiny: nl.LanguageModel) -> None:
    one, two, other = (with_prompts(tiny, length=4, batch=2, seed=seed)[1] for seed in (1, 1, 2))

    assert one == two
    assert one != other


def test_too_few_tokens_and_unknown_kinds_are_refused(tiny: nl.LanguageModel) -> None:
    with pytest.raises(errors.BadInput, match="24 different tokens"):
        induction_scores(tiny, tokens=WORDS)
    with pytest.raises(errors.BadInput, match="Too short"):
        induction_scores(tiny, length=1)
    with pytest.raises(errors.BadInput, match="no kind of head"):
        induction_scores(tiny, length=3, batch=1).best("sink")  # type: ignore[arg-type]
