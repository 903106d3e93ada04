"""Laws of a queue whose engine takes several runs at a time, and of an engine that dies."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nnsight_lab.contract import (
    Done,
    Emit,
    Failed,
    ModelCard,
    Queued,
    RunEvent,
    RunRequest,
    TokenRows,
)
from nnsight_lab.errors import Cancelled, EngineFailed
from nnsight_lab.ir import Address, Graph, ModuleSource, Read
from nnsight_lab_server.jobs import Job, ModelState, ModelWorker

WAIT_S = 30.0
READS = tuple(Graph((Read(id=0, address=Address(f"layers.{i}", "output")),)) for i in range(3))


class ManyAtOnce:
    """An engine with room for `concurrency` runs; each ends when the test says so, by its id."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.started: list[str] = []
        self.most = 0
        self.closed_while_running = False
        self.broken = 0
        self.restarts = 0
        self._under_way: dict[str, Callable[[Emit], None] | None] = {}
        self._heard = threading.Condition()
        self._lost: Callable[[], None] = lambda: None

    def card(self) -> ModelCard:
        raise NotImplementedError

    def source_of(self, path: str) -> ModuleSource:
        raise NotImplementedError

    def run(self, request: RunRequest, emit: Emit) -> None:
        with self._heard:
            self._under_way[request.id] = None
            self.started.append(request.id)
            self.most = max(self.most, len(self._under_way))
            self._heard.notify_all()
            assert self._heard.wait_for(lambda: self._under_way[request.id] is not None, WAIT_S)
            how = self._under_way.pop(request.id)
        assert how is not None
        how(emit)

    def cancel(self, run_id: str) -> None:
        self.end(run_id, lambda emit: emit(Failed(Cancelled("stopped"))))

    def close(self) -> None:
        self.closed_while_running = bool(self._under_way)

    def watch(self, lost: Callable[[], None]) -> None:
        self._lost = lost

    def restart(self) -> None:
        self.restarts += 1
        if self.broken:
            self.broken -= 1
            raise OSError("no room")

    def end(self, id: str, how: Callable[[Emit], None] = lambda emit: emit(Done())) -> None:
        with self._heard:
            if id in self._under_way:
                self._under_way[id] = how
                self._heard.notify_all()

    def wait_started(self, *ids: str) -> None:
        with self._heard:
            assert self._heard.wait_for(lambda: set(ids) <= set(self.started), WAIT_S), self.started

    def die(self) -> None:
        self._lost()
        for id in list(self._under_way):
            self.end(id, lambda emit: emit(Failed(EngineFailed("gone"))))


class Told:
    """A job's events, and a way to wait for its end."""

    def __init__(self, id: str, owner: str = "a", graph: Graph = READS[0]) -> None:
        self.events: list[RunEvent] = []
        self.ended = threading.Event()
        self.job = Job(RunRequest(id, graph, TokenRows(((1,),))), owner, self.hear, 100)

    def hear(self, event: RunEvent) -> None:
        assert not self.ended.is_set(), "an event after the end"
        self.events.append(event)
        if isinstance(event, Done | Failed):
            self.ended.set()

    def end(self) -> RunEvent:
        assert self.ended.wait(WAIT_S), self.events
        return self.events[-1]

    @property
    def error(self) -> Exception:
        last = self.end()
        assert isinstance(last, Failed), last
        return last.error


@contextmanager
def working(engine: ManyAtOnce) -> Iterator[ModelWorker]:
    worker = ModelWorker("tiny", lambda: engine, queued=100)
    worker.start()
    assert worker.settled.wait(WAIT_S)
    try:
        yield worker
    finally:
        worker.stop()


def submit(worker: ModelWorker, *jobs: Told) -> None:
    for told in jobs:
        worker.submit(told.job)


def is_ready(worker: ModelWorker) -> bool:
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.02)):
        if worker.state is ModelState.READY:
            return True
        pause.wait(0.02)
    return False


def test_as_many_run_at_once_as_the_engine_takes() -> None:
    engine = ManyAtOnce(3)
    with working(engine) as worker:
        jobs = [Told(str(i)) for i in range(5)]
        submit(worker, *jobs)
        engine.wait_started("0", "1", "2")
        waiting = [told.job.request.id for told in jobs if told.job.place != 0]
        engine.end("1")  # whichever ends first makes room
        engine.wait_started("3")
        for id in "02":
            engine.end(id)
        engine.wait_started("4")
        for id in "34":
            engine.end(id)
        ends = [type(told.end()) for told in jobs]

    assert engine.most == 3
    assert engine.started == ["0", "1", "2", "3", "4"]
    assert waiting == ["3", "4"]
    assert ends == [Done] * 5


def test_clients_still_take_turns_and_are_told_their_places() -> None:
    engine = ManyAtOnce(2)
    with working(engine) as worker:
        first, second = Told("x"), Told("y")
        submit(worker, first, second)
        engine.wait_started("x", "y")
        many, one = [Told(f"a{i}", "a") for i in range(3)], Told("b0", "b")
        submit(worker, *many, one)
        for room, next_one in (("x", "a0"), ("y", "b0"), ("a0", "a1"), ("b0", "a2")):
            engine.end(room)
            engine.wait_started(next_one)
        for id in ("a1", "a2"):
            engine.end(id)
        for told in (*many, one):
            told.end()

    assert engine.started[2:4] == ["a0", "b0"]
    assert [event.place for event in one.events if isinstance(event, Queued)] == [2, 1]


def test_one_of_several_runs_is_cancelled_and_the_others_go_on() -> None:
    engine = ManyAtOnce(2)
    with working(engine) as worker:
        gone, stays = Told("gone"), Told("stays")
        submit(worker, gone, stays)
        engine.wait_started("gone", "stays")
        worker.cancel(gone.job)
        error = gone.error
        untouched = not stays.ended.is_set()
        engine.end("stays")
        last = stays.end()

    assert isinstance(error, Cancelled)
    assert untouched
    assert isinstance(last, Done)


def test_stopping_ends_every_run_before_the_engine_is_closed() -> None:
    engine = ManyAtOnce(2)
    jobs = [Told(str(i)) for i in range(4)]
    with working(engine) as worker:
        submit(worker, *jobs)
        engine.wait_started("0", "1")

    assert all(isinstance(told.error, Cancelled) for told in jobs)
    assert not engine.closed_while_running
    assert worker.state is ModelState.STOPPED


def test_an_engine_that_dies_is_started_again_and_what_waits_is_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, logger="nnsight_lab_server")
    engine = ManyAtOnce(1)
    engine.broken = 1  # the first try fails
    with working(engine) as worker:
        running, waiting = Told("running"), Told("waiting", graph=READS[1])
        submit(worker, running, waiting)
        engine.wait_started("running")
        engine.die()
        error = running.error
        state = worker.state
        with pytest.raises(EngineFailed, match="restarts"):
            worker.submit(Told("early").job)
        assert is_ready(worker)
        engine.wait_started("waiting")
        engine.end("waiting")
        last = waiting.end()

    assert isinstance(error, EngineFailed)
    assert "restarts" in error.hint
    assert state is ModelState.RESTARTING
    assert engine.restarts == 2
    assert isinstance(last, Done)


def test_a_graph_that_was_there_twice_is_not_run_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="nnsight_lab_server")
    engine = ManyAtOnce(2)
    bad, good = READS[0], READS[1]
    with working(engine) as worker:
        for turn in range(2):
            doomed, bystander = Told(f"bad{turn}", "a", bad), Told(f"good{turn}", "b", good)
            submit(worker, doomed, bystander)
            engine.wait_started(f"bad{turn}", f"good{turn}")
            if turn == 1:  # it ends well, so it was not the one
                engine.end("good1")
                bystander.end()
            engine.die()
            assert isinstance(doomed.error, EngineFailed)
            assert is_ready(worker)
        with pytest.raises(EngineFailed, match="2 times"):
            worker.submit(Told("bad2", "a", bad).job)
        after = Told("good2", "b", good)
        submit(worker, after)
        engine.wait_started("good2")
        engine.end("good2")
        last = after.end()

    assert isinstance(last, Done)
