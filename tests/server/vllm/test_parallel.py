"""Two workers for one model: each layer over both (tensor parallel), or half the layers each.

Real processes, as a server starts them. Hugging Face is the truth, as everywhere. On this machine
neither several devices nor several machines can be tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.contract import Done, Failed, Generation, RunRequest, Saved, TokenRows
from nnsight_lab.errors import LimitExceeded, NotSupported
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.executors.remote_values import from_wire
from nnsight_lab.ir import Address, Graph
from nnsight_lab.passes import Part, Stages
from nnsight_lab.settings import Settings
from nnsight_lab_server.engines import vllm_run
from nnsight_lab_server.engines.vllm_engine import VllmEngine, load_vllm
from nnsight_lab_server.vllm import async_driver
from nnsight_lab_server.vllm.options import VllmOptions
from nnsight_lab_server.vllm.plan import Plan
from tests.server.vllm.disagreeing import ABSENT_ONCE
from tests.support.vllm_models import D_MODEL, vllm_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROMPT = list(range(3, 23))
OTHER = list(range(40, 71))
TOWARDS = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(3))
CLOSE = 1e-5


def started(**options: Any) -> VllmEngine:
    """A step has room for 24 tokens, so prompts of 31 come in chunks."""
    module, folder = vllm_model("llama")
    chosen = VllmOptions(context=128, batch_tokens=24, kv_cache_gib=1 / 64, **options)
    engine = load_vllm(
        "llama", str(folder), Settings(), options=chosen, executor=lambda: LocalExecutor(module)
    )
    assert isinstance(engine, VllmEngine)
    return engine


@pytest.fixture(scope="module")
def tensor() -> Iterator[VllmEngine]:
    engine = started(tensor=2)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def pipeline() -> Iterator[VllmEngine]:
    engine = started(pipeline=2)
    yield engine
    engine.close()


@pytest.fixture(params=["tensor", "pipeline"])
def engine(request: pytest.FixtureRequest) -> VllmEngine:
    found: VllmEngine = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def lm() -> nl.LanguageModel:
    return nl.LanguageModel(vllm_model("llama")[0])


def admitted(engine: VllmEngine, graph: Graph, inputs: TokenRows) -> None:
    card = engine.card()
    engine.check(graph, Stages((Part(inputs, card.tree, card.decode),)))


def assert_same(engine: VllmEngine, tracer: Any, inputs: TokenRows) -> None:
    """What the engine gives is what the run on Hugging Face gave."""
    told: list[Any] = []
    admitted(engine, tracer.graph, inputs)
    engine.run(RunRequest("run", tracer.graph, inputs), told.append)
    assert isinstance(told[-1], Done), told[-1]
    values = {event.name: from_wire(event.value) for event in told if isinstance(event, Saved)}
    assert values.keys() == set(tracer.run)
    assert values
    for name, value in values.items():
        expected = tracer.run[name]
        scale = max(1.0, float(expected.abs().max()))
        assert float((value - expected).abs().max()) <= CLOSE * scale, name


def rows(*prompts: list[int], steps: int = 0) -> TokenRows:
    generation = Generation(steps, stop_ids=()) if steps else None
    return TokenRows(tuple(map(tuple, prompts)), generation)


def test_every_place_is_read_whole(engine: VllmEngine, lm: nl.LanguageModel) -> None:
    with lm.trace(OTHER) as tracer:
        for layer in lm.layers:
            layer.output.save()
            layer.attn.q.save()
            layer.attn.k.save()
            layer.attn.v.save()
            layer.attn.z.save()
            layer.attn.pattern.save()
            layer.mlp.neurons.save()
        lm.norm.output.save()
        lm.logits.save()
    assert_same(engine, tracer, rows(OTHER))


def test_edits_reach_all_workers(engine: VllmEngine, lm: nl.LanguageModel) -> None:
    with lm.trace(OTHER) as plain:
        logits = lm.logits.save()
    before = logits
    with lm.trace(OTHER) as tracer:
        lm.layers[0].attn.z[:, :, 3] = 0.0
        lm.layers[0].mlp.neurons[:, -4:, 100:] *= 3.0
        lm.layers[1].attn.pattern[:, 1, :, 0] = 0.0
        lm.layers[1].attn.q[:, :, 0] += 1.0
        lm.layers[2].output[:, -1] += 2 * TOWARDS
        logits = lm.logits.save()
    assert float((logits - before).abs().max()) > 0.1
    assert_same(engine, plain, rows(OTHER))
    assert_same(engine, tracer, rows(OTHER))


def test_a_value_of_one_prompt_goes_into_another(engine: VllmEngine, lm: nl.LanguageModel) -> None:
    with lm.trace() as tracer:
        with tracer.invoke(PROMPT):
            source = lm.layers[0].output[:, -1]
        with tracer.invoke(OTHER):
            lm.layers[2].output[:, -1] = source
            lm.logits[:, -1].save()
    assert_same(engine, tracer, rows(PROMPT, OTHER))


def test_texts_are_steered_as_they_grow(engine: VllmEngine, lm: nl.LanguageModel) -> None:
    with lm.generate(OTHER, max_new_tokens=6, eos_token_id=[]) as tracer:
        for _ in tracer.iter[:]:
            lm.layers[0].output[:] += TOWARDS
            lm.logits[:, -1].save()
        tracer.result.save()
    assert_same(engine, tracer, rows(OTHER, steps=6))


def test_a_run_that_takes_too_long_ends_in_all_workers(
    engine: VllmEngine, lm: nl.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lm.generate(PROMPT, max_new_tokens=20, eos_token_id=[]) as tracer:
        for _ in tracer.iter[:]:
            lm.layers[0].output[:] += TOWARDS
        lm.logits[:, -1].save()
    inputs, told = rows(PROMPT, steps=20), list[Any]()
    with monkeypatch.context() as patched:
        patched.setattr(vllm_run, "Plan", partial(Plan, seconds=0.0))
        engine.run(RunRequest("late", tracer.graph, inputs), told.append)

    assert isinstance(told[-1], Failed)
    assert isinstance(told[-1].error, LimitExceeded)
    assert engine._driver is not None
    assert all(stats["runs"] == 0 for stats in engine._driver.rpc("lab_stats"))
    assert_same(engine, tracer, inputs)


def test_each_worker_has_a_part_and_the_forms_say_so(tensor: VllmEngine) -> None:
    assert tensor._learned is not None
    forms = tensor._learned.served.forms
    assert forms[Address("layers.1.attn", "z")].parted
    assert not forms[Address("layers.1", "output")].parted


def test_modules_and_weights_are_used_whole(engine: VllmEngine, lm: nl.LanguageModel) -> None:
    """Calls that need both workers: of parts of a matrix, of a sum over them, of the vocabulary."""
    with lm.trace(OTHER) as tracer:
        hidden = lm.layers[1].output
        lm.lm_head(lm.norm(hidden)).save()
        lm.layers[2].mlp.down_proj(lm.layers[2].mlp.neurons).save()
    assert_same(engine, tracer, rows(OTHER))


def test_workers_find_the_modules_that_can_be_called(tensor: VllmEngine) -> None:
    """They compare together, which goes wrong unless all have the same order."""
    layer = [f"model.layers.1.{name}" for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp")]
    assert {"lm_head", "model.norm", *layer} <= tensor._callables.routes.keys()


def test_workers_that_find_different_things_do_not_wait_for_each_other_for_ever() -> None:
    """Which modules can be called is found out by calling them, which needs all workers."""
    engine = started(tensor=2, extension="tests.server.vllm.disagreeing.Disagreeing")
    try:
        assert engine._driver is not None
        assert engine._callables.routes == {}
        assert [stats["runs"] for stats in engine._driver.rpc("lab_stats")] == [0, 0]
    finally:
        engine.close()


def test_a_start_whose_workers_wait_for_each_other_is_made_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    absent = tmp_path / "absent"
    absent.touch()
    monkeypatch.setenv(ABSENT_ONCE, str(absent))
    monkeypatch.setattr(async_driver, "_LEAST_CALL_S", 0.0)
    options = {"tensor": 2, "step_s": 20}
    engine = started(extension="tests.server.vllm.disagreeing.AbsentOnce", **options)
    try:
        assert not absent.exists()
        assert "have not answered lab_check within 20 s" in caplog.text
        assert "lm_head" in engine._callables.routes
    finally:
        engine.close()


def test_an_earlier_stage_cannot_have_a_later_ones_value(
    pipeline: VllmEngine, lm: nl.LanguageModel
) -> None:
    with lm.generate(PROMPT, max_new_tokens=3, eos_token_id=[]) as tracer:
        late = None
        for step in tracer.iter[:]:
            if late is not None and step is not None:
                lm.layers[0].output[:, -1] += late
            late = lm.layers[2].output[:, -1]
        lm.logits.save()
    with pytest.raises(NotSupported, match="which comes later") as caught:
        admitted(pipeline, tracer.graph, rows(PROMPT, steps=3))
    assert caught.value.where is not None
