"""The models the pages of the language are tested with, here and on a server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import nnsight_lab as nl
from tests.server.lab_server import TOKEN, Serving, serving, tiny_engine
from tests.support.fixtures import family, gpt2, llama, lm, tiny

__all__ = ["family", "gpt2", "lab_server", "llama", "lm", "served", "tiny"]


@pytest.fixture(scope="session")
def lab_server() -> Iterator[Serving]:
    """A server with the bundled model, in this process."""
    with serving(("tiny", tiny_engine)) as running:
        yield running


@pytest.fixture
def served(lab_server: Serving) -> Iterator[nl.LanguageModel]:
    """The bundled model, on a server."""
    with nl.connect(lab_server.url, TOKEN) as lab:
        yield lab.model("tiny")
