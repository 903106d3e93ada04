"""Laws of the queue as others see it: how many runs there are of a model, and nothing else of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import httpx
import pytest

import nnsight_lab as nl
from nnsight_lab.contract import Done, Failed, ModelCard, Queued
from nnsight_lab.errors import Cancelled
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab_server.config import ServedModel
from tests.server.lab_server import (
    TOKEN,
    GatedEngine,
    Run,
    Serving,
    reads,
    request_for,
    serving,
    serving_models,
    tiny_engine,
)
from tests.support.waiting import wait_until


@pytest.fixture
def gated() -> GatedEngine:
    return GatedEngine(tiny_engine())


@pytest.fixture
def running(gated: GatedEngine) -> Iterator[Serving]:
    with serving(("tiny", lambda: gated), ("other", tiny_engine)) as lab:
        yield lab
        gated.open()


def begun(lab: Serving, stack: ExitStack) -> Run:
    """A run of a client of its own."""
    client = lab.client()
    stack.callback(client.close)
    return Run(RemoteExecutor(client, "tiny"), request_for(reads("logits")))


def test_everybody_sees_how_many_run_and_wait(running: Serving, gated: GatedEngine) -> None:
    with ExitStack() as stack, nl.connect(running.url, TOKEN) as onlooker:

        def counts() -> list[tuple[str, int | None, int | None]]:
            return [(model.name, model.running, model.waiting) for model in onlooker.models()]

        before = counts(), repr(onlooker.models()[0])
        first = begun(running, stack)
        assert gated.running.wait(60.0)
        alone = counts()
        others = [begun(running, stack) for _ in range(2)]
        for run in others:
            run.wait_for(Queued)
        three, shown = counts(), repr(onlooker.models())
        gated.open()
        ends = [run.end() for run in (first, *others)]
        wait_until(lambda: counts() == before[0], 10, "an empty queue")
        after = repr(onlooker.models()[0])

    assert before[0] == [("tiny", 0, 0), ("other", 0, 0)]
    assert alone == [("tiny", 1, 0), ("other", 0, 0)]
    assert three == [("tiny", 1, 2), ("other", 0, 0)]
    assert "; 1 running, 2 waiting>" in shown.splitlines()[0]
    assert "running" not in shown.splitlines()[1]
    assert after == before[1]
    assert all(isinstance(end, Done) for end in ends)


def test_a_run_that_is_cancelled_while_it_waits_counts_no_more(
    running: Serving, gated: GatedEngine
) -> None:
    with ExitStack() as stack:
        onlooker, owner = running.client(), running.client()
        stack.callback(onlooker.close)
        stack.callback(owner.close)
        first = begun(running, stack)
        assert gated.running.wait(60.0)
        executor = RemoteExecutor(owner, "tiny")
        second = Run(executor, request_for(reads("logits")))
        second.wait_for(Queued)
        waiting = onlooker.models()[0].waiting
        executor.cancel(second.id)
        end = second.end()
        after = onlooker.models()[0]
        gated.open()
        first.end()

    assert waiting == 1
    assert isinstance(end, Failed)
    assert isinstance(end.error, Cancelled)
    assert (after.running, after.waiting) == (1, 0)


def test_only_numbers_are_told(running: Serving, gated: GatedEngine) -> None:
    with ExitStack() as stack:
        first = begun(running, stack)
        assert gated.running.wait(60.0)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        busy = httpx.get(f"{running.url}/models", headers=headers).json()["models"][0]
        gated.open()
        first.end()
        wait_until(lambda: _counts(running) == (0, 0), 10, "an empty queue")
        idle = httpx.get(f"{running.url}/models", headers=headers).json()["models"][0]

    assert {name for name in busy if busy[name] != idle[name]} == {"running"}
    assert first.id not in json.dumps(busy)


class Short(GatedEngine):
    """The same, which says that it takes no more than eight tokens."""

    def card(self) -> ModelCard:
        card = self.engine.card()
        return replace(card, context=8, capabilities=replace(card.capabilities, engine="short"))


def test_runs_on_all_engines_of_a_model_are_counted_together() -> None:
    engines = Short(tiny_engine()), GatedEngine(tiny_engine())
    model = ServedModel("tiny", lambda: engines[0], (lambda: engines[1],))
    rows = ((3, 4, 5, 6),), (tuple(range(3, 15)),)
    with serving_models((model,)) as lab, ExitStack() as stack:
        client = lab.client()
        stack.callback(client.close)
        executor = RemoteExecutor(client, "tiny")
        runs = [Run(executor, request_for(reads("logits"), each)) for each in rows]
        both = all(engine.running.wait(60.0) for engine in engines)
        counts = _counts(lab)
        for engine in engines:
            engine.open()
        ends = [run.end() for run in runs]

    assert both
    assert counts == (2, 0)
    assert all(isinstance(end, Done) for end in ends)


def _counts(lab: Serving) -> tuple[int | None, int | None]:
    found = lab.catalogue.summaries()[0]
    return found.running, found.waiting
