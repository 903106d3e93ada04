"""Laws of refusal: every bad input is answered with its own error, and the server goes on serving."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection as Socket

from nnsight_lab import errors, ir
from nnsight_lab.contract import Emit, Failed, ModuleInputs, RunEvent, RunRequest, TokenRows
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.executors.remote_client import LabClient
from nnsight_lab.ir import Address, Call, Graph, Output, Read, Ref, Write
from nnsight_lab.wire import WireLimits
from nnsight_lab.wire import messages as m
from nnsight_lab.wire.codec import encode_message
from nnsight_lab.wire.frames import FrameKind, frames_of
from nnsight_lab_server.config import ServerLimits
from nnsight_lab_server.engines.base import Engine
from tests.server.lab_server import (
    ROWS,
    Serving,
    reads,
    request_for,
    serving,
    tiny_engine,
    values_of,
)

LOGITS = Read(id=0, address=Address("", "logits"))
LIMITS = ServerLimits(
    wire=WireLimits(graph_bytes=100_000, text_bytes=50_000, frame_bytes=40_000, chunk_bytes=10_000),
    graph=ir.Limits(nodes=50),
    prompt_tokens=40,
    prompts=8,
    batch_tokens=100,
    saved_bytes=200_000,
    working_bytes=10_000_000,
)


@pytest.fixture(scope="module")
def small() -> Iterator[Serving]:
    """A server with limits that a test can go over."""
    with serving(("tiny", tiny_engine), limits=LIMITS) as running:
        yield running


@pytest.fixture
def tiny(small: Serving) -> Iterator[RemoteExecutor]:
    client = small.client()
    yield RemoteExecutor(client, "tiny")
    client.close()


def still_serves(running: Serving) -> bool:
    """Whether a good request succeeds on the same server now."""
    client = running.client()
    values = values_of(RemoteExecutor(client, "tiny"), request_for(reads("layers.0.output")))
    client.close()
    return "layers.0.output" in values


def saving(*nodes: ir.Node) -> Graph:
    return Graph(nodes, (Output("x", nodes[-1].id),))


def chain(length: int) -> Graph:
    calls = (Call(id=i, op="torch.neg", args=(Ref(i - 1),)) for i in range(1, length))
    return saving(LOGITS, *calls)


GRAPHS: dict[str, tuple[Graph, type[errors.LabError]]] = {
    "unknown address": (saving(Read(id=0, address=Address("layers.99"))), errors.AddressNotFound),
    "unknown port": (saving(Read(id=0, address=Address("", "soul"))), errors.AddressNotFound),
    "wrong shape": (
        saving(LOGITS, Call(id=1, op="torch.reshape", args=(Ref(0), (7, 7)))),
        errors.ShapeMismatch,
    ),
    "write of a wrong shape": (
        Graph(
            (
                Read(id=0, address=Address("layers.0")),
                Call(id=1, op="torch.sum", args=(Ref(0),)),
                Write(id=2, address=Address("layers.1"), value=1),
                Read(id=3, address=Address("", "logits")),
            ),
            (Output("x", 3),),
        ),
        errors.ShapeMismatch,
    ),
    "write that depends on a later value": (
        Graph(
            (
                Read(id=0, address=Address("layers.3")),
                Write(id=1, address=Address("layers.1"), value=0),
                Read(id=2, address=Address("", "logits")),
            ),
            (Output("x", 2),),
        ),
        errors.WriteTooEarly,
    ),
    "too many nodes": (chain(60), errors.LimitExceeded),
    "a value that doubles": (
        saving(
            LOGITS,
            *(Call(id=i, op="torch.cat", args=((Ref(i - 1), Ref(i - 1)),)) for i in range(1, 40)),
        ),
        errors.LimitExceeded,
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_cannot_run_is_refused_before_it_is_queued(
    name: str, small: Serving, tiny: RemoteExecutor
) -> None:
    graph, kind = GRAPHS[name]
    events: list[RunEvent] = []

    tiny.run(request_for(graph), events.append)

    assert len(events) == 1, events
    assert isinstance(events[0], Failed)
    assert type(events[0].error) is kind, events[0].error
    assert still_serves(small)


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ((), errors.BadInput),
        (((),), errors.BadInput),
        (((3, 10**6),), errors.BadInput),
        (((3,) * 41,), errors.LimitExceeded),
        (((3,),) * 9, errors.LimitExceeded),
        (((3,) * 30, (3,), (3,), (3,)), errors.LimitExceeded),
        (((3,) * 30_000,), errors.LimitExceeded),
    ],
)
def test_prompts_the_model_cannot_take_are_refused(
    rows: tuple[tuple[int, ...], ...],
    kind: type[errors.LabError],
    small: Serving,
    tiny: RemoteExecutor,
) -> None:
    with pytest.raises(kind):
        values_of(tiny, request_for(reads("logits"), rows))
    assert still_serves(small)


def test_saving_more_than_may_be_sent_back_is_refused(small: Serving, tiny: RemoteExecutor) -> None:
    rows = (tuple(range(3, 33)),)

    with pytest.raises(errors.LimitExceeded) as refused:
        values_of(tiny, request_for(reads("logits"), rows))
    assert "Save less" in refused.value.hint
    assert still_serves(small)


def test_a_graph_over_the_limit_is_refused_on_both_sides(small: Serving) -> None:
    data = bytes(LIMITS.wire.graph_bytes + 1)
    with small.socket() as socket:
        greet(socket)
        answer = submitted(socket, data)

    client = small.client()
    with pytest.raises(errors.LimitExceeded):
        client.link().ask(
            lambda connection: connection.submit("tiny", data, (TokenRows(ROWS),), "key")
        )
    assert RemoteExecutor(client, "tiny").card().name == "tiny"
    client.close()
    assert answer["error"]["code"] == "limit-exceeded"
    assert still_serves(small)


def renamed_op() -> bytes:
    """The bytes of a graph whose operation is not in the table; our own client cannot make one."""
    graph = saving(LOGITS, Call(id=1, op="torch.softmax", args=(Ref(0), -1)))
    return graph.to_bytes().replace(b"torch.softmax", b"torch.sysexec")


@pytest.mark.parametrize(
    ("graph", "code"),
    [
        (b"", "bad-bytes"),
        (b"these bytes are not a graph", "bad-bytes"),
        (
            b"\x80\x04\x95K\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94",
            "bad-bytes",
        ),
        (reads("logits").to_bytes()[:-3], "bad-bytes"),
        (reads("logits").to_bytes() + b"x", "bad-bytes"),
        (renamed_op(), "op-not-allowed"),
    ],
)
def test_bytes_that_are_not_a_graph_are_refused(graph: bytes, code: str, small: Serving) -> None:
    with small.socket() as socket:
        greet(socket)
        answer = submitted(socket, graph)
        again = submitted(socket, reads("layers.0.output").to_bytes(), job=2, until="done")

    assert (answer["type"], answer["error"]["code"]) == ("failed", code)
    assert again["type"] == "done"


def oversized(size: int) -> bytes:
    frame = frames_of(FrameKind.GRAPH, 1, bytes(size), size)[0]
    return frame.to_bytes()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("this is not JSON", "protocol-error"),
        ('{"type": "sing"}', "protocol-error"),
        ('{"type": "cancel"}', "protocol-error"),
        ("[" * 10_000, "protocol-error"),
        ("x" * (LIMITS.wire.text_bytes + 1), "limit-exceeded"),
        (b"this is not a frame", "protocol-error"),
        (oversized(LIMITS.wire.frame_bytes + 1), "limit-exceeded"),
        (frames_of(FrameKind.GRAPH, 77, b"nobody waits", 100)[0].to_bytes(), "protocol-error"),
        # text where binary is expected, and binary where text is
        ("graph bytes as text", "protocol-error"),
        (encode_message(m.ListModels(1)).encode(), "protocol-error"),
    ],
)
def test_a_message_that_cannot_be_read_is_answered_and_the_connection_goes_on(
    sent: str | bytes, code: str, small: Serving
) -> None:
    with small.socket() as socket:
        greet(socket)
        socket.send(sent)
        answer = json.loads(socket.recv(timeout=30))
        good = submitted(socket, reads("layers.0.output").to_bytes(), until="done")

    assert (answer["type"], answer["ask"], answer["error"]["code"]) == ("error", None, code)
    assert good["type"] == "done"


def test_a_message_far_over_the_limit_ends_its_own_connection_only(small: Serving) -> None:
    with small.socket() as socket:
        greet(socket)
        socket.send(bytes(LIMITS.wire.socket_bytes + 1))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=30)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    assert still_serves(small)


def test_very_many_mistakes_end_the_connection_after_their_answers(small: Serving) -> None:
    answers = 0
    with small.socket() as socket:
        greet(socket)
        for _ in range(LIMITS.wire.mistakes):
            socket.send("?")
        try:
            while socket.recv(timeout=30):
                answers += 1
        except ConnectionClosed as exc:
            closed = exc

    assert answers == LIMITS.wire.mistakes
    assert closed.rcvd is not None
    assert closed.rcvd.code == 1008
    assert still_serves(small)


def test_an_unknown_model_is_refused_with_the_nearest(small: Serving) -> None:
    client = small.client()

    for ask in (
        lambda: client.card("tinny"),
        lambda: values_of(RemoteExecutor(client, "tinny"), request_for(reads("logits"))),
    ):
        with pytest.raises(errors.ModelNotFound) as refused:
            ask()
        assert "'tiny'" in refused.value.hint
    assert client.card("tiny").name == "tiny"
    client.close()


@pytest.mark.parametrize("token", ["wrong", None, "correct-horse-batterz", "x" * 5_000])
def test_a_wrong_token_is_refused_at_the_door(token: str | None, small: Serving) -> None:
    with pytest.raises(errors.AuthFailed) as refused:
        small.client(token).link()
    assert refused.value.hint
    assert still_serves(small)


def test_inputs_of_a_wrapped_module_stay_at_home(tiny: RemoteExecutor) -> None:
    request = RunRequest("id", reads("logits"), ModuleInputs((1,)))

    with pytest.raises(errors.NotSupported):
        values_of(tiny, request)


def test_a_refused_node_points_at_the_users_line(tiny: RemoteExecutor) -> None:
    """Source lines stay on the client: only the node id crosses the wire."""
    here = errors.SourceLine(__file__, 1)
    graph = saving(LOGITS, Call(id=1, op="torch.reshape", args=(Ref(0), (7, 7)), where=here))

    with pytest.raises(errors.ShapeMismatch) as refused:
        values_of(tiny, request_for(graph))
    assert refused.value.node == 1
    assert refused.value.where == here


class Fragile:
    """A real engine that breaks its contract on the prompt 13."""

    def __init__(self, engine: Engine, how: Callable[[], None]) -> None:
        self.engine = engine
        self.how = how
        self.card, self.cancel, self.close = engine.card, engine.cancel, engine.close
        self.source_of = engine.source_of

    def run(self, request: RunRequest, emit: Emit) -> None:
        if request.inputs.rows == ((13,),):  # type: ignore[union-attr]
            self.how()
            return
        self.engine.run(request, emit)


def explode() -> None:
    raise RuntimeError("secret: /etc/lab/weights")


@pytest.mark.parametrize("how", [explode, lambda: None], ids=["raises", "says nothing"])
def test_an_engine_that_fails_takes_its_own_job_only(
    how: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="nnsight_lab_server")
    with serving(("tiny", lambda: Fragile(tiny_engine(), how))) as running:
        client = running.client()
        executor = RemoteExecutor(client, "tiny")
        with pytest.raises(errors.EngineFailed) as failed:
            values_of(executor, request_for(reads("logits"), ((13,),)))
        assert values_of(executor, request_for(reads("logits")))
        client.close()

    assert "secret" not in str(failed.value)


def greet(socket: Socket) -> dict[str, Any]:
    socket.send(encode_message(m.Hello(m.PROTOCOL, {})))
    welcome: dict[str, Any] = json.loads(socket.recv(timeout=30))
    assert welcome["type"] == "welcome"
    return welcome


def submitted(socket: Socket, graph: bytes, job: int = 1, until: str = "failed") -> dict[str, Any]:
    """Submit a graph by hand; the first message of the wanted type that comes back."""
    socket.send(encode_message(m.Submit(job, "tiny", len(graph), (TokenRows(ROWS),), "key")))
    for frame in frames_of(FrameKind.GRAPH, job, graph, LIMITS.wire.chunk_bytes):
        socket.send(frame.to_bytes())
    while True:
        message = socket.recv(timeout=30)
        told: dict[str, Any] = json.loads(message) if isinstance(message, str) else {}
        if told.get("type") in {until, "failed"}:
            return told


@pytest.mark.parametrize("theirs", [m.PROTOCOL - 1, m.PROTOCOL + 1])
def test_a_client_that_does_not_speak_our_protocol_is_told(small: Serving, theirs: int) -> None:
    """Older and newer ones alike: the error is written as it was in every version."""
    with small.socket() as socket:
        socket.send(encode_message(m.Hello(theirs, {})))
        answer = json.loads(socket.recv(timeout=30))
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=30)

    assert f"protocol {m.PROTOCOL}" in answer["error"]["message"]


def test_a_server_that_is_not_there(small: Serving) -> None:
    with pytest.raises(errors.ServerUnreachable) as refused:
        LabClient("http://127.0.0.1:1", "token").link()
    assert "nnsight-lab serve" in refused.value.hint


@pytest.mark.parametrize("url", ["", "http://", "ftp://lab", "http://lab:port", "http://[::1"])
def test_what_is_no_address_is_said_to_be_none(url: str) -> None:
    with pytest.raises(errors.ServerUnreachable):
        LabClient(url, None)


@pytest.mark.parametrize("url", ["http://token@lab:8765", "http://lab:8765?token=x"])
def test_a_token_in_the_address_is_refused(url: str) -> None:
    with pytest.raises(errors.AuthFailed) as refused:
        LabClient(url, None)
    assert "x" not in refused.value.message.split()
