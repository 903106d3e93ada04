"""Laws of the client's side: a saved value arrives as it was, and a broken server is seen at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsight_lab import contract
from nnsight_lab.contract import TokenRows
from nnsight_lab.errors import (
    AddressNotFound,
    LabError,
    LimitExceeded,
    ModelNotFound,
    OpFailed,
)
from nnsight_lab.ir import (
    Address,
    DictArg,
    ListArg,
    ModuleSource,
    OpaqueSpec,
    Ref,
    Site,
    SourceCall,
    TensorData,
)
from nnsight_lab.wire import (
    ClientConnection,
    LocalProtocolError,
    RemoteProtocolError,
    Value,
    encode_card,
)
from nnsight_lab.wire import messages as m
from nnsight_lab.wire.codec import encode_message
from nnsight_lab.wire.events import (
    AskFailed,
    CardArrived,
    Complaint,
    JobTold,
    ModelsListed,
    SourceArrived,
    SourceAsked,
)
from nnsight_lab.wire.frames import FrameKind, frames_of
from tests.wire.talk import LIMITS, SUMMARY, Talk, card, tensor, value


@given(st.lists(st.integers(0, 100), max_size=5))
def test_a_saved_value_arrives_as_it_was(sizes: list[int]) -> None:
    talk = Talk()
    job = talk.job()
    tensors = tuple(tensor(size, fill=i) for i, size in enumerate(sizes))
    structure = DictArg((("x", ListArg(tuple(Ref(i) for i in range(len(sizes))))), ("n", 3)))
    saved = contract.Saved("x", Value(structure, tensors))

    assert talk.told(job, saved) == [JobTold(job, 0, saved)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "bool", "complex64", "int8"])
def test_a_tensor_keeps_its_dtype_shape_and_every_bit(dtype: str) -> None:
    talk = Talk()
    job = talk.job()
    sizes = {"bfloat16": 2, "float64": 8, "bool": 1, "complex64": 8, "int8": 1}
    data = TensorData(dtype, (2, 0 + 3), bytes(range(6 * sizes[dtype])))

    (event,) = talk.told(job, contract.Saved("x", value(data)))

    assert isinstance(event, JobTold)
    assert isinstance(event.event, contract.Saved)
    assert event.event.value.tensors == (data,)


def test_a_value_is_told_when_its_last_byte_arrived() -> None:
    talk = Talk()
    messages = talk.server.tell(talk.job(), contract.Saved("x", value(tensor(40), tensor(20))))

    told = [bool(talk.tells([message])) for message in messages]

    assert told == [False] * (len(messages) - 1) + [True]


def test_values_of_several_jobs_may_be_interleaved() -> None:
    talk = Talk()
    jobs = [talk.job(), talk.job()]
    streams = [
        talk.server.tell(job, contract.Saved("x", value(tensor(40, fill=job)))) for job in jobs
    ]

    events = talk.tells([message for pair in zip(*streams, strict=True) for message in pair])

    heard = {event.job: event.event for event in events if isinstance(event, JobTold)}
    assert heard == {job: contract.Saved("x", value(tensor(40, fill=job))) for job in jobs}


def test_an_error_arrives_as_its_own_class_with_its_node() -> None:
    talk = Talk()
    error = OpFailed("no", hint="do", node=4)

    (event,) = talk.told(talk.job(), contract.Failed(error))

    assert isinstance(event, JobTold)
    assert isinstance(event.event, contract.Failed)
    assert type(event.event.error) is OpFailed
    assert event.event.error.to_plain() == error.to_plain()


def test_asks_are_answered_in_any_order() -> None:
    talk = Talk()
    models, _ = talk.client.list_models()
    found, _ = talk.client.get_card("tiny")
    missing, _ = talk.client.get_card("big")

    messages = [
        *talk.server.refuse(missing, ModelNotFound("no")),
        *talk.server.card(found, encode_card(card())),
        *talk.server.models(models, (SUMMARY,)),
    ]
    refused, arrived, listed = talk.tells(messages)

    assert isinstance(refused, AskFailed)
    assert isinstance(refused.error, ModelNotFound)
    assert arrived == CardArrived(found, card())
    assert listed == ModelsListed(models, (SUMMARY,))


def test_an_ask_for_a_source_is_answered_or_refused() -> None:
    talk = Talk()
    site = Site(Address("mlp", "source.mul_0.output"), 3, OpaqueSpec("varies"))
    source = ModuleSource(
        "mlp",
        "MLP",
        "mlp.py",
        (SourceCall("mul_0", False, "mlp.py", "forward", 7, "a * b"),),
        (site,),
    )
    found, asked = talk.client.get_source("tiny", "mlp")
    missing, _ = talk.client.get_source("tiny", "nowhere")
    large, _ = talk.client.get_source("tiny", "large")

    assert talk.asks(asked) == [SourceAsked(found, "tiny", "mlp")]
    arrived, refused, cut = talk.tells(
        [
            *talk.server.source(found, source),
            *talk.server.refuse(missing, AddressNotFound("no", hint="look")),
            *talk.server.source(large, replace(source, sites=(site,) * 1_000)),
        ]
    )

    assert arrived == SourceArrived(found, source)
    assert isinstance(refused, AskFailed)
    assert isinstance(refused.error, AddressNotFound)
    assert isinstance(cut, AskFailed)
    assert isinstance(cut.error, LimitExceeded)


def test_a_complaint_is_told() -> None:
    talk = Talk()
    mistake = talk.server.receive_text("?")[0]

    (event,) = talk.tells(talk.server.answer(mistake))  # type: ignore[arg-type]

    assert isinstance(event, Complaint)


def test_nothing_can_be_asked_before_the_welcome() -> None:
    client = ClientConnection(LIMITS)

    for ask in (client.list_models, lambda: client.get_card("tiny")):
        with pytest.raises(LocalProtocolError):
            ask()
    with pytest.raises(LocalProtocolError):
        client.submit("tiny", b"", (TokenRows(((1,),)),), "")


def test_a_graph_over_the_servers_limit_is_not_sent() -> None:
    client = ClientConnection(LIMITS)
    client.receive_text(encode_message(m.Welcome(m.PROTOCOL, {}, (), 10, 0)))

    with pytest.raises(LimitExceeded) as refused:
        client.submit("tiny", bytes(11), (TokenRows(((1,),)),), "")
    assert refused.value.hint
    assert client.submit("tiny", bytes(10), (TokenRows(((1,),)),), "")[0] == 1


def test_prompts_over_the_limit_are_not_sent() -> None:
    talk = Talk()

    with pytest.raises(LimitExceeded):
        talk.client.submit("tiny", b"", (TokenRows(((1,) * LIMITS.text_bytes,)),), "")
    assert talk.job()


def test_a_job_that_ended_is_not_cancelled() -> None:
    talk = Talk()
    job = talk.job()

    assert talk.client.cancel(job)
    talk.told(job, contract.Done())
    assert talk.client.cancel(job) == []


def received(talk: Talk, sent: str | bytes) -> None:
    if isinstance(sent, str):
        talk.client.receive_text(sent)
    else:
        talk.client.receive_bytes(sent)


def head(size: int, stream: int = 0) -> m.TensorHead:
    return m.TensorHead(stream, "uint8", (size,))


@pytest.mark.parametrize(
    "broken",
    [
        lambda job: encode_message(m.Started(job + 1, 0)),
        lambda job: encode_message(m.Started(job, 1)),
        lambda job: encode_message(m.Models(job, ())),
        lambda job: encode_message(m.Cancel(job)),
        lambda job: encode_message(m.Welcome(m.PROTOCOL, {}, (), 5, 5)),
        lambda job: encode_message(m.Saved(job, 0, "x", Ref(1), ())),
        lambda job: encode_message(m.Saved(job, 0, "x", None, (head(1), head(1)))),
        lambda job: encode_message(m.Saved(job, 0, "x", Ref(0), (head(10**9),))),
        lambda job: encode_message(m.Saved(job, 0, "x", Ref(0), (head(2**62),) * 9)),
        lambda job: frames_of(FrameKind.VALUE, job, b"x", 16)[0].to_bytes(),
        lambda job: frames_of(FrameKind.CARD, 1, b"x", 16)[0].to_bytes(),
        lambda job: frames_of(FrameKind.GRAPH, job, b"x", 16)[0].to_bytes(),
        lambda _: "garbage",
        lambda _: b"garbage",
    ],
)
def test_a_server_that_breaks_the_protocol_is_seen(broken: Callable[[int], str | bytes]) -> None:
    talk = Talk()
    sent = broken(talk.job())

    with pytest.raises((RemoteProtocolError, LimitExceeded)):
        received(talk, sent)


def test_done_before_all_values_arrived_is_a_fault() -> None:
    talk = Talk()
    job = talk.job()
    messages = talk.server.tell(job, contract.Saved("x", value(tensor(40))))
    talk.tells(messages[:-1])

    with pytest.raises(RemoteProtocolError):
        talk.told(job, contract.Done())


def test_results_of_a_job_are_bounded_together() -> None:
    talk = Talk()
    job = talk.job()
    part = LIMITS.result_bytes // 2
    talk.told(job, contract.Saved("a", value(tensor(part))))
    talk.told(job, contract.Saved("b", value(tensor(part))))

    with pytest.raises(LimitExceeded):
        talk.told(job, contract.Saved("c", value(tensor(1))))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_spoiled_answer_gives_events_or_a_typed_error(data: st.DataObject) -> None:
    talk = Talk()
    job = talk.job()
    told = [
        *talk.server.tell(job, contract.Accepted()),
        *talk.server.tell(job, contract.Saved("x", value(tensor(40), tensor(3)))),
        *talk.server.tell(job, contract.Done({"run": 0.5}, 43)),
    ]
    raw: list[str | bytes] = [m if isinstance(m, str) else m.to_bytes() for m in told]
    index = data.draw(st.integers(0, len(raw) - 1))
    message = raw[index]
    place = data.draw(st.integers(0, len(message) - 1))
    if isinstance(message, str):
        raw[index] = message[:place] + data.draw(st.text(max_size=2)) + message[place + 1 :]
    else:
        raw[index] = message[:place] + data.draw(st.binary(max_size=2)) + message[place + 1 :]
    try:
        for each in raw:
            received(talk, each)
    except LabError as exc:
        assert exc.code in {"protocol-error", "limit-exceeded"}  # noqa: PT017 - may also pass
