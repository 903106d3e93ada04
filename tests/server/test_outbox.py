"""Laws of the outbox: it never blocks who fills it, and says when the next job should wait."""

from __future__ import annotations

import asyncio

from nnsight_lab.wire import Frame, Outgoing
from nnsight_lab.wire.frames import FrameKind, frames_of
from nnsight_lab_server.outbox import Outbox


def frame(size: int, kind: FrameKind = FrameKind.VALUE) -> Frame:
    return frames_of(kind, 1, bytes(size), max(size, 1))[0]


def test_messages_leave_in_order_and_then_none() -> None:
    async def leave() -> list[Outgoing | None]:
        outbox = Outbox(100)
        outbox.put(["a", "b"])
        outbox.finish()
        return [await outbox.next() for _ in range(3)]

    assert asyncio.run(leave()) == ["a", "b", None]


def test_who_waits_is_woken_by_the_next_message() -> None:
    async def wait() -> Outgoing | None:
        outbox = Outbox(100)
        waiting = asyncio.ensure_future(outbox.next())
        await asyncio.sleep(0)
        outbox.put(["late"])
        return await waiting

    assert asyncio.run(wait()) == "late"


def test_it_is_congested_from_the_moment_a_value_exists_until_it_was_sent() -> None:
    outbox, value = Outbox(100), frame(150)

    outbox.promise(150)
    before = outbox.congested
    outbox.put([value])
    outbox.sent(value)

    assert before
    assert not outbox.congested


def test_answers_nobody_reads_make_the_asker_wait() -> None:
    async def fill() -> tuple[bool, bool]:
        outbox, card = Outbox(10_000), frame(20_000, FrameKind.CARD)
        outbox.put([card])
        waiting = asyncio.ensure_future(outbox.room())
        await asyncio.sleep(0)
        stood = not waiting.done()
        outbox.sent(card)
        await asyncio.sleep(0)
        return stood, waiting.done()

    assert asyncio.run(fill()) == (True, True)


def test_values_do_not_make_the_reader_of_messages_wait() -> None:
    """A client with much to receive must still be able to cancel."""

    async def fill() -> bool:
        outbox = Outbox(10_000)
        outbox.promise(1_000_000)
        outbox.put([frame(1_000_000)])
        await asyncio.wait_for(outbox.room(), 5)
        return outbox.congested

    assert asyncio.run(fill())
