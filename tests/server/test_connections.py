"""Laws of the connection: what happens when it breaks, when somebody stops, when nobody reads."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from websockets.sync.client import ClientConnection as Socket

from nnsight_lab.contract import Done, Failed, Queued, RunEvent, Saved, TokenRows
from nnsight_lab.errors import Cancelled, ConnectionLost, ServerError
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.executors.remote_client import LabClient
from nnsight_lab.settings import Settings
from nnsight_lab.wire import messages as m
from nnsight_lab.wire.codec import encode_message
from nnsight_lab.wire.frames import FrameKind, frames_of
from nnsight_lab_server.config import ServerLimits
from tests.server.lab_server import (
    TOKEN,
    WAIT_S,
    GatedEngine,
    Run,
    Serving,
    reads,
    request_for,
    serving,
    tiny_engine,
    values_of,
)

GRAPH = reads("layers.0.output", "logits")


@pytest.fixture
def gated() -> GatedEngine:
    return GatedEngine(tiny_engine())


@pytest.fixture
def running(gated: GatedEngine) -> Iterator[Serving]:
    with serving(("tiny", lambda: gated)) as running:
        yield running
        gated.open()


def test_a_running_job_can_be_cancelled(running: Serving, gated: GatedEngine) -> None:
    client = running.client()
    executor = RemoteExecutor(client, "tiny")
    gated.before.set()
    run = Run(executor, request_for(GRAPH))
    run.wait_for(Saved)

    executor.cancel(run.id)
    while not gated.cancelled:
        executor.card()  # each answer comes after what was sent before it
    gated.open()
    last = run.end()

    assert isinstance(last, Failed)
    assert isinstance(last.error, Cancelled)
    assert values_of(executor, request_for(GRAPH))
    client.close()


def test_a_queued_job_can_be_cancelled_while_another_runs(
    running: Serving, gated: GatedEngine
) -> None:
    client = running.client()
    executor = RemoteExecutor(client, "tiny")
    first = Run(executor, request_for(GRAPH))
    assert gated.running.wait(WAIT_S)
    second = Run(executor, request_for(GRAPH))
    place = second.wait_for(Queued).place

    executor.cancel(second.id)
    last = second.end()
    gated.open()

    assert place == 1
    assert isinstance(last, Failed)
    assert isinstance(last.error, Cancelled)
    assert isinstance(first.end(), Done)
    client.close()


def test_jobs_of_a_client_that_goes_are_cancelled(running: Serving, gated: GatedEngine) -> None:
    leaving, staying = running.client(), running.client()
    run = Run(RemoteExecutor(leaving, "tiny"), request_for(GRAPH))
    assert gated.running.wait(WAIT_S)
    waiting = Run(RemoteExecutor(leaving, "tiny"), request_for(GRAPH))
    waiting.wait_for(Queued)
    other = Run(RemoteExecutor(staying, "tiny"), request_for(GRAPH))
    other.wait_for(Queued)

    leaving.close()
    ends = [run.end(), waiting.end()]
    while not gated.cancelled:
        staying.models()
    gated.open()

    assert all(isinstance(end, Failed) and isinstance(end.error, ConnectionLost) for end in ends)
    assert isinstance(other.end(), Done)
    # The first was stopped in the engine, the second never reached it.
    assert len(gated.finished) == 2
    assert isinstance(gated.finished[0], Failed)
    staying.close()


def test_an_interrupted_run_is_cancelled_on_the_server(
    running: Serving, gated: GatedEngine
) -> None:
    client = running.client()
    executor = RemoteExecutor(client, "tiny")
    executor.card()
    gated.before.set()

    def interrupt() -> None:
        assert gated.saved.wait(WAIT_S)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        executor.run(request_for(GRAPH), lambda _: None)
    while not gated.cancelled:
        client.models()
    gated.open()

    assert values_of(executor, request_for(GRAPH))
    client.close()


def test_an_error_of_the_listener_cancels_the_run(running: Serving, gated: GatedEngine) -> None:
    client = running.client()
    executor = RemoteExecutor(client, "tiny")
    gated.before.set()

    def listen(event: RunEvent) -> None:
        if isinstance(event, Saved):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        executor.run(request_for(GRAPH), listen)
    while not gated.cancelled:
        client.models()
    client.close()


def test_a_server_that_goes_mid_run_ends_the_run_with_a_typed_error() -> None:
    gated = GatedEngine(tiny_engine())
    gated.before.set()
    with serving(("tiny", lambda: gated)) as running:
        client = running.client()
        executor = RemoteExecutor(client, "tiny")
        run = Run(executor, request_for(GRAPH))
        run.wait_for(Saved)
        lost = client.link()
        threading.Timer(0.5, gated.open).start()
    last = run.end()

    assert isinstance(last, Failed)
    assert isinstance(last.error, ConnectionLost | Cancelled)
    assert lost.lost is not None


def test_the_next_call_after_a_lost_connection_connects_anew(lab: Serving) -> None:
    client = lab.client()
    executor = RemoteExecutor(client, "tiny")
    first = client.link()
    first.close()

    assert values_of(executor, request_for(GRAPH))
    assert client.link() is not first
    client.close()


class SlowSocket:
    """A socket whose first message leaves last, if anybody else's may pass it."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.sent: list[int] = []
        self.first = threading.Event()
        self.passed = threading.Event()

    def send(self, message: str) -> None:
        if not self.first.is_set():
            self.first.set()
            self.passed.wait(0.5)
        self.socket.send(message)
        self.sent.append(json.loads(message)["ask"])
        self.passed.set()

    def recv(self) -> str | bytes:
        return self.socket.recv()


def test_numbers_reach_the_server_in_the_order_they_were_given_out(lab: Serving) -> None:
    client = lab.client()
    link = client.link()
    slow = SlowSocket(link._socket)
    link._socket = slow
    first = threading.Thread(target=client.models)
    first.start()
    assert slow.first.wait(WAIT_S)
    client.models()
    first.join()
    link._socket = slow.socket

    assert slow.sent == sorted(slow.sent)
    assert client.link() is link
    client.close()


def test_deflate_is_off_even_for_a_client_that_offers_it(lab: Serving) -> None:
    with lab.socket(compression="deflate") as socket:
        assert socket.request is not None
        assert socket.response is not None
        offered = socket.request.headers.get("Sec-WebSocket-Extensions", "")
        taken = socket.response.headers.get("Sec-WebSocket-Extensions")

    assert "permessage-deflate" in offered
    assert taken is None


def test_our_client_does_not_offer_deflate(lab: Serving) -> None:
    client = lab.client()
    headers = client.link()._socket.request.headers

    assert "Sec-WebSocket-Extensions" not in headers
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    client.close()


def test_the_token_reaches_no_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even with the root logger at its most talkative; uvicorn writes to stderr by itself."""
    caplog.set_level(logging.DEBUG)
    with serving(("tiny", tiny_engine)) as running:
        client = running.client()
        values_of(RemoteExecutor(client, "tiny"), request_for(GRAPH))
        shown = [repr(client), repr(client.link()), repr(vars(client.link()))]
        client.close()

    said = capfd.readouterr()
    assert TOKEN not in caplog.text + said.out + said.err
    assert TOKEN not in "".join(shown)


def greedy(socket: Socket, jobs: int, prompts: int) -> None:
    """Submit jobs whose results fit no buffer, and read none of them."""
    rows = tuple(tuple(range(3, 60)) for _ in range(prompts))
    graph = reads("logits").to_bytes()
    socket.send(encode_message(m.Hello(m.PROTOCOL, {})))
    for job in range(1, jobs + 1):
        socket.send(encode_message(m.Submit(job, "tiny", len(graph), (TokenRows(rows),), "key")))
        for frame in frames_of(FrameKind.GRAPH, job, graph, 2**20):
            socket.send(frame.to_bytes())


def test_a_client_that_reads_nothing_does_not_hold_up_the_others() -> None:
    limits = ServerLimits(backlog_bytes=1_000_000, stall_s=WAIT_S)
    with serving(("tiny", tiny_engine), limits=limits) as running, running.socket() as socket:
        greedy(socket, jobs=10, prompts=20)
        client = running.client()
        executor = RemoteExecutor(client, "tiny")
        (worker,) = running.catalogue
        while len(worker._waiting()) < 9:
            client.models()
        done = [values_of(executor, request_for(GRAPH)) for _ in range(10)]
        waiting = len(worker._waiting())
        client.close()

    assert len(done) == 10
    # Its other jobs wait until it reads: one result is ten megabytes, one was enough.
    assert waiting == 9


def test_a_client_that_reads_again_gets_all_it_asked_for() -> None:
    limits = ServerLimits(backlog_bytes=1_000_000, stall_s=WAIT_S)
    with serving(("tiny", tiny_engine), limits=limits) as running, running.socket() as socket:
        greedy(socket, jobs=3, prompts=20)
        client = running.client()
        (worker,) = running.catalogue
        while len(worker._waiting()) < 2:
            client.models()
        ended = 0
        while ended < 3:
            message = socket.recv(timeout=WAIT_S)
            ended += isinstance(message, str) and json.loads(message)["type"] == "done"
        client.close()

    assert ended == 3


def test_a_client_that_reads_nothing_for_too_long_is_let_go() -> None:
    limits = ServerLimits(backlog_bytes=1_000_000, stall_s=1.0)
    with serving(("tiny", tiny_engine), limits=limits) as running, running.socket() as socket:
        greedy(socket, jobs=3, prompts=40)
        client = running.client()
        (worker,) = running.catalogue
        while len(worker._waiting()) < 2:
            client.models()
        while worker._waiting():
            client.models()
        last = values_of(RemoteExecutor(client, "tiny"), request_for(GRAPH))
        client.close()

    assert last


def test_more_clients_than_the_limit_are_sent_away() -> None:
    with serving(("tiny", tiny_engine), limits=ServerLimits(connections=1)) as running:
        first, second = running.client(), running.client()
        first.link()
        with pytest.raises(ServerError, match="no more clients"):
            second.link()
        first.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_opens_a_connection_of_its_own(lab: Serving) -> None:
    client = lab.client()
    link = client.link()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:  # the child must not run pytest's own endings
        try:
            answer = "own" if client.link() is not link and client.models() else "shared"
            os.write(write, answer.encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

    assert os.read(read, 100) == b"own"
    assert client.link() is link
    assert client.models()
    os.close(read)
    os.close(write)
    client.close()


def test_a_client_that_is_forgotten_closes_its_connection(lab: Serving) -> None:
    client = lab.client()
    link = client.link()
    assert link.lost is None

    del client

    assert isinstance(link.lost, ConnectionLost)


def test_values_of_a_run_do_not_depend_on_the_chunk_size(lab: Serving) -> None:
    small = LabClient(lab.url, TOKEN, replace(Settings(), chunk_bytes=100))
    usual = lab.client()
    values = [
        values_of(RemoteExecutor(client, "tiny"), request_for(GRAPH)) for client in (small, usual)
    ]
    small.close()
    usual.close()

    assert torch.equal(values[0]["logits"], values[1]["logits"])


def test_a_greeting_tells_versions_and_models(lab: Serving) -> None:
    with lab.socket() as socket:
        socket.send(encode_message(m.Hello(m.PROTOCOL, {})))
        welcome = json.loads(socket.recv(timeout=30))

    assert welcome["protocol"] == m.PROTOCOL
    assert [model["name"] for model in welcome["models"]] == ["tiny"]
    assert "nnsight-lab" in welcome["versions"]
