"""Laws of the server's side: whatever a client sends is an event or a typed answer; nothing raises."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsight_lab import contract
from nnsight_lab.contract import TokenRows
from nnsight_lab.errors import Cancelled, EngineFailed, LimitExceeded
from nnsight_lab.wire import LocalProtocolError, RemoteProtocolError, ServerConnection, WireLimits
from nnsight_lab.wire import messages as m
from nnsight_lab.wire.codec import encode_message
from nnsight_lab.wire.events import CancelAsked, JobSubmitted, Mistake, ServerEvent
from nnsight_lab.wire.frames import FrameKind, frames_of
from tests.wire.talk import LIMITS, Talk, plain, tensor, value


def only_mistake(events: list[ServerEvent]) -> Mistake:
    (event,) = events
    assert isinstance(event, Mistake)
    return event


def submit(job: int, size: int = 5) -> str:
    return encode_message(m.Submit(job, "tiny", size, (TokenRows(((1,),)),), "key"))


def graph_frames(job: int, data: bytes = b"graph") -> list[bytes]:
    return [frame.to_bytes() for frame in frames_of(FrameKind.GRAPH, job, data, 16)]


def test_a_job_is_submitted_when_its_last_frame_arrived() -> None:
    talk = Talk()
    graph = bytes(range(40))
    job, messages = talk.client.submit("tiny", graph, (TokenRows(((1, 2), (3,))),), "key")

    assert talk.asks(messages[:-1]) == []
    assert talk.asks(messages[-1:]) == [
        JobSubmitted(job, "tiny", graph, (TokenRows(((1, 2), (3,))),), "key")
    ]


def test_uploads_of_several_jobs_may_be_interleaved() -> None:
    talk = Talk()
    one, first = talk.client.submit("tiny", bytes(40), (TokenRows(((1,),)),), "a")
    two, second = talk.client.submit("tiny", bytes(40), (TokenRows(((2,),)),), "b")
    woven = [message for pair in zip(first, second, strict=True) for message in pair]

    submitted = [event.job for event in talk.asks(woven) if isinstance(event, JobSubmitted)]

    assert submitted == [one, two]


def test_nothing_is_done_before_hello() -> None:
    server = ServerConnection(LIMITS)

    mistake = only_mistake(server.receive_text(encode_message(m.ListModels(1))))

    assert isinstance(mistake.error, RemoteProtocolError)
    assert not mistake.fatal
    assert plain(server.answer(mistake)[0])["error"]["code"] == "protocol-error"


def test_another_protocol_version_is_told_both_versions_and_ends() -> None:
    server = ServerConnection(LIMITS)

    mistake = only_mistake(server.receive_text(encode_message(m.Hello(99, {}))))

    assert mistake.fatal
    assert "99" in mistake.error.message
    assert str(m.PROTOCOL) in mistake.error.message


@pytest.mark.parametrize(
    "sent",
    [
        "garbage",
        "{}",
        encode_message(m.Hello(m.PROTOCOL, {})),
        encode_message(m.Started(1, 0)),
        encode_message(m.Cancel(9)),
        b"garbage",
        graph_frames(9)[0],
        frames_of(FrameKind.VALUE, 1, b"x", 16)[0].to_bytes(),
        frames_of(FrameKind.GRAPH, 1, b"x", 16, stream=1)[0].to_bytes(),
        "x" * (LIMITS.text_bytes + 1),
        bytes(LIMITS.frame_bytes + 100),
    ],
)
def test_a_mistake_is_answered_and_the_next_job_succeeds(sent: str | bytes) -> None:
    talk = Talk()

    events = (
        talk.server.receive_text(sent) if isinstance(sent, str) else talk.server.receive_bytes(sent)
    )
    mistake = only_mistake(events)
    answer = plain(talk.server.answer(mistake)[0])
    job = talk.job()

    assert answer["type"] == "error"
    assert answer["error"]["code"] in {"protocol-error", "limit-exceeded"}
    assert not mistake.fatal
    assert talk.told(job, contract.Done())[0].__class__.__name__ == "JobTold"


def test_a_graph_over_the_limit_fails_its_job_and_its_frames_are_dropped() -> None:
    talk = Talk()
    size = LIMITS.graph_bytes + 1

    mistake = only_mistake(talk.server.receive_text(submit(1, size)))
    answer = plain(talk.server.answer(mistake)[0])
    ignored = [talk.server.receive_bytes(frame) for frame in graph_frames(1, bytes(size))]

    assert isinstance(mistake.error, LimitExceeded)
    assert (answer["type"], answer["job"], answer["seq"]) == ("failed", 1, 0)
    assert not any(ignored)
    assert talk.server.receive_text(submit(2)) == []
    assert isinstance(talk.server.receive_bytes(graph_frames(2)[0])[0], JobSubmitted)


def test_a_broken_upload_fails_its_job_only() -> None:
    talk = Talk()
    talk.server.receive_text(submit(1, 40))
    talk.server.receive_text(submit(2))
    frames = graph_frames(1, bytes(40))

    mistake = only_mistake(talk.server.receive_bytes(frames[1]))
    failed = plain(talk.server.answer(mistake)[0])

    assert (failed["type"], failed["job"]) == ("failed", 1)
    assert talk.server.receive_bytes(frames[2]) == []
    assert isinstance(talk.server.receive_bytes(graph_frames(2)[0])[0], JobSubmitted)


@pytest.mark.parametrize("job", [0, 1])
def test_a_job_number_is_used_once(job: int) -> None:
    talk = Talk()
    talk.server.receive_text(submit(1))

    assert "rise" in only_mistake(talk.server.receive_text(submit(job))).error.message


def test_more_unfinished_jobs_than_the_limit_are_refused() -> None:
    talk = Talk()
    for _ in range(LIMITS.jobs):
        talk.job()
    job, messages = talk.client.submit("tiny", b"graph", (TokenRows(((1,),)),), "key")

    mistake = only_mistake(talk.asks(messages))

    assert isinstance(mistake.error, LimitExceeded)
    assert mistake.job == job


def test_graphs_of_unfinished_jobs_are_bounded_together() -> None:
    talk = Talk()
    jobs = [talk.job(bytes(LIMITS.graph_bytes)) for _ in range(2)]
    _, messages = talk.client.submit("tiny", b"graph", (TokenRows(((1,),)),), "key")

    assert isinstance(only_mistake(talk.asks(messages)).error, LimitExceeded)
    talk.told(jobs[0], contract.Done())
    assert talk.job() in talk.server.jobs


def test_graphs_announced_and_never_sent_end_the_connection() -> None:
    talk = Talk()
    fatal = []
    for job in range(1, LIMITS.jobs + 2):
        for event in talk.server.receive_text(submit(job, LIMITS.graph_bytes + 1)):
            assert isinstance(event, Mistake)
            talk.server.answer(event)
            fatal.append(event.fatal)

    assert fatal == [False] * LIMITS.jobs + [True]


def test_very_many_mistakes_end_the_connection() -> None:
    talk = Talk()
    fatal = [only_mistake(talk.server.receive_text("?")).fatal for _ in range(LIMITS.mistakes)]

    assert fatal == [False] * (LIMITS.mistakes - 1) + [True]


def test_cancel_is_an_event_until_the_job_has_ended() -> None:
    talk = Talk()
    job = talk.job()
    cancel = encode_message(m.Cancel(job))

    assert talk.server.receive_text(cancel) == [CancelAsked(job)]
    talk.server.tell(job, contract.Failed(Cancelled("stopped")))
    assert talk.server.receive_text(cancel) == []


def test_a_job_cancelled_while_its_graph_arrives_is_never_submitted() -> None:
    talk = Talk()
    talk.server.receive_text(submit(1, 40))
    frames = graph_frames(1, bytes(40))
    talk.server.receive_bytes(frames[0])
    talk.server.tell(1, contract.Failed(Cancelled("stopped")))

    assert [talk.server.receive_bytes(frame) for frame in frames[1:]] == [[], []]


def test_events_of_a_job_are_numbered_and_end_once() -> None:
    talk = Talk()
    job = talk.job()
    events: list[contract.RunEvent] = [
        contract.Accepted(),
        contract.Queued(2),
        contract.Started(),
        contract.Done({}, 5),
    ]

    told = [plain(talk.server.tell(job, event)[0]) for event in events]

    assert [(each["type"], each["seq"]) for each in told] == [
        ("accepted", 0),
        ("queued", 1),
        ("started", 2),
        ("done", 3),
    ]
    with pytest.raises(LocalProtocolError):
        talk.server.tell(job, contract.Done())


def test_streams_of_a_job_have_numbers_of_their_own() -> None:
    talk = Talk()
    job = talk.job()

    first = talk.server.tell(job, contract.Saved("a", value(tensor(4), tensor(4))))
    second = talk.server.tell(job, contract.Saved("b", value(tensor(4))))

    assert [head["stream"] for head in plain(first[0])["tensors"]] == [0, 1]
    assert [head["stream"] for head in plain(second[0])["tensors"]] == [2]


def test_an_error_is_cut_and_made_writable() -> None:
    talk = Talk()
    error = EngineFailed("\ud800" + "x" * 100_000, node=3)

    sent = plain(talk.server.tell(talk.job(), contract.Failed(error))[0])["error"]

    assert len(sent["message"]) < 10_000
    assert (sent["code"], sent["node"]) == ("engine-failed", 3)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_spoiled_conversation_gives_events_and_never_raises(data: st.DataObject) -> None:
    """Messages of a good conversation: cut, doubled, swapped, bytes changed."""
    talk = Talk(replace(LIMITS, mistakes=1_000))
    job, messages = talk.client.submit("tiny", bytes(range(40)), (TokenRows(((1, 2),)),), "key")
    raw: list[str | bytes] = [m if isinstance(m, str) else m.to_bytes() for m in messages]
    raw += [encode_message(m.Cancel(job)), encode_message(m.GetCard(1, "tiny"))]
    for message in data.draw(st.lists(st.sampled_from(raw), max_size=12)):
        spoiled = data.draw(st.just(message) | spoilt(message))
        events = (
            talk.server.receive_text(spoiled)
            if isinstance(spoiled, str)
            else talk.server.receive_bytes(spoiled)
        )
        for event in events:
            if isinstance(event, Mistake):
                assert event.error.code in {"protocol-error", "limit-exceeded"}
                assert talk.server.answer(event)


def spoilt(message: str | bytes) -> st.SearchStrategy[str | bytes]:
    places = st.integers(0, len(message) - 1)
    if isinstance(message, str):
        return st.tuples(places, st.text(max_size=2)).map(
            lambda change: message[: change[0]] + change[1] + message[change[0] + 1 :]
        )
    return st.tuples(places, st.binary(max_size=2)).map(
        lambda change: message[: change[0]] + change[1] + message[change[0] + 1 :]
    )


def test_a_flood_of_mistakes_takes_no_memory() -> None:
    server = ServerConnection(WireLimits(mistakes=10**9))
    server.receive_text(encode_message(m.Hello(m.PROTOCOL, {})))
    frame = graph_frames(5)[0]
    tracemalloc.start()
    for _ in range(5_000):
        server.receive_bytes(frame)
        server.receive_text('{"type": "cancel", "job": 7}')
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert left < 50_000
