"""Laws of `nl.connect`: a lab's models are the same objects to trace with, and hold no weights."""

from __future__ import annotations

import threading
import traceback

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import (
    AuthFailed,
    BadInput,
    LabError,
    ModelNotFound,
    NotSupported,
    ServerUnreachable,
)
from nnsight_lab_server.config import ServedModel
from nnsight_lab_server.engines.base import Engine
from tests.server.lab_server import TOKEN, Serving, serving, serving_models, tiny_engine
from tests.support.lines import assert_at, frames_of_ours

PROMPT = "The capital of France is"


def test_a_lab_lists_its_models(lab: Serving) -> None:
    with nl.connect(lab.url, TOKEN) as connected:
        models = connected.models()

    assert [model.name for model in models] == ["tiny"]
    assert "LlamaForCausalLM" in repr(models)
    assert repr(connected) == f"<Lab at {lab.url}>"


def test_by_default_it_goes_where_the_environment_says(
    lab: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNSIGHT_LAB_SERVER", lab.url)
    monkeypatch.setenv("NNSIGHT_LAB_TOKEN", TOKEN)

    with nl.connect() as connected:
        assert connected.url == lab.url
        assert connected.models()


def test_a_proxy_in_the_environment_is_not_used(
    lab: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    with nl.connect(lab.url, TOKEN) as connected:
        assert connected.models()


def test_the_same_program_gives_the_same_numbers_here_and_there(lab: Serving) -> None:
    here = nl.LanguageModel("tiny")
    with nl.connect(lab.url, TOKEN) as connected:
        there = connected.model("tiny")
        found = []
        for lm in (here, there):
            with lm.trace([PROMPT, "When Mary and John went to the store"]):
                hidden = lm.layers[2].output
                hidden[:, -1] += 2.0
                logits = lm.logits.save()
                pattern = lm.layers[4].attn.pattern.save()
            found.append((logits, pattern))
        with there.trace(PROMPT):
            clean = there.logits.save()

    (logits, pattern), (logits_there, pattern_there) = found
    assert torch.equal(logits_there, logits)
    assert torch.equal(pattern_there, pattern)
    assert not torch.allclose(clean[0, -1], logits[0, -1])


def test_a_remote_model_has_a_tokenizer_and_no_weights(lab: Serving) -> None:
    with nl.connect(lab.url, TOKEN) as connected:
        lm = connected.model("tiny")
        tokens = lm.tokenizer(PROMPT).input_ids

    assert tokens == nl.LanguageModel("tiny").tokenizer(PROMPT).input_ids
    assert not hasattr(lm.executor, "module")


def test_an_unknown_model_is_refused_with_the_nearest_and_the_list(lab: Serving) -> None:
    with nl.connect(lab.url, TOKEN) as connected, pytest.raises(ModelNotFound) as refused:
        connected.model("tinny")

    assert "Nearest: 'tiny'" in refused.value.hint
    assert "Served there: 'tiny'" in refused.value.hint


def test_a_wrong_token_is_seen_at_once(lab: Serving) -> None:
    with pytest.raises(AuthFailed):
        nl.connect(lab.url, "wrong")


def test_a_server_that_is_not_there_is_seen_at_once() -> None:
    with pytest.raises(ServerUnreachable):
        nl.connect("http://127.0.0.1:1")


def test_a_closed_lab_opens_again_with_the_next_call(lab: Serving) -> None:
    connected = nl.connect(lab.url, TOKEN)
    connected.close()

    assert connected.models()
    connected.close()


def assert_short(error: LabError) -> None:
    """One frame of ours, and no library's way through its own code."""
    shown = "".join(traceback.format_exception(error))
    assert frames_of_ours(error) <= 1
    assert "/websockets/" not in shown
    assert shown.count("Traceback") == 1


def test_errors_of_connecting_are_at_the_users_line(lab: Serving) -> None:
    with pytest.raises(AuthFailed) as wrong:
        nl.connect(lab.url, "wrong")  # wrong token
    with pytest.raises(ServerUnreachable) as nobody:
        nl.connect("http://127.0.0.1:1")  # nobody there
    with pytest.raises(ServerUnreachable) as nothing:
        nl.connect("not an address")  # no address

    assert_at(wrong.value, "wrong token")
    assert_at(nobody.value, "nobody there")
    assert_at(nothing.value, "no address")
    assert nobody.value.__cause__ is not None
    for error in (wrong.value, nobody.value, nothing.value):
        assert_short(error)


def test_errors_of_a_lab_are_at_the_users_line(lab: Serving) -> None:
    with nl.connect(lab.url, TOKEN) as connected:
        with pytest.raises(ModelNotFound) as unknown:
            connected.model("tinny")  # unknown model
        lm = connected.model("tiny")
        with pytest.raises(NotSupported) as module:
            lm.module  # noqa: B018 # its module

    assert_at(unknown.value, "unknown model")
    assert_at(module.value, "its module")
    assert_short(unknown.value)
    assert_short(module.value)


def test_errors_of_a_server_that_has_gone_are_at_the_users_line() -> None:
    with serving(("tiny", tiny_engine)) as running:
        connected = nl.connect(running.url, TOKEN)
        lm = connected.model("tiny")
    with pytest.raises(LabError) as gone:
        connected.models()  # gone
    with pytest.raises(LabError) as run, lm.trace(PROMPT):  # this run
        lm.logits.save()

    assert_at(gone.value, "gone")
    assert_at(run.value, "this run")
    assert_short(gone.value)
    assert_short(run.value)


def test_a_model_that_still_loads_is_listed_with_its_state() -> None:
    door = threading.Event()

    def load() -> Engine:
        assert door.wait(60.0)
        return tiny_engine()

    models = (ServedModel("slow", load),)
    with serving_models(models, wait_s=None) as lab, nl.connect(lab.url, TOKEN) as connected:
        (before,) = connected.models()
        shown = repr(before)
        door.set()
        assert next(iter(lab.catalogue)).settled.wait(60.0)
        (after,) = connected.models()

    assert (before.name, before.state, before.architecture) == ("slow", "loading", "")
    assert shown == "<slow: loading>"
    assert (after.state, after.architecture) == ("ready", "LlamaForCausalLM")
    assert "ready" not in repr(after)


def test_many_ids_may_end_a_row_and_too_many_are_refused_at_the_line(lab: Serving) -> None:
    here = nl.LanguageModel("tiny")
    with here.generate(PROMPT, max_new_tokens=6, eos_token_id=[]) as tracer:
        ids = tracer.result.save()
    end = int(ids[0, -4])
    others = [id for id in range(400) if id not in ids[0].tolist()][:200]
    with nl.connect(lab.url, TOKEN) as connected:
        lm = connected.model("tiny")
        with lm.generate(PROMPT, max_new_tokens=6, eos_token_id=[*others, end]) as tracer:
            there = tracer.result.save()
        with (
            pytest.raises(BadInput) as caught,
            lm.generate(PROMPT, max_new_tokens=2, eos_token_id=list(range(512)) * 9) as tracer,
        ):
            tracer.result.save()

    assert there.shape[1] < ids.shape[1]
    assert int(there[0, -1]) == end
    assert "4096" in str(caught.value)
