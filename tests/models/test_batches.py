"""Several prompts in one run give each what it gives alone, whatever their lengths."""

from __future__ import annotations

import pytest
import torch

import nnsight_lab as nl
from tests.support.hooks import eager_patterns, forward, outputs_seen, tensor_of
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_differs, assert_same

ROWS = [[5, 17, 3, 42, 8, 29], [11, 2], [60, 1, 33, 33]]
WIDTH = 6


def test_residuals_and_logits_of_a_padded_batch_equal_single_runs(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """Rotary and absolute positions alike: padding is on the left and is not seen."""
    with lm.trace(ROWS):
        stream = lm.layers[1].output.save()
        logits = lm.logits.save()

    assert stream.shape == (3, WIDTH, 32)
    block = family.at(family.block, 1)
    for place, row in enumerate(ROWS):
        own = slice(WIDTH - len(row), None)
        alone = tensor_of(outputs_seen(family.module, [row], block)[block])
        assert_same(stream[place, own], alone[0], atol=1e-5)
        assert_same(logits[place, own], forward(family.module, [row])[0], atol=1e-5)


def test_patterns_of_a_padded_batch_equal_single_runs(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """Nobody looks at padding: those columns are zero in a prompt's own rows."""
    with lm.trace(ROWS):
        pattern = lm.layers[2].attn.pattern.save()
        q = lm.layers[2].attn.q.save()

    assert q.shape[:2] == (3, WIDTH)
    for place, row in enumerate(ROWS):
        pad = WIDTH - len(row)
        alone = eager_patterns(family.module, [row])[2]
        assert_same(pattern[place, :, pad:, pad:], alone[0], atol=1e-5)
        assert pattern[place, :, pad:, :pad].abs().sum() == 0


def test_an_edit_of_one_row_changes_that_row_only(lm: nl.LanguageModel) -> None:
    with lm.trace(ROWS):
        lm.layers[0].output[1, -1] += torch.linspace(-3, 3, 32)
        edited = lm.logits.save()
    with lm.trace(ROWS):
        clean = lm.logits.save()

    assert_differs(edited[1, -1:], clean[1, -1:])
    assert_same(edited[[0, 2]], clean[[0, 2]])
    assert_same(edited[1, -2:-1], clean[1, -2:-1])


def test_a_batch_edit_equals_the_edit_in_single_runs(lm: nl.LanguageModel) -> None:
    """The last position is the last of every prompt, short or long."""
    direction = torch.linspace(-1, 1, 32)
    with lm.trace(ROWS):
        lm.layers[1].output[:, -1] += direction
        together = lm.logits[:, -1].save()
    for place, row in enumerate(ROWS):
        with lm.trace(row):
            lm.layers[1].output[:, -1] += direction
            alone = lm.logits[:, -1].save()
        assert_same(together[place], alone[0], atol=1e-5)


def test_positions_follow_each_prompt(lm: nl.LanguageModel) -> None:
    """The same prompt, alone and beside a longer one, is the same; shapes say batch and pos."""
    with lm.trace([[7, 8, 9], [7, 8, 9]]):
        equal = lm.logits.save()
    with lm.trace([[7, 8, 9], [1, 2, 3, 4, 5]]):
        recorded = lm.logits.shape
        beside = lm.logits.save()
    assert tuple(recorded) == tuple(beside.shape) == (2, 5, 61)
    assert_same(equal[0], equal[1])
    assert_same(beside[0, -3:], equal[0], atol=1e-5)


@pytest.mark.parametrize("rows", [[[4, 5, 6]], [[4, 5, 6], [6, 5, 4]], ROWS])
def test_learned_positions_have_a_row_for_each_prompt(
    gpt2: SmallModel, rows: list[list[int]]
) -> None:
    """What follows from positions is `[batch, pos, …]`, padded or not, as its shape says."""
    lm = nl.LanguageModel(gpt2.module)
    with lm.trace(rows):
        shape = lm.transformer.wpe.output.shape
        positions = lm.transformer.wpe.output.save()
    assert tuple(shape) == tuple(positions.shape) == (len(rows), max(map(len, rows)), 32)
    first = gpt2.module.transformer.wpe.weight.detach()
    for place, row in enumerate(rows):
        assert_same(positions[place, -len(row) :], first[: len(row)])


def test_the_bundled_model_reads_texts_of_unequal_length(tiny: nl.LanguageModel) -> None:
    texts = ["The capital of France is", "The capital"]
    with tiny.trace(texts):
        logits = tiny.logits[:, -1].save()
    for place, text in enumerate(texts):
        ids = tiny.tokenizer(text, return_tensors="pt").input_ids.tolist()
        assert_same(logits[place], forward(tiny.module, ids)[0, -1], atol=1e-4)
