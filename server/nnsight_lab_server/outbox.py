"""What waits to be sent to one client, counted in bytes. Never blocks whoever fills it.

An engine must not wait for a slow reader, so `put` always takes; what is taken is bounded before
it is made. A job starts only while `congested` is False, and may make no more than admission
allowed: at most the mark and one job's results per model wait here. Answers to asks are counted
apart (`room`), so that a client cannot fill memory by asking and not reading.

`put`, `next` and `room` belong to the event loop; `promise` and `congested` to any thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from nnsight_lab.wire import Frame, Outgoing
from nnsight_lab.wire.frames import FrameKind

__all__ = ["Outbox"]

_ENVELOPE = 256
"""What a message costs us beside its text or payload, roughly."""


def _is_value(message: Outgoing) -> bool:
    return isinstance(message, Frame) and message.kind is FrameKind.VALUE


def _control_bytes(message: Outgoing) -> int:
    if isinstance(message, str):
        return _ENVELOPE + len(message)
    return _ENVELOPE + (0 if _is_value(message) else len(message.payload))


class Outbox:
    """A queue of messages with two counts: bytes of values, and bytes of everything else."""

    def __init__(self, mark: int) -> None:
        self._mark = mark
        self._messages: deque[Outgoing] = deque()
        self._filled = asyncio.Event()
        self._emptier = asyncio.Event()
        self._emptier.set()
        self._control = 0
        self._closing = False
        self._lock = threading.Lock()
        self._values = 0

    def promise(self, value_bytes: int) -> None:
        """Count a value from the moment it exists, before it comes here."""
        with self._lock:
            self._values += value_bytes

    @property
    def congested(self) -> bool:
        """Whether so many bytes of values wait that the next job should too."""
        with self._lock:
            return self._values > self._mark

    def put(self, messages: list[Outgoing]) -> None:
        """Take messages to send. Values among them were promised before."""
        self._messages.extend(messages)
        self._control += sum(map(_control_bytes, messages))
        if self._control > self._mark:
            self._emptier.clear()
        self._filled.set()

    def finish(self) -> None:
        """Nothing more comes: `next` gives what is left, then None."""
        self._closing = True
        self._filled.set()

    async def room(self) -> None:
        """Wait until fewer bytes of control messages wait than the mark."""
        await self._emptier.wait()

    async def next(self) -> Outgoing | None:
        """The next message to send; None at the end."""
        while not self._messages:
            if self._closing:
                return None
            self._filled.clear()
            await self._filled.wait()
        return self._messages.popleft()

    def sent(self, message: Outgoing) -> None:
        """Count a message as gone."""
        self._control -= _control_bytes(message)
        if isinstance(message, Frame) and _is_value(message):
            self.promise(-len(message.payload))
        if self._control <= self._mark:
            self._emptier.set()
