"""What a language model is made from, and what it accepts as a prompt."""

from __future__ import annotations

import copy
import logging
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.contract import TokenRows
from nnsight_lab.models.prompts import rows_of
from nnsight_lab.recipes.prompt import token_id
from tests.support.family_models import family_model
from tests.support.fixtures import IDS
from tests.support.hooks import forward
from tests.support.lines import assert_at, frames_of_ours
from tests.support.small_models import SmallModel, small_gpt2, small_llama, word_tokenizer
from tests.support.tensors import assert_differs, assert_exactly, assert_same

TOKENIZER = word_tokenizer()


def _logits(lm: nl.LanguageModel, prompt: Any) -> torch.Tensor:
    with lm.trace(prompt):
        logits = lm.logits.save()
    assert type(logits) is torch.Tensor
    return logits


def test_a_folder_and_a_loaded_model_are_the_same_model(family: SmallModel, tmp_path: Path) -> None:
    family.module.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    from_folder = nl.LanguageModel(str(tmp_path))
    loaded = nl.LanguageModel(family.module, tokenizer=TOKENIZER)

    expected = forward(family.module, IDS)
    assert_exactly(_logits(from_folder, IDS), expected)
    assert_exactly(_logits(loaded, IDS), expected)
    assert_exactly(_logits(from_folder, "w4 w16 w2"), forward(family.module, [[5, 17, 3]]))
    assert loaded.module is family.module
    assert loaded.tokenizer is TOKENIZER
    assert from_folder.card.layers == loaded.card.layers == 3


def test_gemma_2_is_loaded_with_the_attention_that_has_its_soft_cap(tmp_path: Path) -> None:
    """Some versions of transformers choose one that leaves the cap out; ours does not let them."""
    gemma = family_model("gemma2").module
    gemma.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)

    loaded = nl.LanguageModel(str(tmp_path))
    assert loaded.module.config._attn_implementation == "eager"
    assert_exactly(_logits(loaded, IDS), forward(gemma, IDS))
    uncapped = copy.deepcopy(gemma)
    for layer in uncapped.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    assert_differs(_logits(loaded, IDS), forward(uncapped, IDS))


def test_every_form_of_a_prompt_is_the_same_prompt(llama: SmallModel) -> None:
    """Text, ids, tensors, arrays, and what a tokenizer returns."""
    lm = nl.LanguageModel(llama.module, tokenizer=TOKENIZER)
    text, ids = "w4 w16 w2", [5, 17, 3]
    expected = forward(llama.module, [ids])
    forms = [
        text, [text], (text,), ids, [ids], (tuple(ids),), torch.tensor(ids), torch.tensor([ids]),
        torch.tensor(ids, dtype=torch.int32), np.array(ids), [np.int64(id) for id in ids],
        [torch.tensor(ids)], {"input_ids": ids}, {"input_ids": torch.tensor([ids])},
        TOKENIZER(text), TOKENIZER(text, return_tensors="pt"), TokenRows((tuple(ids),)),
    ]  # fmt: skip
    for form in forms:
        assert_exactly(_logits(lm, form), expected)


def test_a_tokenizers_padding_is_taken_off_again(llama: SmallModel) -> None:
    """Padded or ragged, on either side, masked positions are not part of a prompt."""
    texts = ["w4 w16 w2", "w9"]
    rows = ((5, 17, 3), (10,))
    assert rows_of(TOKENIZER(texts), TOKENIZER).rows == rows
    for side in ("left", "right"):
        padded = TOKENIZER(texts, padding=True, padding_side=side, return_tensors="pt")
        assert padded.input_ids.shape == (2, 3)
        assert rows_of(padded, TOKENIZER).rows == rows


BAD_PROMPTS: dict[str, Any] = {
    "empty text": "", "no texts": [], "an empty text among texts": ["w1", ""], "nothing": None,
    "an empty row": [[1], []], "an empty tensor": torch.zeros(0, dtype=torch.long),
    "text and ids": ["w1", [1]], "words": [["w1", "w2"]], "fractions": [[1.5]],
    "float tensor": torch.ones(3), "three axes": torch.ones(1, 2, 3, dtype=torch.long),
    "nested too deep": [[[1]]], "a scalar tensor": torch.tensor(3), "bytes": b"w1",
    "a number": 5, "a set": {1, 2}, "an object": object(), "a mapping without ids": {"text": "a"},
    "another mask shape": {"input_ids": [1, 2], "attention_mask": [1]},
    "a mask with a hole": {"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]},
    "all masked": {"input_ids": [1], "attention_mask": [0]},
    "positions of its own": {"input_ids": [1], "position_ids": [4]},
    "an id too large": [61], "a negative id": [-1], "too long": [1] * 65,
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PROMPTS)
def test_what_is_no_prompt_is_refused_before_anything_is_recorded(
    name: str, llama: SmallModel
) -> None:
    lm = nl.LanguageModel(llama.module, tokenizer=TOKENIZER)
    with pytest.raises(nl.errors.BadInput) as caught:
        lm.trace(BAD_PROMPTS[name])
    assert caught.value.code == "bad-input"
    assert caught.value.where is not None
    assert caught.value.where.file == __file__


def test_text_needs_a_tokenizer(llama: SmallModel) -> None:
    with pytest.raises(nl.errors.BadInput, match="no tokenizer"):
        nl.LanguageModel(llama.module).trace("w1")
    with pytest.raises(nl.errors.BadInput, match="no tokenizer") as caught:
        token_id(nl.LanguageModel(llama.module), " Paris")
    assert caught.value.hint == "Give the id."


@pytest.mark.parametrize("context", [1, 2, 3, 6, 7])
def test_models_with_a_tiny_context_or_vocabulary_are_measured(context: int) -> None:
    """Toy models of a few positions and tokens work like any other."""
    small = small_gpt2(n_positions=context, vocab_size=3)
    lm = nl.LanguageModel(small.module)
    ids = [[0, 2, 1, 1, 0, 2, 2][:context]]
    with lm.trace(ids * 2):
        shape, pattern = lm.layers[0].output.shape, lm.layers[0].attn.pattern.shape
        logits = lm.logits.save()
    assert tuple(shape) == (2, context, 32)
    assert tuple(pattern) == (2, 4, context, context)
    assert_same(logits, forward(small.module, ids * 2))


def test_every_dtype_keeps_its_dtype() -> None:
    lm = nl.LanguageModel(small_llama().module.to(torch.bfloat16))
    with lm.trace(IDS):
        kind = lm.layers[1].output.dtype
        h = lm.layers[1].output.save()
    assert h.dtype is kind is torch.bfloat16
    assert lm.card.dtype == "bfloat16"


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "", "  "])
def test_a_model_that_is_not_there_is_not_found(name: str) -> None:
    with pytest.raises(nl.errors.ModelNotFound) as caught:
        nl.LanguageModel(name)
    assert "tiny" in caught.value.hint


def test_a_broken_folder_is_a_model_not_found(tmp_path: Path) -> None:
    small_llama().module.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(nl.errors.ModelNotFound):
        nl.LanguageModel(str(tmp_path))


@pytest.mark.parametrize("name", ["tinny", "Tiny", "tiy"])
def test_a_slip_in_a_bundled_name_offers_it_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without asking the network, which would be tried for most of a minute."""
    from transformers import AutoTokenizer

    asked: list[Any] = []
    real = AutoTokenizer.from_pretrained

    def noted(*args: Any, **options: Any) -> Any:
        asked.append(options["local_files_only"])
        return real(*args, **options)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", noted)
    with pytest.raises(nl.errors.ModelNotFound) as caught:
        nl.LanguageModel(name)  # a slip
    assert asked == [True]
    assert "Nearest: 'tiny'" in caught.value.hint
    assert_at(caught.value, "a slip")
    assert frames_of_ours(caught.value) <= 1
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["someone/tiny", "gpt2-of-nobody"])
def test_other_names_are_looked_for_where_the_network_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    hub = logging.getLogger("huggingface_hub")
    before = hub.level
    asked: list[Any] = []

    def noted(*_: Any, local_files_only: bool) -> Any:
        asked.append(local_files_only)
        hub.warning("Retrying in 1s [Retry 1/5].")
        raise OSError("no network")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", noted)
    with pytest.raises(nl.errors.ModelNotFound, match="no network"):
        nl.LanguageModel(name)
    assert asked == [False]
    assert hub.level == before


def test_the_retries_of_a_download_are_not_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoTokenizer

    def noted(*_: Any, **__: Any) -> Any:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise OSError("no network")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", noted)
    with pytest.raises(nl.errors.ModelNotFound):
        nl.LanguageModel("someone/else")
    assert "Retrying" not in caplog.text


@pytest.mark.parametrize("bad", [None, 3, torch.nn.Linear, ["tiny"]])
def test_what_is_neither_a_name_nor_a_module_is_bad_input(bad: Any) -> None:
    with pytest.raises(nl.errors.BadInput) as caught:
        nl.LanguageModel(bad)  # no model
    assert_at(caught.value, "no model")
    assert "tiny" in caught.value.hint


def test_a_prompt_that_is_too_long_is_said_once() -> None:
    """By our error, not also by a warning of the tokenizer's."""
    lm = nl.LanguageModel("tiny")
    said = StringIO()
    handler = logging.StreamHandler(said)
    logger = logging.getLogger("transformers.tokenization_utils_base")
    logger.addHandler(handler)
    try:
        with pytest.raises(nl.errors.BadInput, match="takes 512"):
            lm.trace("the " * 1_000)
    finally:
        logger.removeHandler(handler)
    assert said.getvalue() == ""


def test_a_tokenizer_may_be_any_function(llama: SmallModel) -> None:
    lm = nl.LanguageModel(llama.module, tokenizer=lambda text: {"input_ids": [len(text)]})
    assert lm.tokenize("abc").rows == ((3,),)
