"""The models these pages run on, a server with the bundled one, and the three ways to run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import nnsight_lab as nl
from tests.server.conftest import lab
from tests.server.lab_server import TOKEN, Serving
from tests.support.anywhere import anywhere
from tests.support.fixtures import family, gpt2, llama, lm, tiny

__all__ = ["anywhere", "family", "gpt2", "lab", "llama", "lm", "served", "tiny"]


@pytest.fixture
def served(lab: Serving) -> Iterator[nl.LanguageModel]:
    """The bundled model, on a server."""
    with nl.connect(lab.url, TOKEN) as connected:
        yield connected.model("tiny")
