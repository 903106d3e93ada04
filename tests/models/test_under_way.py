"""Runs under way: who watches is told of every event, on every thread, and may cancel."""

from __future__ import annotations

import threading

import pytest

import nnsight_lab as nl
from nnsight_lab.contract import Accepted, Done, Failed, RunEvent, Saved, Started, Token
from nnsight_lab.errors import Cancelled
from nnsight_lab.models.under_way import RunUnderWay, runs_under_way, watching

Heard = list[tuple[RunUnderWay, RunEvent | None]]


@pytest.fixture(scope="module")
def lm() -> nl.LanguageModel:
    return nl.LanguageModel("tiny")


def test_a_watcher_hears_every_event_of_a_run(lm: nl.LanguageModel) -> None:
    heard: Heard = []
    with watching(lambda run, event: heard.append((run, event))), lm.trace("The capital"):
        lm.logits.save()
    assert [type(event) for _, event in heard] == [type(None), Accepted, Started, Saved, Done]
    run = heard[0][0]
    assert all(other is run for other, _ in heard)
    assert (run.model, run.prompt, run.thread) == (lm, "The capital", threading.get_ident())


def test_nothing_is_heard_after_the_block(lm: nl.LanguageModel) -> None:
    heard: Heard = []
    with watching(lambda run, event: heard.append((run, event))):
        pass
    with lm.trace("The capital"):
        lm.logits.save()
    assert heard == []


def test_a_run_is_under_way_until_it_ended(lm: nl.LanguageModel) -> None:
    counts: list[int] = []
    with (
        watching(lambda run, event: counts.append(runs_under_way().count(run))),
        lm.trace("The capital"),
    ):
        lm.logits.save()
    assert set(counts) == {1}
    assert runs_under_way() == ()


def test_a_watcher_can_cancel(lm: nl.LanguageModel) -> None:
    endings: list[RunEvent | None] = []

    def watcher(run: RunUnderWay, event: RunEvent | None) -> None:
        endings.append(event)
        if isinstance(event, Token):
            run.cancel()

    with watching(watcher), pytest.raises(Cancelled):
        with lm.generate("The capital", max_new_tokens=20) as tracer:
            for _ in tracer.iter[:]:
                lm.logits.save()
    assert isinstance(endings[-1], Failed)
    assert sum(isinstance(event, Token) for event in endings) == 1


def test_runs_of_other_threads_are_heard_too(lm: nl.LanguageModel) -> None:
    threads: set[int] = set()

    def trace() -> None:
        with lm.trace("The capital"):
            lm.logits.save()

    with watching(lambda run, event: threads.add(run.thread)):
        worker = threading.Thread(target=trace)
        worker.start()
        worker.join()
    assert len(threads) == 1
    assert threading.get_ident() not in threads
