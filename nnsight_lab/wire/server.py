"""The server's side of a connection: received bytes give events, methods give what to send.

Laws of the file:
1. It has no socket, no thread and no clock.
2. Nothing a client sends makes it raise: what breaks a rule becomes a `Mistake`, which `answer`
   turns into the typed reply. The connection goes on unless the mistake is fatal.
3. Memory follows what has arrived, and is bounded by `WireLimits` for all jobs together.
4. Every job that was submitted is told exactly one `Failed` or `Done`; after it, nothing more.

The other side is `client.py`; the socket is carried by `nnsight_lab_server.session`.
"""

from __future__ import annotations

from collections.abc import Mapping

from nnsight_lab import contract
from nnsight_lab.errors import LabError, LimitExceeded
from nnsight_lab.ir import ModuleSource
from nnsight_lab.wire import events as e
from nnsight_lab.wire import messages as m
from nnsight_lab.wire.client import Outgoing
from nnsight_lab.wire.codec import decode_message, encode_message
from nnsight_lab.wire.faults import LocalProtocolError, RemoteProtocolError
from nnsight_lab.wire.frames import Frame, FrameKind, Stream, frames_of, read_frame
from nnsight_lab.wire.limits import WireLimits
from nnsight_lab.wire.values import Value

__all__ = ["ServerConnection"]

_TEXT = 4_096


class ServerConnection:
    """The protocol as a server speaks it, for one client with many jobs."""

    def __init__(self, limits: WireLimits) -> None:
        self.limits = limits
        self._greeted = False
        self._mistakes = 0
        self._last_job = 0
        self._uploads: dict[int, tuple[m.Submit, Stream]] = {}
        self._unwanted: set[int] = set()
        self._open: dict[int, _Told] = {}

    @property
    def jobs(self) -> tuple[int, ...]:
        """The jobs that have not ended."""
        return tuple(self._open)

    # ---------------------------------------------------------------- received

    def receive_text(self, text: str) -> list[e.ServerEvent]:
        """The events of one text message."""
        try:
            return self._message(decode_message(text, self.limits))
        except LabError as exc:
            return [self._mistake(exc)]

    def receive_bytes(self, data: bytes) -> list[e.ServerEvent]:
        """The events of one binary message."""
        try:
            return self._frame(read_frame(data, self.limits))
        except LabError as exc:
            return [self._mistake(exc)]

    def _mistake(self, error: LabError, job: int | None = None) -> e.Mistake:
        self._mistakes += 1
        return e.Mistake(error, job, fatal=self._mistakes >= self.limits.mistakes)

    def _message(self, message: m.Message) -> list[e.ServerEvent]:
        if isinstance(message, m.Hello):
            return self._hello(message)
        if not self._greeted:
            raise RemoteProtocolError("The first message of a connection is `hello`.")
        match message:
            case m.ListModels(ask=ask):
                return [e.ModelsAsked(ask)]
            case m.GetCard(ask=ask, model=model):
                return [e.CardAsked(ask, model)]
            case m.GetSource(ask=ask, model=model, path=path):
                return [e.SourceAsked(ask, model, path)]
            case m.Submit():
                return self._submit(message)
            case m.Cancel(job=job):
                if job > self._last_job:
                    raise RemoteProtocolError(f"Job {job} was never submitted.")
                return [e.CancelAsked(job)] if job in self._open else []
        raise RemoteProtocolError(f"{message.kind!r} is what only servers say.")

    def _hello(self, message: m.Hello) -> list[e.ServerEvent]:
        if message.protocol != m.PROTOCOL:
            error = RemoteProtocolError(
                f"This server speaks protocol {m.PROTOCOL}, the client {message.protocol}.",
                hint="Install the same nnsight-lab version on both sides.",
            )
            return [e.Mistake(error, fatal=True)]
        if self._greeted:
            raise RemoteProtocolError("`hello` was said before.")
        self._greeted = True
        return [e.Greeted(message.versions)]

    def _submit(self, message: m.Submit) -> list[e.ServerEvent]:
        if message.job <= self._last_job:
            raise RemoteProtocolError("Job numbers rise, and none is used twice.")
        self._last_job = message.job
        if len(self._unwanted) >= self.limits.jobs:
            error = LimitExceeded("Too many graphs were announced and never sent.")
            return [e.Mistake(error, fatal=True)]
        refusal = self._refusal(message)
        self._open[message.job] = _Told(message.graph_bytes if refusal is None else 0)
        if refusal is None:
            self._uploads[message.job] = (message, Stream(message.graph_bytes))
            return []
        self._unwanted.add(message.job)
        return [self._mistake(refusal, message.job)]

    def _refusal(self, message: m.Submit) -> LabError | None:
        under_way = sum(told.graph_bytes for told in self._open.values())
        if message.graph_bytes > self.limits.graph_bytes:
            return LimitExceeded(
                f"A graph of {message.graph_bytes} bytes; {self.limits.graph_bytes} may be sent.",
                hint="Make large constants smaller, or compute them inside the trace.",
            )
        if len(self._open) >= self.limits.jobs:
            return LimitExceeded(
                f"{len(self._open)} jobs of this connection have not ended yet.",
                hint="Wait for some of them, or cancel them.",
            )
        if under_way + message.graph_bytes > 2 * self.limits.graph_bytes:
            return LimitExceeded(
                "Too many large graphs at once.", hint="Run them one after another."
            )
        return None

    def _frame(self, frame: Frame) -> list[e.ServerEvent]:
        job = frame.number
        if frame.kind is not FrameKind.GRAPH or frame.stream != 0:
            raise RemoteProtocolError("A client sends frames of graphs only.")
        if job in self._unwanted:
            # The client sent them before it could read that its job was refused.
            if frame.last:
                self._unwanted.discard(job)
            return []
        if job not in self._uploads:
            raise RemoteProtocolError(f"No graph of job {job} is awaited.")
        submit, stream = self._uploads[job]
        try:
            complete = stream.add(frame)
        except RemoteProtocolError as exc:
            self._drop_upload(job, complete=frame.last)
            return [self._mistake(exc, job)]
        if not complete:
            return []
        del self._uploads[job]
        return [e.JobSubmitted(job, submit.model, stream.take(), submit.rows, submit.key)]

    def _drop_upload(self, job: int, *, complete: bool = False) -> None:
        if self._uploads.pop(job, None) is not None and not complete:
            self._unwanted.add(job)

    # ---------------------------------------------------------------- to send

    def welcome(
        self, versions: Mapping[str, str], models: tuple[m.ModelSummary, ...]
    ) -> list[Outgoing]:
        """Answer a `Greeted`."""
        message = m.Welcome(m.PROTOCOL, versions, models, self.limits.graph_bytes)
        return [encode_message(message)]

    def models(self, ask: int, models: tuple[m.ModelSummary, ...]) -> list[Outgoing]:
        """Answer a `ModelsAsked`."""
        return [encode_message(m.Models(ask, models))]

    def card(self, ask: int, card: bytes) -> list[Outgoing]:
        """Answer a `CardAsked` with the bytes that `encode_card` made."""
        frames = frames_of(FrameKind.CARD, ask, card, self.limits.chunk_bytes)
        return [encode_message(m.Card(ask, len(card))), *frames]

    def source(self, ask: int, source: ModuleSource) -> list[Outgoing]:
        """Answer a `SourceAsked`."""
        text = encode_message(m.Source(ask, source))
        if len(text) > self.limits.text_bytes:
            hint = "Look into one of its submodules."
            return self.refuse(
                ask, LimitExceeded("That forward calls too much to list.", hint=hint)
            )
        return [text]

    def refuse(self, ask: int, error: LabError) -> list[Outgoing]:
        """Answer an ask with an error."""
        return [encode_message(m.Error(ask, _plain_error(error)))]

    def answer(self, mistake: e.Mistake) -> list[Outgoing]:
        """Answer a `Mistake`: to its job when it has one, to the connection otherwise."""
        if mistake.job is not None and mistake.job in self._open:
            return self.tell(mistake.job, contract.Failed(mistake.error))
        return [encode_message(m.Error(None, _plain_error(mistake.error)))]

    def tell(self, job: int, event: contract.RunEvent) -> list[Outgoing]:
        """Tell the client an event of its job. A saved value is a `wire.values.Value`."""
        told = self._open.get(job)
        if told is None:
            raise LocalProtocolError(f"Job {job} has ended, or never was.")
        seq = told.next_seq()
        match event:
            case contract.Accepted():
                return [encode_message(m.Accepted(job, seq))]
            case contract.Queued(place=place):
                return [encode_message(m.Queued(job, seq, place))]
            case contract.Started():
                return [encode_message(m.Started(job, seq))]
            case contract.Saved(name=name, value=value):
                return self._saved(job, seq, told, name, value)
            case contract.Failed(error=error):
                self._end(job)
                return [encode_message(m.Failed(job, seq, _plain_error(error)))]
            case contract.Done(seconds=seconds, sent_bytes=sent_bytes):
                self._end(job)
                return [encode_message(m.Done(job, seq, seconds, sent_bytes))]

    def _end(self, job: int) -> None:
        del self._open[job]
        self._drop_upload(job)

    def _saved(self, job: int, seq: int, told: _Told, name: str, value: Value) -> list[Outgoing]:
        tensors = value.tensors
        heads = tuple(m.TensorHead(told.next_stream(), data.dtype, data.shape) for data in tensors)
        sent: list[Outgoing] = [encode_message(m.Saved(job, seq, name, value.structure, heads))]
        for head, tensor in zip(heads, tensors, strict=True):
            chunk = self.limits.chunk_bytes
            sent += frames_of(FrameKind.VALUE, job, tensor.data, chunk, stream=head.stream)
        return sent


class _Told:
    """How far the client has been told about one job."""

    def __init__(self, graph_bytes: int) -> None:
        self.graph_bytes = graph_bytes
        self._seq = 0
        self._stream = 0

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq - 1

    def next_stream(self) -> int:
        self._stream += 1
        return self._stream - 1


def _plain_error(error: LabError) -> dict[str, object]:
    plain = error.to_plain()
    for name in ("message", "hint"):
        # Text of an error may quote anything: cut it, and keep it writable as UTF-8.
        plain[name] = str(plain[name])[:_TEXT].encode("utf-8", "replace").decode()
    return plain
