"""Models that several rooms test with; a folder's conftest.py imports what it needs."""

from __future__ import annotations

import pytest

import nnsight_lab as nl
from tests.support.small_models import SmallModel, small_gpt2, small_llama, word_tokenizer

__all__ = ["IDS", "family", "gpt2", "llama", "lm", "tiny"]

IDS = [[5, 17, 3, 42, 8, 29]]
"""One prompt of six tokens."""


@pytest.fixture(scope="session")
def llama() -> SmallModel:
    return small_llama()


@pytest.fixture(scope="session")
def gpt2() -> SmallModel:
    return small_gpt2()


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def family(request: pytest.FixtureRequest) -> SmallModel:
    """Each law about language models holds for every family."""
    found: SmallModel = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def lm(family: SmallModel) -> nl.LanguageModel:
    """The family's model, ready to trace, with a tokenizer of words `w0` to `w59`."""
    return nl.LanguageModel(family.module, tokenizer=word_tokenizer())


@pytest.fixture(scope="session")
def tiny() -> nl.LanguageModel:
    """The bundled model."""
    return nl.LanguageModel("tiny")
