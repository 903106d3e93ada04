"""Rows of one run that come by at different times: each gets its own values, and the run its end.

An engine step here has room for 32 tokens, so that a long prompt comes in chunks while a short one
of the same run goes on. What is expected is what the same graph gives at home.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

import nnsight_lab as nl
from nnsight_lab.contract import Done, Failed, Generation, RunRequest, Saved, Token, TokenRows
from nnsight_lab.errors import EngineFailed
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.executors.remote_values import from_wire
from nnsight_lab.ir import Address, Graph, Output, Read
from nnsight_lab.settings import Settings
from nnsight_lab_server.engines import vllm_run
from nnsight_lab_server.engines.vllm_engine import VllmEngine, load_vllm
from nnsight_lab_server.vllm import messages as m
from nnsight_lab_server.vllm.driver import Request
from nnsight_lab_server.vllm.forms import Point
from nnsight_lab_server.vllm.options import VllmOptions
from nnsight_lab_server.vllm.plan import Errand, Plan
from nnsight_lab_server.vllm.served_bytes import served_to_bytes
from tests.support.vllm_models import HEADS, VOCAB, vllm_model

CLOSE = 1e-4
SHORT = [5, 9, 2, 31, 7]
LONG = [(7 * place) % (VOCAB - 1) + 1 for place in range(110)]


@dataclass
class Told:
    """What a run has told."""

    values: dict[str, Any] = field(default_factory=dict)
    tokens: list[tuple[int, ...]] = field(default_factory=list)
    end: Done | Failed | None = None

    def take(self, event: Any) -> None:
        match event:
            case Saved(name=name, value=value):
                self.values[name] = value if torch.is_tensor(value) else from_wire(value)
            case Token(ids=ids):
                self.tokens.append(ids)
            case Done() | Failed():
                self.end = event


@pytest.fixture(scope="module")
def hf() -> Any:
    return vllm_model("llama")[0]


@pytest.fixture(scope="module")
def lm(hf: Any) -> nl.LanguageModel:
    return nl.LanguageModel(hf)


@pytest.fixture(scope="module")
def engine(hf: Any) -> Iterator[VllmEngine]:
    options = VllmOptions(context=128, batch_tokens=32, kv_cache_gib=1 / 64)
    where = str(vllm_model("llama")[1])
    here = LocalExecutor(hf)
    made = load_vllm(
        "llama", where, Settings(), options=options, executor=lambda: here, one_process=True
    )
    assert isinstance(made, VllmEngine)
    yield made
    made.close()


def run(engine: Any, graph: Graph, inputs: TokenRows, name: str = "r") -> Told:
    told = Told()
    engine.run(RunRequest(name, graph, inputs), told.take)
    return told


def assert_the_same(one: Told, other: Told) -> None:
    assert isinstance(one.end, Done), one.end
    assert isinstance(other.end, Done), other.end
    assert one.tokens == other.tokens
    assert one.values.keys() == other.values.keys()
    for name, value in other.values.items():
        assert one.values[name].shape == value.shape
        assert (one.values[name].double() - value.double()).abs().max() <= CLOSE, name


def reading(step: int = 0) -> Graph:
    place = Address("layers.1", "output")
    return Graph((Read(id=0, address=place, step=step),), (Output("h", 0),))


def test_a_pattern_of_as_many_positions_as_heads_is_edited_along_the_right_axis(
    engine: VllmEngine, hf: Any, lm: nl.LanguageModel
) -> None:
    ids = LONG[:HEADS]
    with lm.trace(ids) as tracer:
        lm.layers[1].attn.pattern[:, 0] *= 0.25
        lm.logits.save()
    with lm.trace(ids) as plain:
        lm.logits.save()
    inputs = TokenRows((tuple(ids),))

    found, expected = (run(each, tracer.graph, inputs) for each in (engine, LocalExecutor(hf)))
    clean = run(LocalExecutor(hf), plain.graph, inputs)

    assert_the_same(found, expected)
    (edited,), (untouched,) = expected.values.values(), clean.values.values()
    assert (edited - untouched).abs().max() > 100 * CLOSE


def test_logits_edited_of_one_prompt_choose_nothing_for_another(
    engine: VllmEngine, hf: Any, lm: nl.LanguageModel
) -> None:
    with lm.generate(max_new_tokens=4, eos_token_id=[]) as tracer:
        with tracer.invoke(SHORT):
            for _ in tracer.iter[:]:
                lm.logits[:, -1] *= -1.0
            tracer.result.save()
        with tracer.invoke(LONG):
            tracer.result.save()
    inputs = TokenRows((tuple(SHORT), tuple(LONG)), Generation(4, stop_ids=()))

    found, expected = (run(each, tracer.graph, inputs) for each in (engine, LocalExecutor(hf)))

    assert_the_same(found, expected)


def test_a_text_that_is_complete_does_not_come_again(
    engine: VllmEngine, hf: Any, lm: nl.LanguageModel
) -> None:
    steps = 3
    with lm.generate(max_new_tokens=steps, eos_token_id=[]) as tracer:
        with tracer.invoke(SHORT):
            for _ in tracer.iter[steps - 1]:
                lm.tokens[:] = 3
        with tracer.invoke(LONG):
            for _ in tracer.iter[0]:
                lm.layers[2].output[:, -1].save()
            tracer.result.save()
    inputs = TokenRows((tuple(SHORT), tuple(LONG)), Generation(steps, stop_ids=()))

    found, expected = (run(each, tracer.graph, inputs) for each in (engine, LocalExecutor(hf)))

    assert_the_same(found, expected)


def test_a_run_that_is_forgotten_before_it_comes_is_not_begun(engine: VllmEngine) -> None:
    driver = engine._driver
    assert driver is not None
    inputs = TokenRows((tuple(SHORT),), Generation(9, stop_ids=()))
    plan = Plan(reading(step=8), (inputs,)).to_bytes()
    errand = Errand("early", 0, 0, 0, plan).to_plain()

    driver.rpc("lab_forget", "early")
    driver.submit([Request("early/0/0/0", tuple(SHORT), 1, salt="early", extra=errand)])

    wait_for(lambda: driver.under_way == 0)
    assert engine.stats()["runs"] == 0
    assert engine.stats()["points"] == 0


def test_a_run_that_ends_on_the_way_to_the_server_ends_in_the_worker(
    engine: VllmEngine, lm: nl.LanguageModel
) -> None:
    graph, inputs = long_one(lm)
    told = Told()
    thread = threading.Thread(target=engine.run, args=(RunRequest("r", graph, inputs), told.take))
    thread.start()
    wait_for(lambda: len(told.tokens) > 2)
    name = engine._runs["r"].name
    engine._hear(m.Failed(name, EngineFailed("A value is lost.", hint="Run it once more.")))
    thread.join()

    assert isinstance(told.end, Failed)
    wait_for(lambda: engine.stats()["runs"] == 0)
    assert engine.stats()["points"] == 0


def test_a_run_whose_requests_are_gone_ends(
    engine: VllmEngine, lm: nl.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_run, "PATIENCE_S", 0.2)
    graph, inputs = long_one(lm)
    told = Told()
    thread = threading.Thread(target=engine.run, args=(RunRequest("r", graph, inputs), told.take))
    thread.start()
    wait_for(lambda: len(told.tokens) > 2)
    assert engine._driver is not None
    engine._driver.abort([f"{engine._runs['r'].name}/0/0/0"])
    thread.join(20.0)

    assert not thread.is_alive()
    assert isinstance(told.end, Failed)
    assert "ended" in str(told.end.error)
    wait_for(lambda: engine.stats()["runs"] == 0)


def test_a_place_that_is_not_there_ends_the_run_and_not_the_engine(engine: VllmEngine) -> None:
    driver, learned = engine._driver, engine._learned
    assert driver is not None
    assert learned is not None
    served = replace(learned.served, routes=engine._callables.routes)
    address = Address("layers.1", "output")
    wrong = replace(served.forms[address], point=Point("after", "model.layers.99"))
    inputs = TokenRows((tuple(SHORT),))

    driver.rpc(
        "lab_serve", served_to_bytes(replace(served, forms={**served.forms, address: wrong}))
    )
    told = run(engine, reading(), inputs)
    driver.rpc("lab_serve", served_to_bytes(served))

    assert isinstance(told.end, Failed)
    assert isinstance(run(engine, reading(), inputs).end, Done)


def long_one(lm: nl.LanguageModel) -> tuple[Graph, TokenRows]:
    with lm.generate(SHORT, max_new_tokens=100, eos_token_id=[]) as tracer:
        for _ in tracer.iter[:]:
            lm.layers[1].output[:, -1].save()
    return tracer.graph, TokenRows((tuple(SHORT),), Generation(100, stop_ids=()))


def wait_for(true: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)
