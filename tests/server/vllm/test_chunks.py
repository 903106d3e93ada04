"""Prompts that come in chunks: edits by row are made at once, others after the prompt came once more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.contract import Done, RunRequest, Saved, TokenRows
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.executors.remote_values import from_wire
from nnsight_lab.settings import Settings
from nnsight_lab_server.engines.vllm_engine import VllmEngine, load_vllm
from nnsight_lab_server.vllm.options import VllmOptions
from tests.support.vllm_models import D_MODEL, HEADS, vllm_model

PROMPT = list(range(3, 43))
TOWARDS = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(3))
CLOSE = 1e-5


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    module, folder = vllm_model("llama")
    options = VllmOptions(context=128, batch_tokens=16, kv_cache_gib=1 / 64)
    made = load_vllm(
        "llama",
        str(folder),
        Settings(),
        options=options,
        executor=lambda: LocalExecutor(module),
        one_process=True,
    )
    assert isinstance(made, VllmEngine)
    yield made
    made.close()


@pytest.fixture(scope="module")
def lm() -> nl.LanguageModel:
    return nl.LanguageModel(vllm_model("llama")[0])


def requests_of(engine: VllmEngine, tracer: Any, prompt: list[int]) -> int:
    """Run on vLLM, compare with Hugging Face; how many requests of vLLM's it took."""
    driver: Any = engine._driver
    names: list[str] = []
    submit = driver.submit
    told: list[Any] = []

    def counted(requests: Any) -> None:
        names.extend(request.id for request in requests)
        submit(requests)

    driver.submit = counted
    try:
        engine.run(RunRequest("run", tracer.graph, TokenRows((tuple(prompt),))), told.append)
    finally:
        del driver.submit
    assert isinstance(told[-1], Done), told[-1]
    values = {event.name: from_wire(event.value) for event in told if isinstance(event, Saved)}
    assert values
    for name, value in values.items():
        expected = tracer.run[name]
        assert float((value - expected).abs().max()) <= CLOSE * float(expected.abs().max())
    return len(names)


def test_an_edit_by_row_takes_one_request(engine: VllmEngine, lm: nl.LanguageModel) -> None:
    with lm.trace(PROMPT) as tracer:
        for layer in lm.layers:
            layer.output[:] += TOWARDS
            layer.mlp.output[:, -1] *= 0.5
        lm.layers[2].output.save()
        lm.logits[:, -1].save()
    assert requests_of(engine, tracer, PROMPT) == 1


def test_an_edit_that_needs_all_rows_takes_another(
    engine: VllmEngine, lm: nl.LanguageModel
) -> None:
    with lm.trace(PROMPT) as tracer:
        h = lm.layers[0].output
        lm.layers[0].output = h - h.mean(1, keepdim=True)
        lm.layers[2].output.save()
        lm.logits[:, -1].save()
    assert requests_of(engine, tracer, PROMPT) == 2


def test_an_edit_of_an_earlier_place_by_a_later_row_takes_none_more_than_needed(
    engine: VllmEngine, lm: nl.LanguageModel
) -> None:
    with lm.trace(PROMPT) as tracer:
        lm.layers[1].output[:, 0] = lm.layers[0].output[:, -1]  # known when the last chunk came
        lm.layers[2].output[:] += TOWARDS
        lm.logits[:, -1].save()
    assert requests_of(engine, tracer, PROMPT) == 2


@pytest.mark.parametrize("length", [HEADS, HEADS + 1])
def test_patterns_are_square_sometimes(
    engine: VllmEngine, lm: nl.LanguageModel, length: int
) -> None:
    """As many tokens as heads: the axes of a pattern cannot be told apart by their sizes."""
    prompt = PROMPT[:length]
    with lm.trace(prompt) as tracer:
        lm.layers[1].attn.pattern[:, 1, :, 0] = 0.0
        lm.layers[1].attn.pattern[:, 2] *= 2.0
        lm.layers[2].attn.pattern.save()
        lm.logits.save()
    assert requests_of(engine, tracer, prompt) == 1
