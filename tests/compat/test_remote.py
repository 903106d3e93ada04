"""`remote=True`: the same blocks on a lab's server, which `CONFIG` names."""

from __future__ import annotations

from typing import Any

import pytest

import nnsight_lab.compat as nnsight
from nnsight_lab.errors import AuthFailed
from tests.compat.random_models import FRANCE
from tests.server.lab_server import TOKEN
from tests.support.tensors import assert_same


@pytest.fixture
def model(lab: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(nnsight.CONFIG.API, "HOST", lab.url)
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", TOKEN)
    return nnsight.LanguageModel("tiny")


def test_a_block_on_a_server_gives_what_it_gives_here(model: Any) -> None:
    def steered(remote: bool) -> Any:
        with model.trace(FRANCE, remote=remote):
            model.model.layers[1].output[:, -1] += 3
            hidden = model.model.layers[2].output.save()
            logits = model.lm_head.output.save()
        return hidden, logits

    there = steered(True)
    assert model._here is None  # no weights were loaded here
    for one, other in zip(there, steered(False), strict=True):
        assert_same(one, other)


def test_a_generation_on_a_server(model: Any) -> None:
    with model.generate(FRANCE, max_new_tokens=3, remote=True) as tracer:
        ids = tracer.result.save()
    with model.generate(FRANCE, max_new_tokens=3) as tracer:
        here = tracer.result.save()

    assert ids.tolist() == here.tolist()


def test_what_a_served_model_is_asked_outside_a_block_loads_nothing(model: Any) -> None:
    with model.trace(FRANCE, remote=True):
        model.lm_head.output.save()

    assert len(model.model.layers) == 6
    assert model.tokenizer.decode([5])
    assert model._here is None


def test_status_and_the_key(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [served.name for served in nnsight.status()] == ["tiny"]
    assert nnsight.is_model_running("tiny")
    assert not nnsight.is_model_running("gpt2")

    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", None)
    nnsight.CONFIG.set_default_api_key("wrong")
    with pytest.raises(AuthFailed):
        nnsight.status()


def test_a_session_on_a_server_is_one_request(model: Any) -> None:
    with model.session(remote=True):
        with model.trace(FRANCE):
            hidden = model.model.layers[1].output[:, -1]
        with model.trace(FRANCE[:-3]):
            model.model.layers[1].output[:, -1] = hidden
            there = model.lm_head.output.save()
    with model.session():
        with model.trace(FRANCE):
            hidden = model.model.layers[1].output[:, -1]
        with model.trace(FRANCE[:-3]):
            model.model.layers[1].output[:, -1] = hidden
            here = model.lm_head.output.save()

    assert_same(there, here)
