"""Laws of large constants: sent when asked for, once; believed when their digest says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsight_lab import contract
from nnsight_lab.contract import TokenRows
from nnsight_lab.errors import Cancelled, LimitExceeded
from nnsight_lab.ir import TensorData
from nnsight_lab.wire import BlobStore, LocalProtocolError, RemoteProtocolError, ServerConnection
from nnsight_lab.wire import messages as m
from nnsight_lab.wire.codec import encode_message
from nnsight_lab.wire.events import BlobsAsked, BlobsMissing, JobSubmitted, Mistake, ServerEvent
from nnsight_lab.wire.frames import Frame, FrameKind, frames_of
from tests.wire.talk import LIMITS, Talk, plain, tensor

Blobs = dict[str, TensorData]


def blobs(*tensors: TensorData) -> Blobs:
    return {each.digest: each for each in tensors}


def submit(talk: Talk, named: Blobs) -> tuple[int, list[ServerEvent]]:
    """A job whose graph has arrived, and what the server made of it."""
    job, messages = talk.client.submit("tiny", b"graph", (TokenRows(((1,),)),), "key", named)
    return job, talk.asks(messages)


def ask(talk: Talk, events: list[ServerEvent]) -> None:
    """The server asks for what it lacks."""
    for event in events:
        if isinstance(event, BlobsMissing):
            told = talk.tells(talk.server.ask_for(event.job, event.digests))
            assert told == [BlobsAsked(event.job)]


def frames(talk: Talk, job: int) -> list[Frame]:
    """What the client has to send of a job's constants now."""
    found = []
    while (each := talk.client.next_blob_frame(job)) is not None:
        found.append(each[0])
    return found


def whole(events: list[ServerEvent]) -> list[int]:
    return [event.job for event in events if isinstance(event, JobSubmitted)]


def run(talk: Talk, named: Blobs) -> tuple[int, int]:
    """A job from submission to its end; how many bytes of constants were sent."""
    job, events = submit(talk, named)
    ask(talk, events)
    sent = frames(talk, job)
    events += talk.asks(sent)
    (submitted,) = (event for event in events if isinstance(event, JobSubmitted))
    assert dict(submitted.blobs) == named
    talk.told(job, contract.Done())
    return job, sum(len(frame.payload) for frame in sent)


@given(st.lists(st.integers(0, 100), max_size=5))
def test_a_constant_arrives_as_it_was_and_travels_once(sizes: list[int]) -> None:
    talk = Talk()
    named = blobs(*(tensor(size, fill=i) for i, size in enumerate(sizes)))

    _, first = run(talk, named)
    _, second = run(talk, named)

    assert first == sum(len(each.data) for each in named.values())
    assert second == 0


def test_a_changed_constant_is_sent_and_the_others_are_not() -> None:
    talk = Talk()
    same, old, new = tensor(40), tensor(40, fill=1), tensor(40, fill=2)
    run(talk, blobs(same, old))

    assert run(talk, blobs(same, new))[1] == 40
    assert run(talk, blobs(same, old, new))[1] == 0


def test_dtype_and_shape_are_part_of_what_a_digest_names() -> None:
    data = bytes(range(8))
    tensors = [TensorData("uint8", (8,), data), TensorData("int8", (8,), data)]
    tensors += [TensorData("uint8", (2, 4), data), TensorData("int64", (), data)]

    assert len(blobs(*tensors)) == 4
    assert run(Talk(), blobs(*tensors))[1] == 32


def test_a_job_waits_for_its_last_constant() -> None:
    talk = Talk()
    job, events = submit(talk, blobs(tensor(40), tensor(20)))
    ask(talk, events)

    told = [whole(talk.asks([frame])) for frame in frames(talk, job)]

    assert told == [[]] * (len(told) - 1) + [[job]]


def test_progress_counts_to_the_end() -> None:
    talk = Talk()
    job, events = submit(talk, blobs(tensor(40)))
    ask(talk, events)

    sent = []
    while (each := talk.client.next_blob_frame(job)) is not None:
        sent.append((each[1].sent_bytes, each[1].total_bytes))

    assert sent == [(16, 40), (32, 40), (40, 40)]


def test_a_constant_of_two_jobs_is_asked_of_the_first_only() -> None:
    talk = Talk()
    named = blobs(tensor(40))
    one, first = submit(talk, named)
    two, second = submit(talk, named)
    ask(talk, first)

    assert second == []
    assert whole(talk.asks(frames(talk, one))) == [one, two]


def test_the_second_job_sends_what_the_first_no_longer_will() -> None:
    talk = Talk()
    named = blobs(tensor(40))
    one, first = submit(talk, named)
    two, _ = submit(talk, named)
    ask(talk, first)
    late = frames(talk, one)
    talk.asks(late[:1])

    told = talk.told(one, contract.Failed(Cancelled("stopped")))

    assert told[-1] == BlobsAsked(two)
    assert talk.asks(late[1:]) == []
    assert whole(talk.asks(frames(talk, two))) == [two]


def test_a_cancelled_job_sends_no_more() -> None:
    talk = Talk()
    job, events = submit(talk, blobs(tensor(40), tensor(30)))
    ask(talk, events)
    assert talk.client.next_blob_frame(job) is not None

    cancel = talk.client.cancel(job)

    assert len(cancel) == 1
    assert talk.client.next_blob_frame(job) is None


def test_a_job_cancelled_before_it_is_asked_sends_nothing() -> None:
    talk = Talk()
    job, events = submit(talk, blobs(tensor(40)))
    talk.client.cancel(job)
    ask(talk, events)

    assert frames(talk, job) == []


def test_what_is_not_what_its_digest_says_fails_its_job_and_is_not_kept() -> None:
    talk = Talk()
    named = blobs(tensor(40))
    job, events = submit(talk, named)
    ask(talk, events)
    spoiled = [replace(frame, payload=memoryview(b"\xff" * 16)) for frame in frames(talk, job)[:2]]
    spoiled += frames_of(FrameKind.BLOB, job, bytes(40), 16)[2:]

    (mistake,) = talk.asks(spoiled)
    assert isinstance(mistake, Mistake)
    assert isinstance(mistake.error, RemoteProtocolError)
    assert "digest" in mistake.error.message
    assert (plain(talk.server.answer(mistake)[0])["type"], mistake.job) == ("failed", job)

    fresh = Talk()
    assert run(fresh, named)[1] == 40
    assert talk.server.uploads.waiting == ()


@pytest.mark.parametrize("stream", [1, 7])
def test_a_constant_nobody_asked_for_is_a_mistake(stream: int) -> None:
    talk = Talk()
    job, events = submit(talk, blobs(tensor(40)))
    ask(talk, events)

    (mistake,) = talk.asks(frames_of(FrameKind.BLOB, job, bytes(10), 16, stream=stream))

    assert isinstance(mistake, Mistake)
    assert isinstance(mistake.error, RemoteProtocolError)


def test_constants_over_the_limit_are_refused_on_both_sides() -> None:
    talk = Talk()
    large = blobs(tensor(LIMITS.blob_bytes - 10), tensor(11, fill=1))
    heads = tuple(m.BlobHead(digest, each.dtype, each.shape) for digest, each in large.items())

    with pytest.raises(LimitExceeded) as refused:
        talk.client.submit("tiny", b"graph", (TokenRows(((1,),)),), "key", large)
    (mistake,) = talk.server.receive_text(
        encode_message(m.Submit(1, "tiny", 5, (TokenRows(((1,),)),), "key", heads))
    )

    assert str(LIMITS.blob_bytes) in refused.value.message
    assert isinstance(mistake, Mistake)
    assert isinstance(mistake.error, LimitExceeded)
    assert mistake.job == 1


def test_constants_of_unfinished_jobs_are_bounded_together() -> None:
    talk = Talk()
    jobs = [submit(talk, blobs(tensor(LIMITS.blob_bytes, fill=i)))[0] for i in range(2)]
    shared, events = submit(talk, blobs(tensor(LIMITS.blob_bytes)))
    assert events == []  # the same constant as the first: no more bytes

    _, events = submit(talk, blobs(tensor(50, fill=9)))
    (mistake,) = events
    assert isinstance(mistake, Mistake)
    assert isinstance(mistake.error, LimitExceeded)
    talk.tells(talk.server.answer(mistake))

    for job in (*jobs, shared):
        talk.told(job, contract.Failed(Cancelled("stopped")))
    assert run(talk, blobs(tensor(50, fill=9)))[1] == 50


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda head: (head, head),
        lambda head: (replace(head, digest=head.digest.upper()),),
        lambda head: (replace(head, digest=head.digest[:-1]),),
        lambda head: (replace(head, dtype="object"),),
        lambda head: (replace(head, shape=(-1,)),),
        lambda head: (replace(head, shape=(2**62,) * 60),),
    ],
)
def test_what_names_no_constant_is_refused(spoiled: object) -> None:
    talk = Talk()
    heads = spoiled(m.BlobHead(tensor(4).digest, "uint8", (4,)))  # type: ignore[operator]

    (event,) = talk.server.receive_text(
        encode_message(m.Submit(1, "tiny", 5, (TokenRows(((1,),)),), "key", heads))
    )

    assert isinstance(event, Mistake)


@pytest.mark.parametrize("asked", ["another", "again"])
def test_a_server_that_asks_for_what_the_job_has_not_is_seen(asked: str) -> None:
    talk = Talk()
    one = tensor(40)
    job, events = submit(talk, blobs(one))
    ask(talk, events)
    digest = one.digest if asked == "again" else tensor(41).digest

    with pytest.raises(RemoteProtocolError):
        talk.client.receive_text(encode_message(m.Missing(job, (digest,))))


def test_an_upload_is_what_only_clients_tell() -> None:
    talk = Talk()

    with pytest.raises(LocalProtocolError):
        talk.server.tell(talk.job(), contract.Sending(1, 2))


# ---------------------------------------------------------------- what a server keeps

ROOM = 4_096
"""What the store counts for an entry beside its bytes."""


def put(store: BlobStore, owner: str, data: TensorData) -> bool:
    """Use a constant once; whether it had to be sent."""
    had = store.pin(owner, data.digest, len(data.data))
    if had is None:
        store.fill(owner, data.digest, data)
    store.unpin(owner, data.digest)
    return had is None


def test_what_was_used_longest_ago_goes_first() -> None:
    store = BlobStore(2 * (ROOM + 100))
    one, two, three = (tensor(100, fill=i) for i in range(3))

    assert [put(store, "a", each) for each in (one, two, one, three)] == [True, True, False, True]
    assert [put(store, "a", each) for each in (one, two)] == [False, True]


def test_no_owner_learns_what_another_has_sent() -> None:
    store = BlobStore(10**6)
    secret = tensor(100)
    put(store, "a", secret)

    assert store.pin("b", secret.digest, 100) is None
    store.unpin("b", secret.digest)
    assert store.pin("a", secret.digest, 100) == secret


def test_what_a_job_needs_is_not_let_go() -> None:
    store = BlobStore(2 * (ROOM + 100))
    one, two, three = (tensor(100, fill=i) for i in range(3))
    for each in (one, two):
        store.pin("a", each.digest, 100)
        store.fill("a", each.digest, each)

    with pytest.raises(LimitExceeded):
        store.pin("b", three.digest, 100)
    store.unpin("a", one.digest)
    assert store.pin("b", three.digest, 100) is None
    assert store.pin("a", two.digest, 100) == two


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 5), st.sampled_from(["use", "pin", "bye"])),
        max_size=40,
    )
)
def test_the_store_never_holds_more_than_it_may(steps: list[tuple[str, int, str]]) -> None:
    store = BlobStore(3 * ROOM + 200)
    for owner, fill, step in steps:
        data = tensor(fill * 20, fill=fill)
        try:
            if step == "bye":
                store.forget(owner)
            elif step == "use":
                put(store, owner, data)
            else:
                store.pin(owner, data.digest, len(data.data))
        except LimitExceeded:
            pass
        assert 0 <= store.used <= store.most
    for owner in "ab":
        store.forget(owner)
    assert store.used == 0


def test_a_client_that_goes_leaves_nothing() -> None:
    store = BlobStore(10**6)
    talk = Talk()
    talk.server = ServerConnection(LIMITS, store, "a")
    talk.server.receive_text(encode_message(m.Hello(m.PROTOCOL, {})))
    run(talk, blobs(tensor(40)))
    submit(talk, blobs(tensor(50)))
    assert store.used > 90

    talk.server.close()

    assert store.used == 0


def test_a_refused_job_holds_nothing() -> None:
    """The store has room for the first of its constants and not for the second."""
    store = BlobStore(ROOM + 100)
    talk = Talk()
    talk.server = ServerConnection(LIMITS, store, "a")
    talk.server.receive_text(encode_message(m.Hello(m.PROTOCOL, {})))

    _, events = submit(talk, blobs(tensor(40), tensor(50, fill=1)))

    (mistake,) = (event for event in events if isinstance(event, Mistake))
    assert isinstance(mistake.error, LimitExceeded)
    assert store.used == 0
