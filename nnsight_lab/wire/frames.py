"""Binary frames: a header of 20 bytes and raw bytes. Graphs, constants, cards and values travel so.

    offset 0   b"NL"       magic
           2   u8          kind: 1 graph, 2 card, 3 value, 4 constant
           3   u8          flags: bit 0 set on the last frame of its stream
           4   u32         number: the job, or for a card the ask
           8   u32         stream: which tensor or constant of the job; 0 otherwise
          12   u32         seq: which frame of its stream, from 0
          16   u32         length of the payload
          20   payload     little-endian, native dtype, row by row

What a stream holds and how long it is was said before in a control message, so a frame needs no
description of its own. Every stream has at least one frame, even an empty one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from nnsight_lab.errors import LimitExceeded
from nnsight_lab.wire.faults import RemoteProtocolError
from nnsight_lab.wire.limits import WireLimits

__all__ = ["HEADER_BYTES", "Frame", "FrameKind", "Stream", "frames_of", "read_frame"]

_HEADER = struct.Struct("<2sBBIIII")
_MAGIC = b"NL"
_LAST = 1

HEADER_BYTES = _HEADER.size
"""Bytes before the payload."""


class FrameKind(IntEnum):
    """What the payload is part of."""

    GRAPH = 1
    CARD = 2
    VALUE = 3
    BLOB = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One binary frame. The payload is a view: bytes are copied once, when the frame is sent."""

    kind: FrameKind
    number: int
    stream: int
    seq: int
    last: bool
    payload: memoryview

    def to_bytes(self) -> bytes:
        """The frame as it is sent."""
        flags = _LAST if self.last else 0
        size = len(self.payload)
        head = _HEADER.pack(_MAGIC, self.kind, flags, self.number, self.stream, self.seq, size)
        return b"".join((head, self.payload))


def frames_of(
    kind: FrameKind, number: int, data: bytes, chunk_bytes: int, *, stream: int = 0
) -> list[Frame]:
    """The frames of one stream."""
    view = memoryview(data)
    starts = range(0, max(len(view), 1), chunk_bytes)
    return [
        Frame(
            kind, number, stream, seq, start + chunk_bytes >= len(view), view[start:][:chunk_bytes]
        )
        for seq, start in enumerate(starts)
    ]


def read_frame(data: bytes, limits: WireLimits) -> Frame:
    """The frame that bytes hold.

    Raises:
        RemoteProtocolError: they hold none.
        LimitExceeded: its payload is larger than `limits.frame_bytes`.
    """
    if len(data) - HEADER_BYTES > limits.frame_bytes:
        raise LimitExceeded(
            f"A frame of {len(data)} bytes; a payload of {limits.frame_bytes} may be sent.",
            hint="Cut the bytes into smaller frames.",
        )
    if len(data) < HEADER_BYTES:
        raise RemoteProtocolError("A binary message too short to be a frame.")
    magic, kind, flags, number, stream, seq, length = _HEADER.unpack_from(data)
    if magic != _MAGIC or kind not in list(FrameKind) or flags not in {0, _LAST}:
        raise RemoteProtocolError("A binary message that is not a frame.")
    if length != len(data) - HEADER_BYTES:
        raise RemoteProtocolError("A frame whose length is not what its header says.")
    payload = memoryview(data)[HEADER_BYTES:]
    return Frame(FrameKind(kind), number, stream, seq, flags == _LAST, payload)


class Stream:
    """Bytes of a size known beforehand, put together from frames.

    Memory follows what has arrived, never what was promised.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.complete = False
        self._seq = 0
        self._data = bytearray()

    def add(self, frame: Frame) -> bool:
        """Take the next frame; True when it was the last. Raises `RemoteProtocolError`."""
        total = len(self._data) + len(frame.payload)
        if self.complete or frame.seq != self._seq:
            raise RemoteProtocolError("A frame out of order.")
        if total > self.size or frame.last != (total == self.size):
            raise RemoteProtocolError("A stream is not as long as was announced.")
        if not frame.last and not frame.payload:
            raise RemoteProtocolError("An empty frame in the middle of a stream.")
        self._data += frame.payload
        self._seq += 1
        self.complete = frame.last
        return self.complete

    def take(self) -> bytes:
        """All the bytes, which the stream then lets go."""
        data, self._data = bytes(self._data), bytearray()
        return data
