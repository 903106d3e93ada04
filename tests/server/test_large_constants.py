"""Weights of the user's own in a trace, on a server: they travel once, and change no number."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab import errors
from nnsight_lab.contract import Failed, RunEvent, Sending, TokenRows
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.executors.remote_client import LabClient
from nnsight_lab.ir import Constant, Graph, Output, TensorData
from nnsight_lab.wire import WireLimits
from nnsight_lab.wire import messages as m
from nnsight_lab.wire.codec import encode_message
from nnsight_lab.wire.frames import FrameKind, frames_of
from nnsight_lab_server.config import ServerLimits
from tests.server.lab_server import (
    ROWS,
    TOKEN,
    Serving,
    request_for,
    serving,
    tiny_engine,
    values_of,
)
from tests.server.test_bad_input import greet, submitted

MIB = 2**20


class Sae(torch.nn.Module):
    """A sparse autoencoder of 2 x 4 MiB, with weights that `seed` chooses."""

    def __init__(self, d_model: int, seed: int, features: int = 8_192) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.encoder = torch.randn(d_model, features, generator=random) / d_model**0.5
        self.decoder = torch.randn(features, d_model, generator=random) / features**0.5

    def forward(self, h: Any) -> Any:
        return (h @ self.encoder).relu() @ self.decoder


@dataclass
class Relay:
    """Stands between client and server and counts what the client sends."""

    url: str
    sent: int = 0

    def since(self) -> int:
        """Bytes since the last time."""
        sent, self.sent = self.sent, 0
        return sent


@contextmanager
def relay(port: int) -> Iterator[Relay]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = Relay(f"http://127.0.0.1:{listener.getsockname()[1]}")
        ends: list[socket.socket] = []

        def carry(one: socket.socket, other: socket.socket, count: bool) -> None:
            with suppress(OSError):  # either end may be closed while this one is carried
                while data := one.recv(MIB):
                    found.sent += len(data) if count else 0
                    other.sendall(data)
                other.shutdown(socket.SHUT_WR)

        def serve() -> None:
            visitor, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port))
            ends.extend((visitor, server))
            threading.Thread(target=carry, args=(server, visitor, False), daemon=True).start()
            carry(visitor, server, True)

        threading.Thread(target=serve, daemon=True).start()
        yield found
        for end in ends:
            end.close()


def reconstructed(lm: nl.LanguageModel, sae: Sae) -> tuple[Graph, torch.Tensor]:
    """Put what the autoencoder makes of layer 2 in its place; the graph, and the logits."""
    with lm.trace([list(ROWS[0])]) as tracer:
        lm.layers[2].output = sae(lm.layers[2].output)
        logits = lm.logits.save()
    return tracer.graph, logits


@pytest.fixture
def sae(local: LocalExecutor) -> Sae:
    config: Any = local.module.config
    return Sae(config.hidden_size, 0)


def test_weights_travel_with_the_first_run_only(
    lab: Serving, local: LocalExecutor, sae: Sae
) -> None:
    here = nl.LanguageModel.from_executor(local)
    with relay(lab.port) as between:
        client = LabClient(between.url, TOKEN)
        there = nl.LanguageModel.from_executor(RemoteExecutor(client, "tiny"))
        between.since()

        results = [reconstructed(there, sae)[1] for _ in range(3)]
        first = between.since()
        graph, again = reconstructed(there, Sae(sae.encoder.shape[0], 0))
        second = between.since()
        changed = Sae(sae.encoder.shape[0], 1)
        other = reconstructed(there, changed)[1]
        third = between.since()
        client.close()

    size = sae.encoder.nbytes + sae.decoder.nbytes
    assert size < first < size + 20_000
    assert second < 5_000
    assert size < third < size + 20_000
    expected = reconstructed(here, sae)[1]
    for logits in (*results, again):
        assert torch.equal(logits, expected)
    assert torch.equal(other, reconstructed(here, changed)[1])
    assert not torch.allclose(other, expected)
    alone = here.run(Graph.from_bytes(graph.to_bytes()), [list(ROWS[0])])
    assert torch.equal(next(iter(alone.values())), expected)


def test_a_run_tells_how_far_its_weights_are(remote: RemoteExecutor, sae: Sae) -> None:
    lm = nl.LanguageModel.from_executor(remote)
    with lm.trace([list(ROWS[0])], execute=False) as tracer:
        sae(lm.layers[2].output).save()
    told: list[list[Sending]] = [[], []]
    for heard in told:
        lm.run(tracer.graph, [list(ROWS[0])], on_event=partial(keep, heard))

    size = sae.encoder.nbytes + sae.decoder.nbytes
    assert told[0][-1] == Sending(size, size)
    assert [each.sent_bytes for each in told[0]] == sorted(each.sent_bytes for each in told[0])
    assert told[1] == []


def keep(heard: list[Sending], event: RunEvent) -> None:
    if isinstance(event, Sending):
        heard.append(event)


def constant(size: int, fill: int = 0) -> TensorData:
    return TensorData("uint8", (size,), bytes([fill]) * size)


def saving(*tensors: TensorData) -> Graph:
    nodes = tuple(Constant(id=id, value=value) for id, value in enumerate(tensors))
    return Graph(nodes, tuple(Output(f"x{node.id}", node.id) for node in nodes))


def uploaded(executor: RemoteExecutor, graph: Graph) -> int:
    """Run; how many bytes of constants were sent. Raises what the run failed with."""
    heard: list[Sending] = []
    events: list[RunEvent] = []
    executor.run(request_for(graph), events.append)
    for event in events:
        keep(heard, event)
    if isinstance(events[-1], Failed):
        raise events[-1].error
    return heard[-1].sent_bytes if heard else 0


LIMITS = ServerLimits(wire=WireLimits(blob_bytes=MIB), blob_bytes=MIB + MIB // 2, stall_s=2.0)


@pytest.fixture(scope="module")
def small() -> Iterator[Serving]:
    """A server that keeps little, and waits for nobody."""
    with serving(("tiny", tiny_engine), limits=LIMITS) as running:
        yield running


def test_what_was_let_go_is_sent_again(small: Serving) -> None:
    client = small.client()
    executor = RemoteExecutor(client, "tiny")
    one, two, three = (saving(constant(MIB // 2, fill)) for fill in range(3))

    sent = [uploaded(executor, graph) for graph in (one, two, one, three, one, two)]

    client.close()
    half = MIB // 2
    assert sent == [half, half, 0, half, 0, half]


def test_each_client_sends_its_own(small: Serving) -> None:
    clients = [small.client() for _ in range(2)]
    graph = saving(constant(100_000, 7))

    sent = [uploaded(RemoteExecutor(client, "tiny"), graph) for client in (*clients, *clients)]

    for client in clients:
        client.close()
    assert sent == [100_000, 100_000, 0, 0]


def test_a_new_connection_sends_again(small: Serving) -> None:
    client = small.client()
    executor = RemoteExecutor(client, "tiny")
    graph = saving(constant(100_000, 8))

    sent = [uploaded(executor, graph)]
    client.close()
    sent.append(uploaded(executor, graph))

    client.close()
    assert sent == [100_000, 100_000]


def test_weights_over_the_limit_are_refused_before_they_are_sent(small: Serving) -> None:
    client = small.client()
    executor = RemoteExecutor(client, "tiny")

    with pytest.raises(errors.LimitExceeded) as refused:
        uploaded(executor, saving(constant(MIB), constant(MIB, 1)))

    assert str(MIB) in refused.value.message
    assert uploaded(executor, saving(constant(MIB))) == MIB
    client.close()


def head(data: TensorData) -> m.BlobHead:
    return m.BlobHead(data.digest, data.dtype, data.shape)


def announce(sock: Any, graph: Graph, *heads: m.BlobHead, job: int = 1) -> None:
    data = graph.to_bytes(without=graph.large_constants)
    sock.send(encode_message(m.Submit(job, "tiny", len(data), (TokenRows(ROWS),), "key", heads)))
    for frame in frames_of(FrameKind.GRAPH, job, data, 10_000):
        sock.send(frame.to_bytes())


def failure(sock: Any, job: int = 1) -> dict[str, Any]:
    while True:
        told: dict[str, Any] = json.loads(sock.recv(timeout=30))
        if told["type"] == "failed" and told["job"] == job:
            return dict(told["error"])


def test_a_graph_that_names_what_its_submission_does_not_is_refused(small: Serving) -> None:
    graph = saving(constant(100_000, 9))
    with small.socket() as sock:
        greet(sock)
        answer = submitted(sock, graph.to_bytes(without=graph.large_constants))

    assert answer["error"]["code"] == "bad-bytes"


def test_bytes_that_are_not_what_the_digest_says_are_refused(small: Serving) -> None:
    data = constant(100_000, 10)
    with small.socket() as sock:
        greet(sock)
        announce(sock, saving(data), head(data))
        for frame in frames_of(FrameKind.BLOB, 1, bytes(100_000), 50_000):
            sock.send(frame.to_bytes())
        refused = failure(sock)
        # What came is not kept under the digest it claimed.
        announce(sock, saving(data), head(data), job=2)
        asked = sock.recv(timeout=30)

    assert refused["code"] == "protocol-error"
    assert "digest" in refused["message"]
    assert '"missing"' in asked
    assert data.digest in asked


def test_a_digest_of_another_client_is_asked_for(small: Serving) -> None:
    """Naming a digest gives nothing: neither the bytes, nor that somebody has sent them."""
    secret = constant(100_000, 11)
    client = small.client()
    assert uploaded(RemoteExecutor(client, "tiny"), saving(secret)) == 100_000
    with small.socket() as sock:
        greet(sock)
        announce(sock, saving(secret), head(secret))
        asked = sock.recv(timeout=30)
    client.close()

    assert '"missing"' in asked


def test_a_client_that_never_sends_what_it_announced_is_not_waited_for(small: Serving) -> None:
    data = constant(100_000, 12)
    with small.socket() as sock:
        greet(sock)
        announce(sock, saving(data), head(data))
        refused = failure(sock)

    assert refused["code"] == "limit-exceeded"
    assert refused["hint"]


def test_an_interrupted_upload_is_cancelled_and_the_connection_goes_on(lab: Serving) -> None:
    """Ctrl-C after the first megabyte of very many."""
    client = lab.client()
    executor = RemoteExecutor(client, "tiny")
    link = client.link()
    graph = saving(*(constant(16 * MIB, fill) for fill in range(16)))
    heard: list[Sending] = []

    def interrupt(event: RunEvent) -> None:
        keep(heard, event)
        if len(heard) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        executor.run(request_for(graph), interrupt)
    values = values_of(executor, request_for(saving(constant(100_000, 3))))

    assert client.link() is link
    assert heard[-1].sent_bytes < heard[-1].total_bytes
    assert values["x0"].sum() == 300_000
    client.close()


def test_an_upload_can_be_cancelled_from_another_thread(lab: Serving) -> None:
    client = lab.client()
    executor = RemoteExecutor(client, "tiny")
    request = request_for(saving(*(constant(16 * MIB, fill) for fill in range(16))))
    events: list[RunEvent] = []

    def cancel(event: RunEvent) -> None:
        events.append(event)
        if isinstance(event, Sending):
            thread = threading.Thread(target=executor.cancel, args=(request.id,))
            thread.start()
            thread.join()

    executor.run(request, cancel)
    client.close()

    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, errors.Cancelled)
    sent = [event.sent_bytes for event in events if isinstance(event, Sending)]
    assert sent[-1] < 256 * MIB


def test_many_runs_at_once_send_a_constant_once(lab: Serving) -> None:
    client = lab.client()
    executor = RemoteExecutor(client, "tiny")
    executor.card()
    graph = saving(constant(8 * MIB, 5))
    sent: list[int] = []
    threads = [
        threading.Thread(target=lambda: sent.append(uploaded(executor, graph))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()

    assert sorted(sent) == [0] * 5 + [8 * MIB]


def test_a_served_constant_is_charged_to_the_run() -> None:
    """A graph of few bytes that makes many copies of one constant is measured before it runs."""
    limits = replace(ServerLimits(), working_bytes=20 * MIB)
    with serving(("tiny", tiny_engine), limits=limits) as running:
        client = running.client()
        with pytest.raises(errors.LimitExceeded):
            uploaded(RemoteExecutor(client, "tiny"), saving(*[constant(MIB)] * 30))
        client.close()
