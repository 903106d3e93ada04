"""A vLLM that is not as we know it is told apart before anybody is served, in words."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")

from nnsight_lab_server.vllm.install import missing


def test_a_worker_without_a_runner_is_told_apart() -> None:
    assert missing(SimpleNamespace()) == ["the worker has no model_runner"]


def test_what_is_missing_is_listed_line_by_line() -> None:
    batch = SimpleNamespace(req_ids=[])
    runner = SimpleNamespace(execute_model=None, input_batch=batch, model=SimpleNamespace())

    found = missing(SimpleNamespace(model_runner=runner))

    assert "model_runner has no requests" in found
    assert "input_batch has no num_computed_tokens_cpu" in found
    assert "the model has no compute_logits" in found
    assert not any("execute_model" in line or "req_ids" in line for line in found)
    assert not any("SchedulerOutput" in line for line in found)  # this vLLM is the right one


def test_speculative_decoding_is_told_apart() -> None:
    config = SimpleNamespace(speculative_config=object())
    runner = SimpleNamespace(vllm_config=config)

    assert any("speculative" in line for line in missing(SimpleNamespace(model_runner=runner)))
