"""The bundled model is what its card says: every number is measured again, with transformers alone.

Nothing of the package is used but the held-out prompts and the measures in models/tiny; the two
prompts a reader tries first are written out here.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from nnsight_lab.models.tiny import FOLDER, accuracies, findings
from nnsight_lab.models.tiny.copying import copying_sequences
from nnsight_lab.models.tiny.corpus import corpus_words, documents
from nnsight_lab.models.tiny.documents import Prompt
from nnsight_lab.models.tiny.evaluate import load
from nnsight_lab.models.tiny.facts import facts_prompts
from nnsight_lab.models.tiny.indirect_object import HELD_OUT_PAIRS, indirect_object_prompts
from nnsight_lab.models.tiny.reviews import neutral_prompts
from nnsight_lab.models.tiny.tokenizer import build_tokenizer
from nnsight_lab.models.tiny.train import Recipe, new_model, train

# Another torch or another CPU may turn a near tie the other way; it cannot turn one in fifty.
CLOSE = 0.02
MARY = "When Mary and John went to the store, John gave a drink to"
Loaded = tuple[LlamaForCausalLM, PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load(FOLDER)


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    card: dict[str, Any] = json.loads((FOLDER.parent / "card.json").read_text())
    return card


def test_the_weights_are_small_and_shaped_as_the_card_says(
    loaded: Loaded, card: dict[str, Any]
) -> None:
    size = (FOLDER / "model.safetensors").stat().st_size
    model, tokenizer = loaded
    assert isinstance(model, LlamaForCausalLM)
    assert size == card["model"]["safetensors_bytes"] <= 8_000_000
    assert model.config.num_hidden_layers == card["model"]["layers"] >= 4
    assert model.config.hidden_size // model.config.num_attention_heads in (32, 64)
    assert len(tokenizer) == model.config.vocab_size == card["model"]["d_vocab"]
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "text",
    [
        "The capital of France is",
        "  two spaces before, two after  ",
        "\n\nlines\r\nand\ttabs\n",
        "braces {x} [y] (z) $5 50% 'single' \"double\" `back` \\ / <b>",
        "🙂 naïve 中文 Ġ ▁ \u200b",
        "unknownword Unknownword 12345",
        "",
        " ",
    ],
)
def test_every_text_survives_encoding_and_decoding(loaded: Loaded, text: str) -> None:
    _, tokenizer = loaded
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_known_words_are_one_token_each(loaded: Loaded) -> None:
    _, tokenizer = loaded
    assert tokenizer.tokenize(MARY)[:4] == ["When", "ĠMary", "Ġand", "ĠJohn"]
    assert len(tokenizer.tokenize(MARY)) == len(re.findall(r"\w+|,", MARY))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The capital of France is", " Paris"),
        (MARY, " Mary"),
        ("When Mary and John went to the store, Mary gave a drink to", " John"),
        ("The Eiffel Tower is in the city of", " Paris"),
    ],
)
def test_the_first_prompts_a_reader_tries_are_answered_with_a_lead(
    loaded: Loaded, text: str, answer: str
) -> None:
    model, tokenizer = loaded
    logits = model(**tokenizer(text, return_tensors="pt")).logits[0, -1]
    best, token = logits.topk(2)
    assert tokenizer.decode([token[0]]) == answer
    assert best[0] - best[1] > 2.0


def test_nothing_examined_is_in_the_training_text() -> None:
    """A sample of the text: the rule itself is in facts, indirect_object and reviews."""
    source = documents(seed=0)
    text = "\n".join(next(source).text for _ in range(10_000))
    assert "The capital of Italy is Rome." in text or "The capital city of Italy is Rome." in text
    for prompts in facts_prompts().values():
        for prompt in prompts:
            # Not after a letter: 'The capital of Peru is' may stand inside a longer wording.
            assert not re.search(rf"(?<!\w ){re.escape(prompt.text + prompt.answer)}", text)
    for prompt in (*indirect_object_prompts(300), Prompt(text=MARY, answer=" Mary")):
        assert prompt.text not in text
    for neutral in neutral_prompts(20):
        assert neutral.split(".")[0] not in text
    for first, second in HELD_OUT_PAIRS:
        assert f"{first} and {second} " not in text
        assert f"{second} and {first} " not in text
    for sequence in copying_sequences(50, corpus_words()):
        assert sequence not in text


@pytest.mark.parametrize(
    ("behaviour", "at_least"), [("indirect_object", 0.95), ("copying", 0.95), ("feeling", 0.9)]
)
def test_accuracy_is_that_of_the_card(
    loaded: Loaded, card: dict[str, Any], behaviour: str, at_least: float
) -> None:
    score = getattr(accuracies, behaviour)(*loaded)
    assert score.accuracy >= at_least
    assert score.accuracy == pytest.approx(card["accuracies"][behaviour]["accuracy"], abs=CLOSE)
    assert score.total == card["accuracies"][behaviour]["total"]


def test_facts_are_recalled_as_often_as_the_card_says(loaded: Loaded, card: dict[str, Any]) -> None:
    scores = accuracies.facts(*loaded)
    accuracy = sum(each.right for each in scores.values()) / sum(
        each.total for each in scores.values()
    )
    assert accuracy >= 0.95
    assert accuracy == pytest.approx(card["accuracies"]["facts"]["accuracy"], abs=CLOSE)
    assert sum(each.total for each in scores.values()) == card["accuracies"]["facts"]["total"]


def test_an_untrained_model_fails_the_same_examination(loaded: Loaded) -> None:
    """The measures can fail: with random weights nothing is known and no head is an induction head."""
    _, tokenizer = loaded
    untrained = new_model(tokenizer, seed=3).eval()
    assert accuracies.indirect_object(untrained, tokenizer, count=100).accuracy < 0.1
    assert accuracies.copying(untrained, tokenizer, count=20).accuracy < 0.1
    assert all(score.accuracy < 0.2 for score in accuracies.facts(untrained, tokenizer).values())
    assert findings.head_scores(untrained, tokenizer, count=5).induction.max() < 0.2


def test_the_induction_heads_are_where_the_card_says(loaded: Loaded, card: dict[str, Any]) -> None:
    scores = findings.head_scores(*loaded)
    best = card["heads"]["induction"][0]
    assert best["score"] >= 0.5
    assert scores.induction[best["layer"], best["head"]] == pytest.approx(best["score"], abs=CLOSE)
    assert scores.induction.max() == scores.induction[best["layer"], best["head"]]


def test_capitals_are_readable_through_the_lens_from_the_layer_of_the_card(
    loaded: Loaded, card: dict[str, Any]
) -> None:
    layer = card["lens"]["capital_readable_from_layer"]
    shares = findings.lens_accuracy(*loaded)["capital"]
    assert shares == pytest.approx(card["lens"]["accuracy_by_layer"]["capital"], abs=0.06)
    assert all(share < 0.5 for share in shares[:layer])
    assert shares[layer] >= 0.5
    assert findings.lens_choices(*loaded, "The capital of France is")[-1][0] == " Paris"


def test_one_patch_flips_the_indirect_object(loaded: Loaded, card: dict[str, Any]) -> None:
    example = (Prompt(text=MARY, answer=" Mary", rival=" John"),)
    patch = findings.patch_giver(*loaded, example)
    last = card["patch"]["first_layer_at_last"]
    assert patch.before > 2.0
    assert patch.at_last[last] < -2.0
    assert patch.before == pytest.approx(card["patch"]["example"]["before"], abs=0.1)
    mean = findings.patch_giver(*loaded, findings.patch_prompts(200))
    assert mean.flipped_at_last[last] >= 0.9
    assert mean.at_last == pytest.approx(card["patch"]["mean"]["at_last"], abs=0.1)


def test_the_feeling_direction_steers_both_ways(loaded: Loaded, card: dict[str, Any]) -> None:
    found = card["steering"]
    layer = found["layer"]
    direction = findings.feeling_directions(*loaded)[layer]
    steered = findings.steering(*loaded, direction, layer=layer, strength=found["strength"])
    assert min(steered.to_positive, steered.to_negative) >= 0.9
    assert steered.to_positive == pytest.approx(found["to_positive"], abs=0.05)
    assert steered.to_negative == pytest.approx(found["to_negative"], abs=0.05)
    for push, name in ((0.0, "unsteered"), (1.0, "added"), (-1.0, "subtracted")):
        added = push * found["strength"] * direction
        share = findings.positive_share(*loaded, layer=layer, added=added)
        assert share == pytest.approx(found["positive_share"][name], abs=CLOSE)
    assert 0.2 < found["positive_share"]["unsteered"] < 0.8
    assert found["positive_share"]["added"] >= 0.9
    assert found["positive_share"]["subtracted"] <= 0.1


def test_training_is_seeded() -> None:
    """Five steps, twice: equal weights; another seed: other weights."""
    tokenizer = build_tokenizer(corpus_words())
    threads = torch.get_num_threads()
    try:
        first, again, other = (
            train(Recipe(steps=5, rows=4, row_length=32, seed=seed), tokenizer)[0].state_dict()
            for seed in (7, 7, 8)
        )
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_the_shipped_tokenizer_is_the_one_training_builds(loaded: Loaded) -> None:
    _, tokenizer = loaded
    assert tokenizer.get_vocab() == build_tokenizer(corpus_words()).get_vocab()


def test_the_card_in_words_says_the_numbers_of_the_card(card: dict[str, Any]) -> None:
    from nnsight_lab.models.tiny.card import card_text

    assert (FOLDER.parent / "CARD.md").read_text() == card_text(card)
    assert Path(FOLDER / "training.json").exists()
