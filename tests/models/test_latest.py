"""`Latest`: one run at a time, superseded runs are cancelled, the last position always wins."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nnsight_lab as nl
from nnsight_lab.contract import Done, RunEvent, Token
from nnsight_lab.errors import BadSlider, Cancelled
from nnsight_lab.models.latest import Latest
from nnsight_lab.models.under_way import RunUnderWay, runs_under_way, watching

Delivered = list[tuple[float, Any]]


@pytest.fixture(scope="module")
def lm() -> nl.LanguageModel:
    return nl.LanguageModel("tiny")


def _steered(lm: nl.LanguageModel, tokens: int = 0) -> Any:
    block = (
        lm.generate("The", max_new_tokens=tokens, eos_token_id=[])
        if tokens
        else lm.trace("The capital of")
    )
    with block as tracer:
        strength = nl.slider("strength", 0, 100)
        lm.layers[2].output[:, -1] += strength
        logits = lm.logits[:, -1].save()  # noqa: F841
        text = tracer.result.save() if tokens else None  # noqa: F841
    return tracer.run


class _Counted:
    """Counts how many calls are under way at once, and takes its time."""

    def __init__(self, seconds: float) -> None:
        self.most = self.now = self.calls = 0
        self.seconds = seconds
        self._lock = threading.Lock()

    def __call__(self, wanted: int) -> int:
        with self._lock:
            self.now += 1
            self.calls += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        with self._lock:
            self.now -= 1
        return wanted


@given(
    pauses=st.lists(st.sampled_from([0.0, 0.0, 0.001, 0.004]), min_size=1, max_size=30),
    seconds=st.sampled_from([0.0, 0.001, 0.003]),
)
@settings(max_examples=60, deadline=None)
def test_the_last_wins_and_the_order_holds(pauses: list[float], seconds: float) -> None:
    delivered: list[int] = []
    find = _Counted(seconds)
    latest = Latest(find, lambda wanted, found: delivered.append(found))
    for number, pause in enumerate(pauses):
        latest.want(number)
        time.sleep(pause)
    assert latest.wait(10)
    assert delivered[-1] == len(pauses) - 1
    assert delivered == sorted(set(delivered))
    assert find.most == 1
    assert not latest.busy


def test_many_threads_want_at_once() -> None:
    delivered: list[int] = []
    find = _Counted(0.0005)
    latest = Latest(find, lambda wanted, found: delivered.append(found))
    last = [0]
    lock = threading.Lock()

    def hand() -> None:
        for _ in range(200):
            with lock:
                last[0] += 1
                latest.want(last[0])
            time.sleep(random.random() * 0.001)

    hands = [threading.Thread(target=hand) for _ in range(8)]
    for each in hands:
        each.start()
    for each in hands:
        each.join()
    assert latest.wait(10)
    assert delivered[-1] == 1600
    assert delivered == sorted(set(delivered))
    assert find.most == 1
    assert 1 < find.calls < 1600


def test_one_thread_runs_what_is_wanted_now_and_then_and_ends_by_itself() -> None:
    ran: list[threading.Thread] = []
    latest: Latest[int, None] = Latest(
        lambda wanted: ran.append(threading.current_thread()),
        lambda wanted, found: None,
        idle_s=0.5,
    )
    for number in range(3):
        latest.want(number)
        assert latest.wait(5)
        assert not latest.busy
        time.sleep(0.02)
    assert len(set(ran)) == 1
    assert ran[0].daemon  # a program that ends does not wait for it
    ran[0].join(5)
    assert not ran[0].is_alive()

    latest.want(4)
    assert latest.wait(5)
    assert len(ran) == 4
    latest.cancel()
    assert not latest.busy


def test_a_cancel_between_two_runs_leaves_it_usable() -> None:
    delivered: list[int] = []
    latest: Latest[int, int] = Latest(
        lambda wanted: wanted, lambda wanted, found: delivered.append(found), idle_s=0.2
    )
    for number in range(300):
        latest.want(number)
        latest.cancel()
    latest.want(-1)
    assert latest.wait(5)
    assert delivered[-1] == -1


def test_a_moved_slider_ends_where_it_was_left(lm: nl.LanguageModel) -> None:
    run = _steered(lm)
    delivered: Delivered = []
    most = [0]

    def watch(one: RunUnderWay, event: RunEvent | None) -> None:
        most[0] = max(most[0], len(runs_under_way()))

    latest: Latest[float, nl.Run] = Latest(
        lambda at: run.at(strength=at), lambda at, found: delivered.append((at, found["logits"]))
    )
    with watching(watch):
        for number in range(100):
            latest.want(float(number))
            time.sleep(random.random() * 0.004)
        assert latest.wait(30)
    assert most == [1]
    assert delivered[-1][0] == 99.0
    assert len(delivered) < 100
    for at, logits in delivered:
        torch.testing.assert_close(logits, run.at(strength=at)["logits"], rtol=0, atol=0)
    assert not torch.equal(delivered[-1][1], run["logits"])


def test_a_long_run_is_cancelled_when_it_is_superseded(lm: nl.LanguageModel) -> None:
    run = _steered(lm, tokens=60)
    delivered: list[float] = []
    endings: list[RunEvent | None] = []
    begun = threading.Event()

    def watch(one: RunUnderWay, event: RunEvent | None) -> None:
        endings.append(event)
        if isinstance(event, Token):
            begun.set()

    latest: Latest[float, nl.Run] = Latest(
        lambda at: run.at(strength=at), lambda at, found: delivered.append(at)
    )
    with watching(watch):
        for at in (1.0, 2.0, 3.0):
            begun.clear()
            latest.want(at)
            assert begun.wait(20)
        assert latest.wait(30)
    assert delivered == [3.0]
    assert sum(isinstance(event, Done) for event in endings) == 1
    assert sum(isinstance(event, Token) for event in endings) < 3 * 60


def test_a_hand_that_never_rests_sees_something(lm: nl.LanguageModel) -> None:
    run = _steered(lm, tokens=3)
    delivered: list[float] = []
    latest: Latest[float, nl.Run] = Latest(
        lambda at: run.at(strength=at),
        lambda at, found: delivered.append(at),
        soon_s=0,
        starving_s=5.0,
    )
    latest.want(0.0)  # so that it knows how long a run takes
    assert latest.wait(20)
    delivered.clear()
    until = time.monotonic() + 20
    at = 0
    while not delivered and time.monotonic() < until:
        at = (at + 1) % 100
        latest.want(float(at))
        time.sleep(0.002)
    assert delivered
    latest.cancel()
    assert latest.wait(10)


def test_after_a_cancel_nothing_comes(lm: nl.LanguageModel) -> None:
    run = _steered(lm, tokens=60)
    heard: list[object] = []
    begun = threading.Event()
    latest: Latest[float, nl.Run] = Latest(
        lambda at: run.at(strength=at),
        lambda at, found: heard.append(found),
        lambda at, error: heard.append(error),
    )
    with watching(lambda one, event: begun.set() if isinstance(event, Token) else None):
        latest.want(1.0)
        assert begun.wait(20)
        latest.cancel()
        assert latest.wait(10)
    assert heard == []


def test_errors_and_the_cancel_of_somebody_else_are_handed_on(lm: nl.LanguageModel) -> None:
    run = _steered(lm, tokens=60)
    errors: list[Exception] = []
    latest: Latest[float, nl.Run] = Latest(
        lambda at: run.at(strength=at),
        lambda at, found: None,
        lambda at, error: errors.append(error),
    )
    latest.want(101.0)
    assert latest.wait(10)
    assert isinstance(errors.pop(), BadSlider)

    def cancel(one: RunUnderWay, event: RunEvent | None) -> None:
        if isinstance(event, Token):
            one.cancel()

    with watching(cancel):
        latest.want(1.0)
        assert latest.wait(10)
    assert isinstance(errors.pop(), Cancelled)

    def broken(at: float, found: object) -> None:
        raise RuntimeError("the picture")

    latest = Latest(lambda at: run, broken, lambda at, error: errors.append(error))
    latest.want(1.0)
    assert latest.wait(10)
    assert str(errors.pop()) == "the picture"
