"""The client's side of a connection: methods give what to send, received bytes give events.

Laws of the file:
1. It has no socket, no thread and no clock. Whoever has one calls it under one lock.
2. What the server may not say raises `RemoteProtocolError`; after that the connection is of no
   more use. What we may not ask raises `LocalProtocolError` and changes nothing.
3. Memory follows what has arrived. A job ends with `Done` or `Failed` and is then forgotten.

The other side is `server.py`; the socket is carried by `executors/remote_link.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import TypeAlias

from nnsight_lab import contract
from nnsight_lab.errors import LabError, LimitExceeded
from nnsight_lab.ir import TensorData
from nnsight_lab.ir.literals import DTYPE_SIZES
from nnsight_lab.wire import events as e
from nnsight_lab.wire import messages as m
from nnsight_lab.wire.codec import decode_message, encode_message
from nnsight_lab.wire.faults import LocalProtocolError, RemoteProtocolError
from nnsight_lab.wire.frames import Frame, FrameKind, Stream, frames_of, read_frame
from nnsight_lab.wire.limits import WireLimits
from nnsight_lab.wire.sending import BlobSender
from nnsight_lab.wire.trees import decode_card
from nnsight_lab.wire.values import Value

__all__ = ["ClientConnection", "Outgoing"]

Outgoing: TypeAlias = str | Frame
"""One websocket message to send: text, or a frame whose `to_bytes` is the binary."""

_NONE: Mapping[str, TensorData] = MappingProxyType({})


def _check_size(what: str, size: int, *most: int) -> None:
    if size > min(most):
        raise LimitExceeded(
            f"{what} of {size} bytes; this server takes {min(most)}.",
            hint="Make large constants smaller, or compute them inside the trace.",
        )


_Ask: TypeAlias = m.ListModels | m.GetCard | m.GetSource


@dataclass(slots=True)
class _Arriving:
    """A saved value of which some bytes are still to come."""

    message: m.Saved
    streams: list[Stream]

    def value(self) -> Value:
        """The value, once every stream is complete."""
        heads = zip(self.message.tensors, self.streams, strict=True)
        tensors = tuple(TensorData(head.dtype, head.shape, data.take()) for head, data in heads)
        try:
            return Value(self.message.structure, tensors)
        except ValueError as exc:
            raise RemoteProtocolError(f"A malformed value: {exc}.") from exc


@dataclass(slots=True)
class _Job:
    """A submitted job that has not ended."""

    blobs: BlobSender
    seq: int = 0
    announced: int = 0
    streams: dict[int, tuple[_Arriving, Stream]] = field(default_factory=dict)


class ClientConnection:
    """The protocol as a client speaks it."""

    def __init__(self, limits: WireLimits) -> None:
        self.limits = limits
        self._server: m.Welcome | None = None
        self._last = 0
        self._asks: dict[int, type[_Ask]] = {}
        self._cards: dict[int, Stream] = {}
        self._jobs: dict[int, _Job] = {}

    # ---------------------------------------------------------------- to send

    def hello(self, versions: Mapping[str, str]) -> list[Outgoing]:
        """The first message of the connection."""
        return [encode_message(m.Hello(m.PROTOCOL, versions))]

    def list_models(self) -> tuple[int, list[Outgoing]]:
        """Ask what is served; the answer is `ModelsListed` of the returned ask."""
        ask = self._next()
        self._asks[ask] = m.ListModels
        return ask, [encode_message(m.ListModels(ask))]

    def get_card(self, model: str) -> tuple[int, list[Outgoing]]:
        """Ask for a card; the answer is `CardArrived` of the returned ask."""
        ask = self._next()
        self._asks[ask] = m.GetCard
        return ask, [encode_message(m.GetCard(ask, model))]

    def get_source(self, model: str, path: str) -> tuple[int, list[Outgoing]]:
        """Ask what a module's forward calls; the answer is `SourceArrived` of the returned ask."""
        ask = self._next()
        self._asks[ask] = m.GetSource
        return ask, [encode_message(m.GetSource(ask, model, path))]

    def submit(
        self,
        model: str,
        graph: bytes,
        parts: tuple[contract.TokenRows, ...],
        key: str,
        blobs: Mapping[str, TensorData] = _NONE,
    ) -> tuple[int, list[Outgoing]]:
        """Submit a job. Raises `LimitExceeded` for a graph the server would not take.

        blobs: the constants the graph only names, by digest; sent when the server asks for them.
        """
        if self._server is not None:
            _check_size("A graph", len(graph), self.limits.graph_bytes, self._server.graph_bytes)
            size = sum(len(data.data) for data in blobs.values())
            _check_size("Constants", size, self.limits.blob_bytes, self._server.blob_bytes)
        job = self._next()
        heads = BlobSender.heads(blobs)
        text = encode_message(m.Submit(job, model, len(graph), parts, key, heads))
        if len(text) > self.limits.text_bytes:
            raise LimitExceeded(
                f"Prompts that take {len(text)} bytes; {self.limits.text_bytes} may be sent.",
                hint="Send fewer or shorter prompts at a time.",
            )
        self._jobs[job] = _Job(BlobSender(job, blobs, self.limits.chunk_bytes))
        return job, [text, *frames_of(FrameKind.GRAPH, job, graph, self.limits.chunk_bytes)]

    def cancel(self, job: int) -> list[Outgoing]:
        """Ask for the end of a job; nothing to send when it has ended already."""
        if job not in self._jobs:
            return []
        self._jobs[job].blobs.stop()
        return [encode_message(m.Cancel(job))]

    def next_blob_frame(self, job: int) -> tuple[Frame, contract.Sending] | None:
        """The next frame of the constants a server asked for; None when there is none now."""
        found = self._jobs.get(job)
        return found.blobs.next() if found is not None else None

    def _next(self) -> int:
        if self._server is None:
            raise LocalProtocolError("Nothing can be asked before the server's welcome.")
        self._last += 1
        return self._last

    # ---------------------------------------------------------------- received

    def receive_text(self, text: str) -> list[e.ClientEvent]:
        """The events of one text message."""
        message = decode_message(text, self.limits)
        match message:
            case m.Welcome():
                return [self._welcomed(message)]
            case m.Models(ask=ask, models=models):
                self._answered(ask, m.ListModels)
                return [e.ModelsListed(ask, models)]
            case m.Card(ask=ask, size=size):
                self._answered(ask, m.GetCard)
                if size > self.limits.card_bytes:
                    raise LimitExceeded(f"The server announces a model card of {size} bytes.")
                self._cards[ask] = Stream(size)
                return []
            case m.Source(ask=ask, source=source):
                self._answered(ask, m.GetSource)
                return [e.SourceArrived(ask, source)]
            case m.Error(ask=None, error=error):
                return [e.Complaint(LabError.from_plain(dict(error)))]
            case m.Error(ask=int() as ask, error=error):
                self._answered(ask, m.ListModels, m.GetCard, m.GetSource)
                return [e.AskFailed(ask, LabError.from_plain(dict(error)))]
            case m.Missing(job=job, digests=digests):
                self._job(job).blobs.asked(digests)
                return [e.BlobsAsked(job)]
            case m.Accepted() | m.Queued() | m.Started() | m.Failed() | m.Done():
                return self._job_message(message)
            case m.Saved() | m.Token():
                return self._job_message(message)
        raise RemoteProtocolError(f"The server sent {message.kind!r}, which only clients say.")

    def receive_bytes(self, data: bytes) -> list[e.ClientEvent]:
        """The events of one binary message."""
        frame = read_frame(data, self.limits)
        match frame.kind:
            case FrameKind.CARD if frame.number in self._cards:
                stream = self._cards[frame.number]
                if not stream.add(frame):
                    return []
                del self._cards[frame.number]
                return [e.CardArrived(frame.number, decode_card(stream.take(), self.limits))]
            case FrameKind.VALUE:
                return self._value_frame(frame)
        raise RemoteProtocolError("The server sent a frame nobody asked for.")

    def _welcomed(self, message: m.Welcome) -> e.ClientEvent:
        if self._server is not None or message.protocol != m.PROTOCOL:
            raise RemoteProtocolError(
                f"The server speaks protocol {message.protocol}, we speak {m.PROTOCOL}.",
                hint="Install the same nnsight-lab version on both sides.",
            )
        self._server = message
        return e.Welcomed(message.versions, message.models)

    def _answered(self, ask: int, *kinds: type[_Ask]) -> None:
        if self._asks.pop(ask, None) not in kinds:
            raise RemoteProtocolError("The server answered what was not asked.")

    def _job(self, number: int) -> _Job:
        job = self._jobs.get(number)
        if job is None:
            raise RemoteProtocolError("The server speaks of a job we do not have.")
        return job

    def _job_message(
        self,
        message: m.Accepted | m.Queued | m.Started | m.Saved | m.Token | m.Failed | m.Done,
    ) -> list[e.ClientEvent]:
        job = self._job(message.job)
        if message.seq != job.seq:
            raise RemoteProtocolError("An event of a job is missing or came twice.")
        job.seq += 1
        event: contract.RunEvent
        match message:
            case m.Accepted(engine=engine, why=why):
                event = contract.Accepted(engine, why)
            case m.Queued(place=place):
                event = contract.Queued(place)
            case m.Started():
                event = contract.Started()
            case m.Saved():
                return self._announced(job, message)
            case m.Token(step=step, ids=ids):
                event = contract.Token(step, ids)
            case m.Failed(error=error):
                del self._jobs[message.job]
                event = contract.Failed(LabError.from_plain(dict(error)))
            case m.Done():
                if job.streams:
                    raise RemoteProtocolError("A job is done before all its values arrived.")
                del self._jobs[message.job]
                event = contract.Done(
                    message.seconds, message.sent_bytes, message.steps, message.ended
                )
        return [e.JobTold(message.job, message.seq, event)]

    def _announced(self, job: _Job, message: m.Saved) -> list[e.ClientEvent]:
        sizes = [prod(head.shape) * DTYPE_SIZES[head.dtype] for head in message.tensors]
        job.announced += sum(sizes)
        if job.announced > self.limits.result_bytes or len(sizes) > self.limits.tensors:
            raise LimitExceeded(
                f"The server announces {job.announced} bytes in {len(sizes)} tensors;"
                f" {self.limits.result_bytes} bytes are read for one run.",
                hint="Save less at a time, such as one position instead of all.",
            )
        arriving = _Arriving(message, [Stream(size) for size in sizes])
        for head, stream in zip(message.tensors, arriving.streams, strict=True):
            if head.stream in job.streams:
                raise RemoteProtocolError("Two tensors of a job share a stream.")
            job.streams[head.stream] = (arriving, stream)
        if message.tensors:
            return []
        return [self._saved(message, arriving)]

    def _value_frame(self, frame: Frame) -> list[e.ClientEvent]:
        job = self._job(frame.number)
        if frame.stream not in job.streams:
            raise RemoteProtocolError("The server sent a frame nobody asked for.")
        arriving, stream = job.streams[frame.stream]
        if stream.add(frame):
            del job.streams[frame.stream]
        if not all(stream.complete for stream in arriving.streams):
            return []
        return [self._saved(arriving.message, arriving)]

    def _saved(self, message: m.Saved, arriving: _Arriving) -> e.ClientEvent:
        event = contract.Saved(message.name, arriving.value())
        return e.JobTold(message.job, message.seq, event)
