"""The bundled model here and on a server, and two prompts that differ in who gives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import nnsight_lab as nl
from tests.server.conftest import lab
from tests.server.lab_server import TOKEN, Serving
from tests.support.fixtures import family, gpt2, llama, lm, tiny

__all__ = ["either", "family", "gpt2", "lab", "llama", "lm", "tiny"]


@pytest.fixture(scope="session", params=["here", "server"])
def either(request: pytest.FixtureRequest, tiny: nl.LanguageModel) -> Iterator[nl.LanguageModel]:
    """The bundled model, in this process and on a server: the same numbers are wanted of both."""
    if request.param == "here":
        yield tiny
        return
    running: Serving = request.getfixturevalue("lab")
    with nl.connect(running.url, TOKEN) as connected:
        yield connected.model("tiny")
