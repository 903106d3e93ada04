"""The server's side of a connection: received bytes give events, methods give what to send.

Laws of the file:
1. It has no socket, no thread and no clock.
2. Nothing a client sends makes it raise: what breaks a rule becomes a `Mistake`, which `answer`
   turns into the typed reply. The connection goes on unless the mistake is fatal.
3. Memory follows what has arrived, and is bounded by `WireLimits` for all jobs together; what
   arrives is kept by `uploads.py`, constants that may be named again by `blobs.py`.
4. Every job that was submitted is told exactly one `Failed` or `Done`; after it, nothing more.

The other side is `client.py`; the socket is carried by `nnsight_lab_server.session`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from nnsight_lab import contract
from nnsight_lab.errors import LabError, LimitExceeded
from nnsight_lab.ir import ModuleSource
from nnsight_lab.wire import events as e
from nnsight_lab.wire import messages as m
from nnsight_lab.wire.blobs import BlobStore
from nnsight_lab.wire.client import Outgoing
from nnsight_lab.wire.codec import decode_message, encode_message
from nnsight_lab.wire.faults import LocalProtocolError, RemoteProtocolError
from nnsight_lab.wire.frames import Frame, FrameKind, frames_of, read_frame
from nnsight_lab.wire.limits import WireLimits
from nnsight_lab.wire.uploads import Uploads
from nnsight_lab.wire.values import Value

__all__ = ["ServerConnection"]

_TEXT = 4_096


class ServerConnection:
    """The protocol as a server speaks it, for one client with many jobs."""

    def __init__(
        self, limits: WireLimits, store: BlobStore | None = None, owner: Hashable = None
    ) -> None:
        """store: the constants of all connections; this one sees what `owner` has sent."""
        self.limits = limits
        self._greeted = False
        self._mistakes = 0
        self._last_job = 0
        self.uploads = Uploads(limits, store or BlobStore(), owner)
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
        if self.uploads.never_sent >= self.limits.jobs:
            error = LimitExceeded("Too many graphs were announced and never sent.")
            return [e.Mistake(error, fatal=True)]
        try:
            self._check(message)
            missing = self.uploads.begin(message)
        except LimitExceeded as exc:
            self._open[message.job] = _Told(0)
            self.uploads.refuse(message.job)
            return [self._mistake(exc, message.job)]
        self._open[message.job] = _Told(message.graph_bytes)
        return [e.BlobsMissing(message.job, missing)] if missing else []

    def _check(self, message: m.Submit) -> None:
        under_way = sum(told.graph_bytes for told in self._open.values())
        if message.graph_bytes > self.limits.graph_bytes:
            raise LimitExceeded(
                f"A graph of {message.graph_bytes} bytes; {self.limits.graph_bytes} may be sent.",
                hint="Make large constants smaller, or compute them inside the trace.",
            )
        if len(self._open) >= self.limits.jobs:
            raise LimitExceeded(
                f"{len(self._open)} jobs of this connection have not ended yet.",
                hint="Wait for some of them, or cancel them.",
            )
        if under_way + message.graph_bytes > 2 * self.limits.graph_bytes:
            raise LimitExceeded(
                "Too many large graphs at once.", hint="Run them one after another."
            )

    def _frame(self, frame: Frame) -> list[e.ServerEvent]:
        job = self.uploads.job_of(frame)
        if job is None:
            return []
        try:
            return list(self.uploads.add(frame))
        except RemoteProtocolError as exc:
            return [self._mistake(exc, job)]

    def close(self) -> None:
        """The client has gone: let go of what it sent."""
        self.uploads.close()

    # ---------------------------------------------------------------- to send

    def welcome(
        self, versions: Mapping[str, str], models: tuple[m.ModelSummary, ...]
    ) -> list[Outgoing]:
        """Answer a `Greeted`."""
        most = self.limits.graph_bytes, self.limits.blob_bytes
        return [encode_message(m.Welcome(m.PROTOCOL, versions, models, *most))]

    def ask_for(self, job: int, digests: tuple[str, ...]) -> list[Outgoing]:
        """Answer a `BlobsMissing`."""
        return [encode_message(m.Missing(job, digests))]

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
            case contract.Accepted(engine=engine, why=why):
                return [encode_message(m.Accepted(job, seq, engine, why))]
            case contract.Queued(place=place):
                return [encode_message(m.Queued(job, seq, place))]
            case contract.Started():
                return [encode_message(m.Started(job, seq))]
            case contract.Saved(name=name, value=value):
                return self._saved(job, seq, told, name, value)
            case contract.Token(step=step, ids=ids):
                return [encode_message(m.Token(job, seq, step, ids))]
            case contract.Failed(error=error):
                return [encode_message(m.Failed(job, seq, _plain_error(error))), *self._end(job)]
            case contract.Done() as done:
                end = m.Done(job, seq, done.seconds, done.sent_bytes, done.steps, done.ended)
                return [encode_message(end), *self._end(job)]
            case contract.Sending():
                raise LocalProtocolError("How far an upload is, is what only clients know.")

    def _end(self, job: int) -> list[Outgoing]:
        del self._open[job]
        orphans = self.uploads.end(job)
        return [message for other, digests in orphans for message in self.ask_for(other, digests)]

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
