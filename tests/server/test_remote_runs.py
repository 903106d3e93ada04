"""Laws of a remote run: the values of a local one, in their own dtype, as they are made."""

from __future__ import annotations

import threading

import pytest
import torch

from nnsight_lab.contract import Accepted, Done, Queued, RunEvent, Saved, Started
from nnsight_lab.executors.local import LocalExecutor, load_local
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.executors.remote_client import LabClient
from nnsight_lab.ir import Address, Call, Gradient, Graph, Output, Read, Ref, Write
from nnsight_lab.settings import Settings
from nnsight_lab_server.engines.transformers_engine import TransformersEngine
from tests.server.lab_server import (
    GatedEngine,
    Run,
    Serving,
    reads,
    request_for,
    serving,
    values_of,
)

PLACES = ("layers.0.output", "layers.3.attn.pattern", "layers.2.mlp.neurons", "logits")


def test_a_remote_run_gives_what_a_local_one_gives(
    remote: RemoteExecutor, local: LocalExecutor
) -> None:
    request = request_for(reads(*PLACES), ((3, 4, 5), (6, 7, 8, 9, 10)))

    here, there = values_of(local, request), values_of(remote, request)

    assert list(there) == list(here)
    for name in PLACES:
        assert there[name].dtype == here[name].dtype
        assert torch.equal(there[name], here[name]), name


def test_a_gradient_is_the_same_there(remote: RemoteExecutor, local: LocalExecutor) -> None:
    hidden = Address("layers.2")
    graph = Graph(
        (
            Read(id=0, address=hidden),
            Read(id=1, address=Address("", "logits")),
            Call(id=2, op="operator.getitem", args=(Ref(1), (0, -1, 7))),
            Gradient(id=3, of=2, at=0),
        ),
        (Output("gradient", 3),),
    )

    here, there = values_of(local, request_for(graph)), values_of(remote, request_for(graph))

    assert torch.equal(there["gradient"], here["gradient"])
    assert there["gradient"].abs().sum() > 0


def test_an_edit_has_the_same_effect_there(remote: RemoteExecutor, local: LocalExecutor) -> None:
    hidden = Address("layers.2")
    edit = Graph(
        (
            Read(id=0, address=hidden),
            Call(id=1, op="torch.mul", args=(Ref(0), 0.5)),
            Write(id=2, address=hidden, value=1),
            Read(id=3, address=Address("", "logits")),
        ),
        (Output("logits", 3),),
    )

    here, there = values_of(local, request_for(edit)), values_of(remote, request_for(edit))
    clean = values_of(remote, request_for(reads("logits")))

    assert torch.equal(there["logits"], here["logits"])
    assert not torch.allclose(there["logits"], clean["logits"])


def test_a_tuple_comes_back_as_a_tuple(remote: RemoteExecutor, local: LocalExecutor) -> None:
    top = Graph(
        (
            Read(id=0, address=Address("", "logits")),
            Call(id=1, op="torch.topk", args=(Ref(0), 3)),
        ),
        (Output("top", 1),),
    )

    here = values_of(local, request_for(top))["top"]
    there = values_of(remote, request_for(top))["top"]

    assert isinstance(there, tuple)
    assert there[1].dtype == torch.int64
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(here, there, strict=True))


def test_bfloat16_arrives_bit_for_bit() -> None:
    half = load_local("tiny", Settings(), dtype=torch.bfloat16)
    request = request_for(reads("layers.1.output", "logits"))

    with serving(("half", lambda: TransformersEngine("half", half))) as running:
        client = running.client()
        there = values_of(RemoteExecutor(client, "half"), request)
        client.close()
    here = values_of(half, request)

    for name, value in there.items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value.view(torch.int16), here[name].view(torch.int16))


def test_a_received_tensor_owns_its_memory(remote: RemoteExecutor) -> None:
    value = values_of(remote, request_for(reads("layers.0.output")))["layers.0.output"]

    value += 1.0

    assert value.is_contiguous()
    assert not value.requires_grad


def test_events_come_in_order(remote: RemoteExecutor) -> None:
    events: list[RunEvent] = []
    remote.run(request_for(reads("layers.0.output", "logits")), events.append)

    kinds = [type(event) for event in events]
    assert kinds == [Accepted, Queued, Started, Saved, Saved, Done]
    last = events[-1]
    assert isinstance(last, Done)
    assert {"queued", "run"} <= set(last.seconds)
    saved = [event.value for event in events if isinstance(event, Saved)]
    assert last.sent_bytes == sum(value.numel() * 4 for value in saved)


def test_a_value_arrives_while_the_forward_pass_still_runs() -> None:
    model = load_local("tiny")
    gated = GatedEngine(TransformersEngine("tiny", model))
    gated.before.set()
    reached: list[str] = []
    for name in ("model.layers.0", "model.layers.1", "lm_head"):
        module = model.module.get_submodule(name)
        module.register_forward_pre_hook(lambda *_, name=name: reached.append(name))

    with serving(("tiny", lambda: gated)) as running:
        client = running.client()
        gated.card()
        reached.clear()
        run = Run(RemoteExecutor(client, "tiny"), request_for(reads("layers.0.output", "logits")))
        first = run.wait_for(Saved)
        # The pass stands at layer 0 and cannot go on before we open the door.
        so_far, heard = list(reached), list(run.events)
        gated.open()
        run.end()
        client.close()

    assert first.name == "layers.0.output"
    assert so_far == ["model.layers.0"]
    assert reached == ["model.layers.0", "model.layers.1", "lm_head"]
    assert sum(isinstance(event, Saved) for event in heard) == 1
    assert [event.name for event in run.events if isinstance(event, Saved)][1] == "logits"


def test_two_clients_at_once_get_only_their_own_values(lab: Serving, local: LocalExecutor) -> None:
    rows = [((i + 3, i + 5, i + 7),) for i in range(2)]
    graph = reads("layers.4.output", "logits")
    alone = [values_of(local, request_for(graph, row)) for row in rows]
    wrong: list[str] = []
    together = threading.Barrier(2)

    def work(index: int) -> None:
        client = lab.client()
        executor = RemoteExecutor(client, "tiny")
        together.wait()
        for _ in range(15):
            values = values_of(executor, request_for(graph, rows[index]))
            wrong.extend(
                f"client {index}: {name}"
                for name, value in values.items()
                if not torch.equal(value, alone[index][name])
            )
        client.close()

    run_threads(work, 2)

    assert wrong == []
    assert not torch.equal(alone[0]["logits"], alone[1]["logits"])


def test_many_jobs_share_one_connection(client: LabClient, local: LocalExecutor) -> None:
    graph = reads("logits")
    rows = [((i + 3, i + 4),) for i in range(8)]
    alone = [values_of(local, request_for(graph, row))["logits"] for row in rows]
    there: dict[int, torch.Tensor] = {}
    executor = RemoteExecutor(client, "tiny")

    def work(index: int) -> None:
        for _ in range(5):
            there[index] = values_of(executor, request_for(graph, rows[index]))["logits"]

    link = client.link()
    run_threads(work, 8)

    assert client.link() is link
    assert all(torch.equal(there[index], alone[index]) for index in range(8))


def run_threads(work: object, count: int) -> None:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("count", [1, 40])
def test_a_large_value_arrives_in_pieces(
    remote: RemoteExecutor, local: LocalExecutor, count: int
) -> None:
    """40 prompts of 32 tokens: eleven megabytes of logits, so eleven frames."""
    rows = tuple(tuple(range(3 + i, 35 + i)) for i in range(count))
    request = request_for(reads("logits"), rows)

    there = values_of(remote, request)["logits"]

    assert torch.equal(there, values_of(local, request)["logits"])
