"""Two ends of the wire in one process, with nothing between them but lists of messages.

`Talk` plays both roles with real connections. Helpers name things in the protocol's words.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from nnsight_lab import contract
from nnsight_lab.contract import TokenRows
from nnsight_lab.ir import (
    Address,
    DictSpec,
    Dim,
    ModuleCard,
    ModuleTree,
    OpaqueSpec,
    Ref,
    Site,
    SizeForm,
    TensorData,
    TensorSpec,
    TupleSpec,
)
from nnsight_lab.wire import (
    ClientConnection,
    ModelSummary,
    Outgoing,
    ServerConnection,
    Value,
    WireLimits,
)
from nnsight_lab.wire.events import ClientEvent, ServerEvent

__all__ = ["LIMITS", "SUMMARY", "Talk", "card", "heard", "plain", "tensor", "value"]

#: Small enough that a test can go over each of them.
LIMITS = WireLimits(
    chunk_bytes=16,
    frame_bytes=64,
    text_bytes=20_000,
    graph_bytes=1_000,
    blob_bytes=1_000,
    card_bytes=100_000,
    result_bytes=10_000,
    jobs=4,
    tensors=8,
    mistakes=20,
)
SUMMARY = ModelSummary("tiny", "LlamaForCausalLM", "float32", "transformers", "cpu", 6, 1_600_000)


def tensor(count: int, dtype: str = "uint8", fill: int = 0) -> TensorData:
    """A tensor of `count` bytes."""
    return TensorData(dtype, (count,), bytes((fill + i) % 256 for i in range(count)))


def value(*tensors: TensorData) -> Value:
    """One tensor by itself, or a tuple of them."""
    refs = tuple(Ref(i) for i in range(len(tensors)))
    return Value(refs[0] if len(refs) == 1 else refs, tensors)


def plain(message: Outgoing) -> dict[str, Any]:
    """A control message as the JSON it is."""
    assert isinstance(message, str)
    return dict(json.loads(message))


def heard(connection: ClientConnection, messages: Iterable[Outgoing]) -> list[ClientEvent]:
    """What a client makes of messages."""
    events: list[ClientEvent] = []
    for message in messages:
        if isinstance(message, str):
            events += connection.receive_text(message)
        else:
            events += connection.receive_bytes(message.to_bytes())
    return events


class Talk:
    """A client and a server that have greeted each other."""

    def __init__(self, limits: WireLimits = LIMITS) -> None:
        self.client = ClientConnection(limits)
        self.server = ServerConnection(limits)
        greeting = self.asks(self.client.hello({"nnsight-lab": "test"}))
        assert [type(event).__name__ for event in greeting] == ["Greeted"]
        self.tells(self.server.welcome({"nnsight-lab": "test"}, (SUMMARY,)))

    def asks(self, messages: Iterable[Outgoing]) -> list[ServerEvent]:
        """Messages from client to server."""
        events: list[ServerEvent] = []
        for message in messages:
            if isinstance(message, str):
                events += self.server.receive_text(message)
            else:
                events += self.server.receive_bytes(message.to_bytes())
        return events

    def tells(self, messages: Iterable[Outgoing]) -> list[ClientEvent]:
        """Messages from server to client."""
        return heard(self.client, messages)

    def job(self, graph: bytes = b"graph") -> int:
        """A job whose graph has arrived."""
        job, messages = self.client.submit("tiny", graph, (TokenRows(((1, 2),)),), "key")
        self.asks(messages)
        return job

    def told(self, job: int, event: contract.RunEvent) -> list[ClientEvent]:
        """The server tells, the client hears."""
        return self.tells(self.server.tell(job, event))


def card() -> contract.ModelCard:
    """A card with every kind of spec and size form in it."""
    dims = (Dim(SizeForm.BATCH), Dim(SizeForm.POS, 2), Dim(SizeForm.FIXED, 64))
    hidden = TensorSpec("float32", dims)
    odd = TensorSpec("bool", (Dim(SizeForm.BATCH_POS, 3), Dim(SizeForm.UNKNOWN)))
    sites = (
        Site(Address("layers.0"), 3, hidden),
        Site(Address("layers.0", "input", 1), 2, TupleSpec((hidden, OpaqueSpec("NoneType")))),
        Site(
            Address(""),
            9,
            DictSpec(
                (
                    ("logits", odd),
                    ("none", TupleSpec(())),
                )
            ),
        ),
    )
    modules = (
        ModuleCard("", "Model"),
        ModuleCard("model.layers.0", "Block", (("weight", TensorSpec("bfloat16", dims[2:])),)),
    )
    same = ((Address("model.layers.0"), Address("layers.0")),)
    return contract.ModelCard(
        name="tiny",
        architecture="Model",
        dtype="bfloat16",
        tree=ModuleTree(modules, sites, same, (("norm", "model.norm"),)),
        capabilities=contract.Capabilities("transformers", "cpu", frozenset({"trace", "apply"})),
        layers=1,
        parameters=64,
        context=128,
        vocab=10,
        tokenizer={"tokenizer.json": '{"né": "🙂"}' * 3},
    )
