"""Laws of binary frames: a stream comes back as it was, or the fault is named; memory is bounded."""

from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsight_lab.errors import LimitExceeded
from nnsight_lab.wire import RemoteProtocolError, WireLimits
from nnsight_lab.wire.frames import HEADER_BYTES, Frame, FrameKind, Stream, frames_of, read_frame
from tests.wire.talk import LIMITS


def received(frames: list[Frame]) -> list[Frame]:
    return [read_frame(frame.to_bytes(), LIMITS) for frame in frames]


def add_all(stream: Stream, frames: list[Frame]) -> None:
    for frame in frames:
        stream.add(frame)


@given(st.binary(max_size=300), st.integers(1, 64), st.sampled_from(FrameKind))
def test_a_stream_comes_back_in_chunks(data: bytes, chunk: int, kind: FrameKind) -> None:
    frames = received(frames_of(kind, 7, data, chunk, stream=3))
    stream = Stream(len(data))

    assert [stream.add(frame) for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert stream.take() == data
    assert {(frame.kind, frame.number, frame.stream) for frame in frames} == {(kind, 7, 3)}
    assert all(len(frame.payload) <= chunk for frame in frames)


def test_an_empty_stream_is_one_empty_frame() -> None:
    (frame,) = frames_of(FrameKind.VALUE, 1, b"", 16)

    assert frame.last
    assert Stream(0).add(frame)


def test_the_header_is_what_the_page_says() -> None:
    (frame,) = frames_of(FrameKind.VALUE, 5, b"abc", 16, stream=9)

    assert frame.to_bytes() == b"NL\x03\x01" + struct.pack("<IIII", 5, 9, 0, 3) + b"abc"


@given(st.binary(max_size=120))
def test_any_bytes_are_a_frame_or_a_typed_error(data: bytes) -> None:
    with suppress(RemoteProtocolError, LimitExceeded):
        read_frame(data, LIMITS)


@pytest.mark.parametrize(
    "spoiled",
    [
        b"",
        b"NL",
        b"XX\x01\x01" + struct.pack("<IIII", 1, 0, 0, 0),
        b"NL\x05\x01" + struct.pack("<IIII", 1, 0, 0, 0),
        b"NL\x01\x02" + struct.pack("<IIII", 1, 0, 0, 0),
        b"NL\x01\x01" + struct.pack("<IIII", 1, 0, 0, 1),
        b"NL\x01\x01" + struct.pack("<IIII", 1, 0, 0, 2**32 - 1) + b"a",
        b"NL\x01\x01" + struct.pack("<IIII", 1, 0, 0, 0) + b"a",
        b"\x80\x04\x95K\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    ],
)
def test_what_is_no_frame_is_refused(spoiled: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_frame(spoiled, LIMITS)


def test_a_frame_over_the_limit_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        read_frame(bytes(HEADER_BYTES + LIMITS.frame_bytes + 1), LIMITS)


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 2, 1], [0, 0, 1], [0, 1, 2, 2], [2]])
def test_a_frame_out_of_order_is_refused(order: list[int]) -> None:
    frames = received(frames_of(FrameKind.GRAPH, 1, bytes(40), 16))

    with pytest.raises(RemoteProtocolError):
        add_all(Stream(40), [frames[index] for index in order])


@pytest.mark.parametrize("size", [39, 41, 0, 17])
def test_a_stream_of_another_length_than_announced_is_refused(size: int) -> None:
    frames = received(frames_of(FrameKind.GRAPH, 1, bytes(40), 16))

    with pytest.raises(RemoteProtocolError):
        add_all(Stream(size), frames)


def test_memory_follows_what_arrived_not_what_was_announced() -> None:
    tracemalloc.start()
    stream = Stream(2**40)
    stream.add(Frame(FrameKind.VALUE, 1, 0, 0, last=False, payload=memoryview(bytes(1_000))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 100_000


def test_frames_are_views_until_they_are_sent() -> None:
    data = bytes(50_000_000)
    tracemalloc.start()
    frames = frames_of(FrameKind.VALUE, 1, data, WireLimits().chunk_bytes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(frames) == 48
    assert peak < 1_000_000
