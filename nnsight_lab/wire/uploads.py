"""What one client is sending a server: the graphs of its jobs, and constants they name.

A job is submitted once its graph and every constant it names are here. A constant the store has
is not asked for; one that two jobs name is asked of the first, and of the second only if the
first ends before it has come. What arrives under a digest is hashed as it arrives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field

from nnsight_lab.errors import LimitExceeded
from nnsight_lab.ir import TensorData
from nnsight_lab.ir.literals import digest_begun
from nnsight_lab.wire import messages as m
from nnsight_lab.wire.blobs import BlobStore
from nnsight_lab.wire.events import JobSubmitted
from nnsight_lab.wire.faults import RemoteProtocolError
from nnsight_lab.wire.frames import Frame, FrameKind, Stream
from nnsight_lab.wire.limits import WireLimits

__all__ = ["Uploads"]


class _Blob:
    """A constant of which bytes are still to come."""

    def __init__(self, head: m.BlobHead) -> None:
        self.head = head
        self._stream = Stream(head.size)
        self._hash: hashlib._Hash = digest_begun(head.dtype, head.shape)

    def add(self, frame: Frame) -> TensorData | None:
        """Take a frame; the tensor, when it was the last. Raises `RemoteProtocolError`."""
        complete = self._stream.add(frame)
        self._hash.update(frame.payload)
        if not complete:
            return None
        head = self.head
        if self._hash.hexdigest() != head.digest:
            raise RemoteProtocolError(
                "A constant of the graph is not what its digest says.",
                hint="Its bytes changed on the way, or while they were sent: run it again.",
            )
        return TensorData.checked(head.dtype, head.shape, self._stream.take(), head.digest)


@dataclass(eq=False, slots=True)
class _Arriving:
    """A job of which something is still to come.

    more: whether frames of its graph are. wanted: digests that are not here yet.
    sends: what this job was asked for, by stream.
    """

    submit: m.Submit
    graph: Stream
    more: bool = True
    here: dict[str, TensorData] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)
    sends: dict[int, _Blob] = field(default_factory=dict)


class Uploads:
    """The jobs of one connection, until they are whole; and what they hold until they end.

    heard: how many frames have come, by which whoever has a clock sees that nothing does.
    """

    def __init__(self, limits: WireLimits, store: BlobStore, owner: Hashable) -> None:
        self.heard = 0
        self._limits = limits
        self._store = store
        self._owner = owner
        self._last = 0
        self._arriving: dict[int, _Arriving] = {}
        self._unwanted: set[int] = set()
        self._senders: dict[str, int] = {}
        self._pinned: dict[int, tuple[m.BlobHead, ...]] = {}

    @property
    def waiting(self) -> tuple[int, ...]:
        """The jobs of which something is still to come."""
        return tuple(self._arriving)

    @property
    def never_sent(self) -> int:
        """How many graphs are still to come that nobody wants any more."""
        return len(self._unwanted)

    # ---------------------------------------------------------------- begin and end

    def begin(self, submit: m.Submit) -> tuple[str, ...]:
        """Expect a job; the digests to ask its client for.

        Raises:
            LimitExceeded: its constants are too large. Nothing has changed then.
        """
        self._check(submit.blobs)
        job = _Arriving(submit, Stream(submit.graph_bytes))
        self._pin(submit, job)
        self._last = submit.job
        self._arriving[submit.job] = job
        return self._ask(job)

    def refuse(self, job: int) -> None:
        """Expect a graph that will be passed over."""
        self._last = job
        self._unwanted.add(job)

    def end(self, job: int) -> list[tuple[int, tuple[str, ...]]]:
        """A job has ended. Which others have to send what it would have sent, and what that is."""
        for head in self._pinned.pop(job, ()):
            self._store.unpin(self._owner, head.digest)
        ended = self._arriving.pop(job, None)
        if ended is None:
            return []
        if ended.more:
            self._unwanted.add(job)
        for blob in ended.sends.values():
            del self._senders[blob.head.digest]
        others = [(number, self._ask(other)) for number, other in self._arriving.items()]
        return [(number, digests) for number, digests in others if digests]

    def close(self) -> None:
        """The client has gone."""
        self._store.forget(self._owner)
        self._pinned.clear()
        self._arriving.clear()

    def _check(self, blobs: tuple[m.BlobHead, ...]) -> None:
        most = self._limits.blob_bytes
        asked = {head.digest: head.size for head in blobs}
        if sum(asked.values()) > most:
            raise LimitExceeded(
                f"Constants of {sum(asked.values())} bytes in one graph; {most} may be sent.",
                hint="Make large constants smaller, or compute them inside the trace.",
            )
        held = {head.digest: head.size for heads in self._pinned.values() for head in heads}
        if sum((held | asked).values()) > 2 * most:
            raise LimitExceeded(
                "Too many large constants at once.", hint="Run them one after another."
            )

    def _pin(self, submit: m.Submit, job: _Arriving) -> None:
        done: list[m.BlobHead] = []
        try:
            for head in submit.blobs:
                data = self._store.pin(self._owner, head.digest, head.size)
                done.append(head)
                if data is None:
                    job.wanted.add(head.digest)
                else:
                    job.here[head.digest] = data
        except LimitExceeded:
            for head in done:
                self._store.unpin(self._owner, head.digest)
            raise
        self._pinned[submit.job] = submit.blobs

    def _ask(self, job: _Arriving) -> tuple[str, ...]:
        """What this job shall send: what is not here, and comes from no other."""
        asked = []
        for stream, head in enumerate(job.submit.blobs):
            if head.digest in job.wanted and head.digest not in self._senders:
                self._senders[head.digest] = job.submit.job
                job.sends[stream] = _Blob(head)
                asked.append(head.digest)
        return tuple(asked)

    # ---------------------------------------------------------------- frames

    def job_of(self, frame: Frame) -> int | None:
        """The job that awaits a frame; None for one that came too late and is passed over.

        Raises:
            RemoteProtocolError: nobody awaits it, or ever did.
        """
        self.heard += 1
        number, job = frame.number, self._arriving.get(frame.number)
        if frame.kind is FrameKind.BLOB:
            if job is not None and frame.stream in job.sends:
                return number
            if 0 < number <= self._last and number not in self._pinned:
                return None
            raise RemoteProtocolError(f"No constant of job {number} is awaited.")
        if frame.kind is not FrameKind.GRAPH or frame.stream != 0:
            raise RemoteProtocolError("A client sends frames of graphs and constants only.")
        if number in self._unwanted:
            # The client sent them before it could read that its job was refused.
            if frame.last:
                self._unwanted.discard(number)
            return None
        if job is None or not job.more:
            raise RemoteProtocolError(f"No graph of job {number} is awaited.")
        return number

    def add(self, frame: Frame) -> list[JobSubmitted]:
        """Take a frame that `job_of` gave a job; the jobs that are whole now.

        Raises:
            RemoteProtocolError: it is not what was announced. Its job cannot go on.
        """
        job = self._arriving[frame.number]
        if frame.kind is FrameKind.GRAPH:
            job.more = not frame.last
            job.graph.add(frame)
            return self._whole([job])
        data = job.sends[frame.stream].add(frame)
        if data is None:
            return []
        digest = job.sends.pop(frame.stream).head.digest
        del self._senders[digest]
        self._store.fill(self._owner, digest, data)
        served = [other for other in self._arriving.values() if digest in other.wanted]
        for other in served:
            other.wanted.discard(digest)
            other.here[digest] = data
        return self._whole(served)

    def _whole(self, jobs: list[_Arriving]) -> list[JobSubmitted]:
        events = []
        for job in jobs:
            if job.graph.complete and not job.wanted:
                said = job.submit
                del self._arriving[said.job]
                graph = job.graph.take()
                events.append(
                    JobSubmitted(said.job, said.model, graph, said.parts, said.key, job.here)
                )
        return events
