"""One client's websocket: carries a `ServerConnection`, and nothing the protocol decides itself.

Four tasks share the event loop: one reads messages and acts on them, one checks submitted jobs
(in a thread, so that reading goes on), one sends what waits in the outbox, one has a clock for
uploads that never come. Whichever ends first ends the session, and then every job of the client
that has not ended is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from functools import partial

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from nnsight_lab import __version__
from nnsight_lab.contract import Failed, RunEvent, RunRequest, Saved, Started
from nnsight_lab.errors import Cancelled, LabError, LimitExceeded, ServerError
from nnsight_lab.wire import BlobStore, Outgoing, ServerConnection
from nnsight_lab.wire.events import (
    BlobsMissing,
    CancelAsked,
    CardAsked,
    Greeted,
    JobSubmitted,
    Mistake,
    ModelsAsked,
    ServerEvent,
    SourceAsked,
)
from nnsight_lab_server.catalogue import Catalogue
from nnsight_lab_server.config import ServerLimits
from nnsight_lab_server.jobs import Job, ModelWorker
from nnsight_lab_server.outbox import Outbox
from nnsight_lab_server.routing import route

__all__ = ["Session"]

_log = logging.getLogger(__name__)
_POLICY_VIOLATION = 1008


class Session:
    """A client that has shown its token."""

    def __init__(
        self, socket: WebSocket, catalogue: Catalogue, limits: ServerLimits, blobs: BlobStore
    ) -> None:
        self._socket = socket
        self._catalogue = catalogue
        self._limits = limits
        self._id = uuid.uuid4().hex
        self._connection = ServerConnection(limits.wire, blobs, owner=self._id)
        self._outbox = Outbox(limits.backlog_bytes)
        self._submitted: asyncio.Queue[JobSubmitted | SourceAsked] = asyncio.Queue()
        self._jobs: dict[int, tuple[ModelWorker, Job]] = {}
        self._clocks: dict[int, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Serve the client until it goes."""
        await self._socket.accept()
        work = (self._read(), self._check(), self._send(), self._watch())
        tasks = [asyncio.ensure_future(each) for each in work]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            self._leave()
        for result in results:
            if isinstance(result, Exception):
                _log.error("A session ended with a fault of ours.", exc_info=result)

    def _leave(self) -> None:
        for worker, job in list(self._jobs.values()):
            worker.cancel(job)
        self._jobs.clear()
        for clock in self._clocks.values():
            clock.cancel()
        self._connection.close()

    # ---------------------------------------------------------------- reading

    async def _read(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            data, text = message.get("bytes"), message.get("text")
            if data is not None:
                events = self._connection.receive_bytes(data)
            else:
                events = self._connection.receive_text(text or "")
            for event in events:
                self._act(event)
                if isinstance(event, Mistake) and event.fatal:
                    self._outbox.finish()
                    await asyncio.Event().wait()  # the sender ends the session
            await self._outbox.room()

    def _act(self, event: ServerEvent) -> None:
        connection = self._connection
        match event:
            case Greeted():
                versions = {"nnsight-lab": __version__}
                self._outbox.put(connection.welcome(versions, self._catalogue.summaries()))
            case ModelsAsked(ask=ask):
                self._outbox.put(connection.models(ask, self._catalogue.summaries()))
            case CardAsked(ask=ask, model=model):
                self._outbox.put(self._card(ask, model))
            case BlobsMissing(job=job, digests=digests):
                self._outbox.put(connection.ask_for(job, digests))
            case SourceAsked(ask=ask) if self._submitted.qsize() >= self._limits.queued:
                error = LimitExceeded("Too many asks wait for an answer.", hint="Ask one by one.")
                self._outbox.put(connection.refuse(ask, error))
            case JobSubmitted() | SourceAsked():
                self._submitted.put_nowait(event)
            case CancelAsked(job=job):
                self._cancel(job)
            case Mistake():
                self._outbox.put(connection.answer(event))

    def _card(self, ask: int, model: str) -> list[Outgoing]:
        try:
            return self._connection.card(ask, self._catalogue.card_bytes(model))
        except LabError as exc:
            return self._connection.refuse(ask, exc)

    def _cancel(self, number: int) -> None:
        if number in self._jobs:
            worker, job = self._jobs[number]
            worker.cancel(job)
        else:  # still on its way here, or being checked
            self._tell(number, Failed(Cancelled("The run was cancelled before it was queued.")))

    async def _watch(self) -> None:
        """End jobs whose client announced bytes and sends none."""
        uploads = self._connection.uploads
        while True:
            heard, waiting = uploads.heard, uploads.waiting
            await asyncio.sleep(self._limits.stall_s)
            for number in waiting if uploads.heard == heard else ():
                if number in uploads.waiting:
                    self._tell(number, Failed(self._never_came()))

    def _never_came(self) -> LimitExceeded:
        return LimitExceeded(
            f"Nothing of the announced graph and constants came for {self._limits.stall_s:.0f} s.",
            hint="Run it again; on a slow line, with smaller constants.",
        )

    # ---------------------------------------------------------------- checking

    async def _check(self) -> None:
        while True:
            submitted = await self._submitted.get()
            if isinstance(submitted, SourceAsked):
                self._outbox.put(await self._source(submitted))
                continue
            if submitted.job not in self._connection.jobs:
                continue  # cancelled meanwhile
            try:
                await self._queue(submitted)
            except LabError as exc:
                self._tell(submitted.job, Failed(exc))
            except Exception:  # noqa: BLE001 - a seam: a graph from outside must not end the session
                _log.exception("A graph could not be checked.")
                hint = "This is a fault of the server; its log says more."
                error = ServerError("The server could not check this graph.", hint=hint)
                self._tell(submitted.job, Failed(error))

    async def _source(self, asked: SourceAsked) -> list[Outgoing]:
        try:
            worker, _ = self._catalogue.find(asked.model)
            find = partial(worker.source_of, asked.path)
            source = await self._loop.run_in_executor(worker.looking, find)
            return self._connection.source(asked.ask, source)
        except LabError as exc:
            return self._connection.refuse(asked.ask, exc)
        except Exception:  # noqa: BLE001 - a seam: measuring a module runs the model's own code
            _log.exception("The source of a module could not be found.")
            hint = "This is a fault of the server; its log says more."
            error = ServerError("The server could not look into this module.", hint=hint)
            return self._connection.refuse(asked.ask, error)

    async def _queue(self, submitted: JobSubmitted) -> None:
        number = submitted.job
        workers = self._catalogue.workers(submitted.model)
        found = await asyncio.to_thread(route, workers, submitted, self._limits)
        if number not in self._connection.jobs:
            return  # cancelled meanwhile

        worker = found.worker
        job = Job(
            request=RunRequest(f"{self._id}-{number}", found.graph, found.inputs),
            owner=self._id,
            emit=lambda event: self._emit(number, event),
            saved_bytes=self._limits.saved_bytes,
            may_start=lambda: not self._outbox.congested,
            accepted=found.accepted,
        )
        self._jobs[number] = (worker, job)
        worker.submit(job)

    def _emit(self, number: int, event: RunEvent) -> None:
        """An event of a job, from any thread."""
        if isinstance(event, Saved):
            self._outbox.promise(event.value.sent_bytes)
        # The loop is closed when the whole server goes down in the middle of a run.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._tell, number, event)

    def _tell(self, number: int, event: RunEvent) -> None:
        if number not in self._connection.jobs:
            if isinstance(event, Saved):  # made after the job was ended from here: nobody is told
                self._outbox.promise(-event.value.sent_bytes)
                self._wake()
            return
        self._outbox.put(self._connection.tell(number, event))
        if isinstance(event, Started):
            late = self._loop.call_later(self._limits.run_s, self._too_long, number)
            self._clocks[number] = late
        if number not in self._connection.jobs:
            self._jobs.pop(number, None)
            if (clock := self._clocks.pop(number, None)) is not None:
                clock.cancel()

    def _too_long(self, number: int) -> None:
        """A job has run for as long as one may."""
        worker, job = self._jobs[number]
        error = LimitExceeded(
            f"The run took longer than the {self._limits.run_s:g} s it may.",
            hint="Make fewer forward passes at a time, or compute less inside the trace.",
        )
        self._tell(number, Failed(error))
        worker.cancel(job)

    # ---------------------------------------------------------------- sending

    async def _send(self) -> None:
        try:
            while (message := await self._outbox.next()) is not None:
                async with asyncio.timeout(self._limits.stall_s):
                    await self._send_one(message)
                self._outbox.sent(message)
                if not isinstance(message, str):
                    self._wake()
            if self._socket.application_state is WebSocketState.CONNECTED:
                await self._socket.close(_POLICY_VIOLATION)
        except (WebSocketDisconnect, TimeoutError):
            return  # gone, or reading nothing for too long

    async def _send_one(self, message: Outgoing) -> None:
        if isinstance(message, str):
            await self._socket.send_text(message)
        else:
            await self._socket.send_bytes(message.to_bytes())

    def _wake(self) -> None:
        """Let jobs of this client start that waited for room in the outbox, where there is some."""
        if self._outbox.congested:
            return
        for worker in {worker for worker, _ in self._jobs.values()}:
            worker.wake()
