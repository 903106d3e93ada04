"""The models these pages run on, a server with the bundled one, and the three ways to run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

import nnsight_lab as nl
from nnsight_lab.executors.local import LocalExecutor
from tests.server.conftest import lab
from tests.server.lab_server import TOKEN, Serving
from tests.support.anywhere import anywhere
from tests.support.every_way import EveryWay
from tests.support.fixtures import family, lm, tiny
from tests.support.small_models import SmallModel, small_gpt2, small_llama

__all__ = ["every_way", "anywhere", "family", "gpt2", "lab", "llama", "lm", "served", "tiny"]

ON_VLLM = bool(os.environ.get("LAB_ON_VLLM"))
"""Instead of the other ways, each program also runs on vLLM (`tests/support/on_vllm.py`)."""


@pytest.fixture(scope="session")
def llama() -> SmallModel:
    if not ON_VLLM:
        return small_llama()
    from tests.support.on_vllm import vllm_llama

    return vllm_llama()


@pytest.fixture(scope="session")
def gpt2() -> SmallModel:
    if not ON_VLLM:
        return small_gpt2()
    from tests.support.on_vllm import vllm_gpt2

    return vllm_gpt2()


@pytest.fixture(scope="session")
def ways() -> Iterator[Any]:
    """What runs again, through bytes and on a server, whatever a test runs."""
    ways: Any
    if ON_VLLM:
        from tests.support.on_vllm import OnVllm

        ways = OnVllm()
    else:
        ways = EveryWay()
    yield ways
    ways.close()


@pytest.fixture(autouse=True)
def every_way(request: pytest.FixtureRequest, ways: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each program of these pages runs three ways, unless it is marked `one_way`."""
    if request.node.get_closest_marker("one_way"):
        return
    ways.test = request.node.nodeid
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
