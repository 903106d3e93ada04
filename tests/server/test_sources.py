"""Laws of an ask for the source of a module: it is answered or refused, and holds nobody up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nnsight_lab.contract import Done
from nnsight_lab.errors import AddressNotFound, ModelNotFound, NotSupported
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.executors.remote_client import LabClient
from nnsight_lab.wire import messages as m
from nnsight_lab.wire.codec import encode_message
from nnsight_lab_server.config import ServerLimits
from tests.server.lab_server import GatedEngine, Run, reads, request_for, serving, tiny_engine

MLP = "model.layers.0.mlp"


def test_the_server_knows_what_the_model_knows(client: LabClient, local: LocalExecutor) -> None:
    request = request_for(reads("logits"))

    assert client.source("tiny", MLP) == local.source_of(MLP, request.inputs)


def test_what_is_not_there_is_refused(client: LabClient) -> None:
    with pytest.raises(ModelNotFound):
        client.source("large", MLP)
    with pytest.raises(AddressNotFound, match=r"model\.layers\.99\.mlp"):
        client.source("tiny", "model.layers.99.mlp")
    with pytest.raises(NotSupported, match="never runs"):
        client.source("tiny", "model.layers")


def test_more_asks_than_may_wait_are_refused_one_by_one() -> None:
    count = 40
    with serving(("tiny", tiny_engine), limits=ServerLimits(queued=2)) as running:
        with running.socket() as socket:
            socket.send(encode_message(m.Hello(m.PROTOCOL, {})))
            socket.recv()
            for ask in range(1, count + 1):
                socket.send(encode_message(m.GetSource(ask, "tiny", MLP)))
            answers: list[dict[str, Any]] = [json.loads(socket.recv()) for _ in range(count)]
        client = running.client()
        assert client.source("tiny", MLP).operations == ("mul_0",)
        client.close()

    assert sorted(answer["ask"] for answer in answers) == list(range(1, count + 1))
    refused = [answer for answer in answers if answer["type"] == "error"]
    assert {answer["error"]["code"] for answer in refused} == {"limit-exceeded"}
    assert 0 < len(refused) < count


def test_a_known_source_does_not_wait_for_a_run_to_end() -> None:
    gated: list[GatedEngine] = []

    def load() -> GatedEngine:
        gated.append(GatedEngine(tiny_engine()))
        return gated[0]

    with serving(("tiny", load)) as running:
        client = running.client()
        first = client.source("tiny", MLP)
        run = Run(RemoteExecutor(client, "tiny"), request_for(reads("layers.0.output", "logits")))
        gated[0].before.set()
        assert gated[0].saved.wait(60)

        assert client.source("tiny", MLP) == first
        gated[0].open()
        assert isinstance(run.end(), Done)
        client.close()
