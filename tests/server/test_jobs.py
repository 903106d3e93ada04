"""Laws of the queue: clients take turns, places are told, and every job ends exactly once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nnsight_lab.contract import (
    Accepted,
    Done,
    Emit,
    Failed,
    ModelCard,
    Queued,
    RunEvent,
    RunRequest,
    Saved,
    Started,
    TokenRows,
)
from nnsight_lab.errors import Cancelled, EngineFailed, LimitExceeded, ModelNotFound, OpFailed
from nnsight_lab.ir import Graph, ModuleSource, Ref, TensorData
from nnsight_lab.wire import Value
from nnsight_lab_server.engines.base import Engine
from nnsight_lab_server.jobs import Job, ModelState, ModelWorker

WAIT_S = 30.0
EIGHT_BYTES = Value(Ref(0), (TensorData("uint8", (8,), bytes(8)),))


class StepEngine:
    """An engine whose runs end when the test says so, in the way the test says."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.cancelled: set[str] = set()
        self.started = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.how: Callable[[Emit], None] = lambda emit: emit(Done())
        self.closed = False

    def card(self) -> ModelCard:
        raise NotImplementedError

    def source_of(self, path: str) -> ModuleSource:
        raise NotImplementedError

    def run(self, request: RunRequest, emit: Emit) -> None:
        self.order.append(request.id)
        self.started.release()
        assert self.go_on.acquire(timeout=WAIT_S)
        if request.id in self.cancelled:
            emit(Failed(Cancelled("stopped")))
        else:
            self.how(emit)

    def cancel(self, run_id: str) -> None:
        self.cancelled.add(run_id)
        self.go_on.release()

    def close(self) -> None:
        self.closed = True


class Told:
    """A job's events, and a way to wait for its end."""

    def __init__(self, id: str, owner: str, saved_bytes: int = 100) -> None:
        self.events: list[RunEvent] = []
        self.ended = threading.Event()
        request = RunRequest(id, Graph(()), TokenRows(((1,),)))
        self.job = Job(request, owner, self.hear, saved_bytes)

    def hear(self, event: RunEvent) -> None:
        assert not self.ended.is_set(), "an event after the end"
        self.events.append(event)
        if isinstance(event, Done | Failed):
            self.ended.set()

    def end(self) -> RunEvent:
        assert self.ended.wait(WAIT_S), self.events
        return self.events[-1]

    @property
    def places(self) -> list[int]:
        return [event.place for event in self.events if isinstance(event, Queued)]

    @property
    def error(self) -> Exception:
        last = self.end()
        assert isinstance(last, Failed)
        return last.error


@contextmanager
def working(engine: Engine, queued: int = 100) -> Iterator[ModelWorker]:
    worker = ModelWorker("tiny", lambda: engine, queued=queued)
    worker.start()
    assert worker.settled.wait(WAIT_S)
    try:
        yield worker
    finally:
        worker.stop()


@pytest.fixture
def engine() -> StepEngine:
    return StepEngine()


@pytest.fixture
def worker(engine: StepEngine) -> Iterator[ModelWorker]:
    with working(engine) as worker:
        yield worker


def busy(engine: StepEngine, worker: ModelWorker) -> Told:
    """A job that runs, so that what is submitted next waits."""
    first = Told("first", "nobody")
    worker.submit(first.job)
    assert engine.started.acquire(timeout=WAIT_S)
    return first


def test_a_job_is_accepted_queued_started_and_done(engine: StepEngine, worker: ModelWorker) -> None:
    told = busy(engine, worker)
    engine.go_on.release()

    told.end()

    assert [type(event) for event in told.events] == [Accepted, Queued, Started, Done]


def test_clients_take_turns(engine: StepEngine, worker: ModelWorker) -> None:
    """One with many jobs does not keep the others waiting."""
    busy(engine, worker)
    jobs = [
        Told(f"{owner}{i}", owner)
        for owner, count in (("a", 4), ("b", 2), ("c", 1))
        for i in range(count)
    ]
    for told in jobs:
        worker.submit(told.job)
    for _ in range(8):
        engine.go_on.release()
    for told in jobs:
        told.end()

    assert engine.order == ["first", "a0", "b0", "c0", "a1", "b1", "a2", "a3"]


def test_places_are_told_and_count_down(engine: StepEngine, worker: ModelWorker) -> None:
    busy(engine, worker)
    one, two, other = Told("a0", "a"), Told("a1", "a"), Told("b0", "b")
    for told in (one, two, other):
        worker.submit(told.job)
    for _ in range(4):
        engine.go_on.release()
    for told in (one, two, other):
        told.end()

    assert one.places == [1]
    assert two.places == [2, 3, 2, 1]
    assert other.places == [2, 1]


def test_a_queued_job_is_cancelled_at_once(engine: StepEngine, worker: ModelWorker) -> None:
    busy(engine, worker)
    gone, next_one = Told("gone", "a"), Told("next", "a")
    worker.submit(gone.job)
    worker.submit(next_one.job)

    worker.cancel(gone.job)
    at_once = gone.ended.is_set()
    engine.go_on.release(2)
    next_one.end()

    assert at_once
    assert isinstance(gone.error, Cancelled)
    assert engine.order == ["first", "next"]


def test_a_running_job_is_cancelled_through_its_engine(
    engine: StepEngine, worker: ModelWorker
) -> None:
    told = busy(engine, worker)

    worker.cancel(told.job)

    assert isinstance(told.error, Cancelled)
    assert engine.cancelled == {"first"}


def test_a_job_that_has_ended_is_not_cancelled(engine: StepEngine, worker: ModelWorker) -> None:
    told = busy(engine, worker)
    engine.go_on.release()
    told.end()

    worker.cancel(told.job)

    assert isinstance(told.events[-1], Done)


def test_a_job_waits_for_its_client_and_lets_others_pass(
    engine: StepEngine, worker: ModelWorker
) -> None:
    slow, quick = Told("slow", "a"), Told("quick", "b")
    ready = threading.Event()
    slow.job.may_start = ready.is_set
    worker.submit(slow.job)
    worker.submit(quick.job)
    engine.go_on.release(2)

    quick.end()
    waited = not slow.ended.is_set()
    ready.set()
    worker.wake()
    slow.end()

    assert waited
    assert engine.order == ["quick", "slow"]


def test_more_jobs_than_may_wait_are_refused(engine: StepEngine) -> None:
    with working(engine, queued=2) as worker:
        busy(engine, worker)
        for i in range(2):
            worker.submit(Told(f"a{i}", "a").job)
        with pytest.raises(LimitExceeded):
            worker.submit(Told("a2", "a").job)


@pytest.mark.parametrize("then_done", [True, False])
def test_a_run_that_saves_too_much_is_stopped(
    engine: StepEngine, worker: ModelWorker, then_done: bool
) -> None:
    def three_values(emit: Emit) -> None:
        for name in "abc":
            emit(Saved(name, EIGHT_BYTES))
        if then_done:
            emit(Done())

    engine.how = three_values
    told = Told("big", "a", saved_bytes=16)
    worker.submit(told.job)
    engine.go_on.release()

    assert isinstance(told.error, LimitExceeded)
    assert engine.cancelled == {"big"}
    assert [event.name for event in told.events if isinstance(event, Saved)] == ["a", "b"]


def test_done_tells_bytes_and_time_in_the_queue(engine: StepEngine, worker: ModelWorker) -> None:
    def one_value(emit: Emit) -> None:
        emit(Saved("a", EIGHT_BYTES))
        emit(Done({"run": 0.5}))

    engine.how = one_value
    told = busy(engine, worker)
    engine.go_on.release()
    last = told.end()

    assert isinstance(last, Done)
    assert last.sent_bytes == 8
    assert last.seconds["run"] == 0.5
    assert last.seconds["queued"] >= 0


def explode(_: Emit) -> None:
    raise RuntimeError("secret")


def end_twice(emit: Emit) -> None:
    emit(Done())
    emit(Failed(OpFailed("late")))


@pytest.mark.parametrize(
    ("how", "end"), [(explode, Failed), (lambda _: None, Failed), (end_twice, Done)]
)
def test_every_job_ends_once_whatever_the_engine_does(
    how: Callable[[Emit], None],
    end: type[RunEvent],
    engine: StepEngine,
    worker: ModelWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, logger="nnsight_lab_server")
    engine.how = how
    told = busy(engine, worker)
    engine.go_on.release()
    last = told.end()
    engine.how = lambda emit: emit(Done())
    after = Told("after", "a")
    worker.submit(after.job)
    engine.go_on.release()

    assert isinstance(last, end)
    assert isinstance(after.end(), Done)


def test_an_engines_own_words_stay_in_the_log(
    engine: StepEngine, worker: ModelWorker, caplog: pytest.LogCaptureFixture
) -> None:
    engine.how = lambda emit: emit(Failed(EngineFailed("secret: /etc/lab/weights")))
    told = busy(engine, worker)
    engine.go_on.release()

    assert "secret" not in str(told.error)
    assert "secret" in caplog.text


def test_stopping_ends_every_job_and_lets_the_model_go(engine: StepEngine) -> None:
    with working(engine) as worker:
        running = busy(engine, worker)
        waiting = Told("waiting", "a")
        worker.submit(waiting.job)

    assert isinstance(running.error, Cancelled)
    assert isinstance(waiting.error, Cancelled)
    assert engine.closed
    assert worker.state is ModelState.STOPPED
    with pytest.raises(EngineFailed):
        worker.submit(Told("late", "a").job)


def test_a_model_that_cannot_be_loaded_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="nnsight_lab_server")
    missing = ModelNotFound("no such model")

    def nothing() -> Engine:
        raise missing

    worker = ModelWorker("tiny", nothing, queued=1)
    worker.start()
    assert worker.settled.wait(WAIT_S)

    assert worker.state is ModelState.FAILED
    assert worker.error is missing
    with pytest.raises(EngineFailed):
        worker.submit(Told("late", "a").job)
