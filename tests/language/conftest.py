"""The models these pages run on, a server with the bundled one, and the three ways to run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import nnsight_lab as nl
from nnsight_lab.executors.local import LocalExecutor
from tests.server.conftest import lab
from tests.server.lab_server import TOKEN, Serving
from tests.support.anywhere import anywhere
from tests.support.every_way import EveryWay
from tests.support.fixtures import family, gpt2, llama, lm, tiny

__all__ = ["every_way", "anywhere", "family", "gpt2", "lab", "llama", "lm", "served", "tiny"]


@pytest.fixture(scope="session")
def ways() -> Iterator[EveryWay]:
    """What runs again, through bytes and on a server, whatever a test runs."""
    ways = EveryWay()
    yield ways
    ways.close()


@pytest.fixture(autouse=True)
def every_way(
    request: pytest.FixtureRequest, ways: EveryWay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each program of these pages runs three ways, unless it is marked `one_way`."""
    if request.node.get_closest_marker("one_way"):
        return
    for name in {"lm", "tiny"} & set(request.fixturenames):
        ways.serve(request.getfixturevalue(name).executor)
    monkeypatch.setattr(
        LocalExecutor,
        "run",
        lambda self, asked, emit: ways.run(self, asked, emit),  # noqa: PLW0108 - bound to an executor
    )


@pytest.fixture
def served(lab: Serving) -> Iterator[nl.LanguageModel]:
    """The bundled model, on a server."""
    with nl.connect(lab.url, TOKEN) as connected:
        yield connected.model("tiny")
