"""One open websocket to a lab's server, shared by every run: sends here, receives on a thread.

A `Link` carries a `wire.ClientConnection`. Whoever asks gets a `Mailbox`; the receiving thread
puts each event where it belongs. When the connection ends, for whatever reason, every open mailbox
is told the same error, and the link is of no more use; `remote_client.py` opens another.
Foreign errors are translated here and nowhere else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from nnsight_lab.contract import Done, Failed, Sending
from nnsight_lab.errors import (
    AuthFailed,
    ConnectionLost,
    LabError,
    LimitExceeded,
    NotSupported,
    ProtocolError,
    ServerError,
    ServerUnreachable,
)
from nnsight_lab.settings import Settings
from nnsight_lab.wire import ClientConnection, Outgoing, WireLimits
from nnsight_lab.wire.events import BlobsAsked, ClientEvent, Complaint, JobTold, Welcomed

__all__ = ["Link", "Mailbox"]

_TOO_BIG = 1009
_REFUSED = 1008
_TRY_AGAIN_LATER = 1013
_TELL_S = 0.1
"""How often a run is told how far its upload is."""

# Below INFO the websocket library writes headers, and so the token, to the log.
_log = logging.getLogger("nnsight_lab.socket")
_log.setLevel(logging.INFO)

Mail: TypeAlias = ClientEvent | Sending | LabError
Asking: TypeAlias = Callable[[ClientConnection], tuple[int, list[Outgoing]]]


class Mailbox:
    """Where the answers to one ask, or the events of one job, arrive."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Mail] = SimpleQueue()

    def put(self, item: Mail) -> None:
        """Called by the link."""
        self._queue.put(item)

    def take(self, timeout_s: float | None = None) -> ClientEvent | Sending:
        """The next event. Raises the error the link ended with, or `ServerError` on timeout."""
        if timeout_s is None:
            item = self._wait()
        else:
            try:
                item = self._queue.get(timeout=timeout_s)
            except Empty:
                raise ServerError(f"The server gave no answer in {timeout_s:.0f} s.") from None
        if isinstance(item, LabError):
            raise _own(item)
        return item

    def _wait(self) -> Mail:
        while True:
            # Waiting in pieces lets Ctrl-C through where a blocked lock would not.
            with contextlib.suppress(Empty):
                return self._queue.get(timeout=1.0)


class Link:
    """An open connection whose server has said welcome."""

    def __init__(self, url: str, socket_url: str, token: str | None, settings: Settings) -> None:
        """Connect. Raises `ServerUnreachable`, `AuthFailed`, `ServerError`, `ProtocolError`.

        url: as the user wrote it, for errors. socket_url: where the websocket is.
        """
        self.pid = os.getpid()
        self.lost: LabError | None = None
        self._url = url
        self._connection = ClientConnection(WireLimits.from_settings(settings))
        self._lock = threading.Lock()
        self._order = threading.Lock()
        self._welcome = Mailbox()
        self._boxes: dict[int, Mailbox] = {}
        self._uploading: set[int] = set()
        most = self._connection.limits.socket_bytes
        self._socket = _open(url, socket_url, token, settings, most)
        threading.Thread(target=self._receive, name="nnsight-lab-link", daemon=True).start()
        try:
            self._send(self._connection.hello(_versions()))
            self._welcome.take(settings.connect_timeout_s)
        except BaseException:
            self.close()
            raise

    def ask(self, asking: Asking) -> tuple[int, Mailbox]:
        """Send what `asking` makes of the connection; its number, and where answers arrive."""
        box = Mailbox()
        # Numbers must reach the server in the order they were given out; frames need not.
        with self._order:
            with self._lock:
                if self.lost is not None:
                    raise _own(self.lost)
                number, messages = asking(self._connection)
                self._boxes[number] = box
            self._send(messages[:1])
        self._send(messages[1:])
        return number, box

    def cancel(self, job: int) -> None:
        """Ask for the end of a job; nothing happens if it has ended."""
        with self._lock:
            messages = self._connection.cancel(job) if self.lost is None else []
        with contextlib.suppress(LabError):
            self._send(messages)

    def close(self) -> None:
        """End the connection; open mailboxes are told."""
        self._lose(
            ConnectionLost("The connection was closed.", hint="The next call opens another.")
        )

    def _send(self, messages: list[Outgoing]) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            for message in messages:
                self._socket.send(message if isinstance(message, str) else message.to_bytes())
        except ConnectionClosed as exc:
            error = _closed(exc, self._url)
            self._lose(error)
            raise _own(self.lost or error) from _bare(exc)
        except BaseException:
            # Interrupted inside a message: what was sent of it cannot be taken back.
            self.close()
            raise

    def _receive(self) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                self._dispatch(self._socket.recv())
        except ConnectionClosed as exc:
            self._lose(_closed(exc, self._url))
        except LabError as exc:
            self._lose(exc)
        except Exception as exc:  # noqa: BLE001 - a seam: whatever ends this thread must reach who waits
            error = ServerError(f"The connection failed: {type(exc).__name__}.")
            error.__cause__ = exc
            self._lose(error)

    def _dispatch(self, data: str | bytes) -> None:
        with self._lock:
            if isinstance(data, str):
                events = self._connection.receive_text(data)
            else:
                events = self._connection.receive_bytes(data)
            for event in events:
                self._deliver(event)

    def _deliver(self, event: ClientEvent) -> None:
        match event:
            case Welcomed():
                self._welcome.put(event)
            case Complaint(error=error):
                # We sent what the server cannot read; no answer to it will come.
                raise error
            case BlobsAsked(job=job):
                self._begin_upload(job)
            case JobTold(job=job, event=Done() | Failed()):
                self._boxes.pop(job).put(event)
            case JobTold(job=job):
                self._boxes[job].put(event)
            case _:
                self._boxes.pop(event.ask).put(event)

    # ---------------------------------------------------------------- large constants

    def _begin_upload(self, job: int) -> None:
        """On a thread of its own: whoever waits for the run can be interrupted meanwhile."""
        if job not in self._uploading:  # one thread a job: its frames go in order
            self._uploading.add(job)
            box = self._boxes[job]
            name = "nnsight-lab-upload"
            threading.Thread(target=self._upload, args=(job, box), name=name, daemon=True).start()

    def _upload(self, job: int, box: Mailbox) -> None:
        told = 0.0
        while True:
            with self._lock:
                found = self._connection.next_blob_frame(job) if self.lost is None else None
                if found is None:
                    self._uploading.discard(job)
                    return
            frame, sending = found
            last = sending.sent_bytes == sending.total_bytes
            if last or time.monotonic() - told > _TELL_S:
                # Before the frame goes: the server's answer to the last cannot come earlier.
                told = time.monotonic()
                box.put(sending)
            with contextlib.suppress(LabError):  # the link is lost; every mailbox was told
                self._send([frame])

    def _lose(self, error: LabError) -> None:
        with self._lock:
            if self.lost is not None:
                return
            self.lost = error
            boxes = [self._welcome, *self._boxes.values()]
            self._boxes.clear()
        for box in boxes:
            box.put(error)
        if self.pid == os.getpid():  # after a fork the socket is our parent's
            with contextlib.suppress(Exception):
                self._socket.close()


def _own(error: LabError) -> LabError:
    """The same error once more: many runs may end with it, each at a line of its own."""
    own = type(error)(error.message, hint=error.hint, node=error.node)
    own.__cause__, own.inside = error.__cause__, error.inside
    return own


def _versions() -> dict[str, str]:
    from nnsight_lab import __version__

    return {"nnsight-lab": __version__}


def _open(url: str, socket_url: str, token: str | None, settings: Settings, most: int) -> Any:
    try:
        from websockets import exceptions as foreign
        from websockets.sync.client import connect
    except ImportError as exc:
        raise NotSupported(
            "Remote runs need the `websockets` package.", hint="pip install websockets"
        ) from exc
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        return connect(
            socket_url,
            additional_headers=headers,
            compression=None,
            proxy=None,
            open_timeout=settings.connect_timeout_s,
            close_timeout=1.0,
            ping_timeout=60.0,
            max_size=most,
            logger=_log,
        ).__enter__()
    except foreign.InvalidStatus as exc:
        raise _refused(exc.response.status_code, url) from _bare(exc)
    except (foreign.InvalidURI, ValueError) as exc:
        raise ServerUnreachable(
            f"{url!r} is not an address.", hint='Such as nl.connect("http://127.0.0.1:8765").'
        ) from _bare(exc)
    except foreign.InvalidHandshake as exc:
        raise _no_welcome(exc, url) from _bare(exc)
    except (foreign.WebSocketException, EOFError) as exc:  # closed before it had answered
        raise _hung_up(url) from _bare(exc)
    except OSError as exc:  # refused, unknown host, timed out
        raise ServerUnreachable(
            f"No server answers at {url}.",
            hint="Start one with `nnsight-lab serve tiny`, or check the address.",
        ) from _bare(exc)


def _no_welcome(exc: BaseException, url: str) -> LabError:
    if isinstance(exc.__cause__, EOFError | OSError):
        return _hung_up(url)
    return ServerError(
        f"What answers at {url} is not a lab's server.", hint="Check the address and the port."
    )


def _hung_up(url: str) -> LabError:
    return ServerUnreachable(
        f"The server at {url} ended the connection before it answered.",
        hint="It may have stopped just now: start it again, or check the address and the port.",
    )


def _bare(exc: BaseException) -> BaseException:
    """A cause to keep: what it says, without the frames and the causes behind it."""
    exc.__cause__ = exc.__context__ = None
    return exc.with_traceback(None)


def _refused(status: int, url: str) -> LabError:
    if status in {401, 403}:
        return AuthFailed(
            f"The server at {url} does not take this token.",
            hint='Pass the one it printed: nl.connect(url, token="…"), or NNSIGHT_LAB_TOKEN.',
        )
    return ServerError(
        f"What answers at {url} is not a lab's server (HTTP {status}).",
        hint="Check the address and the port.",
    )


def _closed(exc: Any, url: str) -> LabError:
    codes = {close.code for close in (exc.rcvd, exc.sent) if close is not None}
    if _TOO_BIG in codes:
        return LimitExceeded(
            "A message larger than the connection carries was sent.",
            hint="Save or send less at a time.",
        )
    if _TRY_AGAIN_LATER in codes:
        return ServerError(f"The server at {url} takes no more clients.", hint="Try again later.")
    if _REFUSED in codes:
        return ProtocolError(f"The server at {url} ended the connection: too many mistakes.")
    return ConnectionLost(
        f"The connection to {url} ended.",
        hint="Run the cell again: the next call connects anew.",
    )
