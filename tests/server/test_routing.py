"""A model may have several engines: a run goes to the first that can, and is told which and why."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import nnsight_lab as nl
from nnsight_lab.contract import Accepted, Done, Emit, ModelCard, RunRequest
from nnsight_lab.errors import LimitExceeded, NotSupported
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.ir import Graph, ModuleSource
from nnsight_lab.passes import Stages
from nnsight_lab_server.config import ServedModel, ServerLimits
from nnsight_lab_server.engines.base import Engine
from tests.server.lab_server import (
    TOKEN,
    GatedEngine,
    Run,
    Serving,
    reads,
    request_for,
    serving_models,
    tiny_engine,
)

PROMPT = "The old man put the book on"


class Lesser:
    """The real engine, which says that it can do less: ten nodes in a graph, 64 tokens in a prompt."""

    def __init__(self) -> None:
        self.engine = tiny_engine()
        card = self.engine.card()
        able = replace(
            card.capabilities,
            engine="lesser",
            features=card.capabilities.features - {"gradient", "source"},
        )
        self._card = replace(card, capabilities=able, context=64)

    def card(self) -> ModelCard:
        return self._card

    def source_of(self, path: str) -> ModuleSource:
        return self.engine.source_of(path)

    def check(self, graph: Graph, stages: Stages) -> None:
        if len(graph.nodes) > 10:
            raise NotSupported(f"More than {10 * len(stages.parts)} nodes.", hint="Use fewer.")

    def run(self, request: RunRequest, emit: Emit) -> None:
        self.engine.run(request, emit)

    def cancel(self, run_id: str) -> None:
        self.engine.cancel(run_id)

    def close(self) -> None:
        self.engine.close()


@pytest.fixture(scope="module")
def lab() -> Iterator[Serving]:
    models = (
        ServedModel("tiny", Lesser, (tiny_engine,)),
        ServedModel("small", Lesser),
    )
    with serving_models(models) as running:
        yield running


@pytest.fixture(scope="module")
def lm(lab: Serving) -> Any:
    return nl.connect(lab.url, token=TOKEN).model("tiny")


def test_the_first_engine_takes_what_it_can(lm: Any) -> None:
    with lm.trace(PROMPT) as tracer:
        _ = lm.logits.save()

    assert (tracer.run.engine, tracer.run.why) == ("lesser", "")
    assert "lesser" not in repr(tracer.run)


def test_a_gradient_goes_to_the_next_and_the_run_says_why(lm: Any) -> None:
    with lm.trace(PROMPT) as tracer:
        h = lm.layers[1].output
        with lm.logits.sum().backward():
            grad = h.grad.save()

    assert grad.abs().sum() > 0
    assert tracer.run.engine == "transformers"
    assert "lesser, which computes no gradients" in tracer.run.why
    assert "ran on transformers: " in repr(tracer.run)


def test_operations_inside_a_module_go_to_the_next(lm: Any) -> None:
    with lm.trace(PROMPT) as tracer:
        source = lm.model.layers[0].mlp.source
        inside = getattr(source, next(name for name in dir(source) if name.startswith("mul")))
        _ = inside.output.save()

    assert tracer.run.engine == "transformers"
    assert "no source of it" in tracer.run.why


def test_a_prompt_too_long_for_the_first_goes_to_the_next(lm: Any) -> None:
    with lm.trace([3] * 65) as tracer:
        _ = lm.logits[:, -1].save()

    assert tracer.run.engine == "transformers"
    assert "65 tokens" in tracer.run.why


def test_what_an_engine_refuses_by_itself_goes_to_the_next(lm: Any) -> None:
    with lm.trace(PROMPT) as tracer:
        h = lm.layers[1].output
        for _ in range(12):
            h = h + 1.0
        _ = h.save()

    assert tracer.run.engine == "transformers"
    assert "More than 10 nodes" in tracer.run.why


def test_where_no_engine_can_the_last_one_says_so_at_the_line(lab: Serving) -> None:
    small = nl.connect(lab.url, token=TOKEN).model("small")
    with pytest.raises(NotSupported) as caught, small.trace(PROMPT):
        h = small.layers[1].output
        with small.logits.sum().backward():
            _ = h.grad.save()  # here

    assert "# here" in str(caught.value)
    assert "--engine auto" in caught.value.hint


def test_a_model_lists_all_its_engines_and_is_described_by_the_last(lab: Serving, lm: Any) -> None:
    summary = next(each for each in lab.catalogue.summaries() if each.name == "tiny")

    assert summary.engine == "lesser, transformers"
    assert "gradient" in lm.card.capabilities.features


def test_one_engine_is_not_worth_a_word(lab: Serving) -> None:
    small = nl.connect(lab.url, token=TOKEN).model("small")
    with small.trace(PROMPT) as tracer:
        _ = small.logits.save()

    assert (tracer.run.engine, tracer.run.why) == ("", "")


def test_a_run_that_takes_too_long_fails_and_its_engine_is_told() -> None:
    gates: list[GatedEngine] = []

    def load() -> Engine:
        gates.append(GatedEngine(tiny_engine()))
        return gates[0]

    with serving_models((ServedModel("tiny", load),), limits=ServerLimits(run_s=0.2)) as lab:
        client = lab.client()
        run = Run(RemoteExecutor(client, "tiny"), request_for(reads("logits")))
        try:
            last = run.end()
        finally:
            gates[0].open()
        for _ in range(200):
            if gates[0].cancelled:
                break
            threading.Event().wait(0.02)
        again = request_for(reads("logits"))
        Run(RemoteExecutor(client, "tiny"), again).wait_for(Accepted)
        client.close()

    assert isinstance(last.error, LimitExceeded)  # type: ignore[union-attr]
    assert "0.2 s" in str(last.error)  # type: ignore[union-attr]
    assert gates[0].cancelled


class Deaf(GatedEngine):
    """An engine that goes on with what it was told to stop."""

    def cancel(self, run_id: str) -> None:
        self.cancelled.append(run_id)


def test_what_a_run_makes_after_it_took_too_long_does_not_count_as_waiting() -> None:
    """It is told to nobody; were it counted, the client's next run would wait for ever."""
    engine = Deaf(tiny_engine())
    limits = ServerLimits(run_s=0.2, backlog_bytes=1)
    with serving_models((ServedModel("tiny", lambda: engine),), limits=limits) as lab:
        client = lab.client()
        executor = RemoteExecutor(client, "tiny")
        run = Run(executor, request_for(reads("layers.0.output", "logits")))
        try:
            last = run.end()
        finally:
            engine.open()
        again = Run(executor, request_for(reads("logits")))
        ended = again.wait_for(Done)
        client.close()

    assert isinstance(last.error, LimitExceeded)  # type: ignore[union-attr]
    assert isinstance(ended, Done)
