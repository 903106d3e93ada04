"""A server that goes while a client is at its door: a typed error, whatever the socket raised."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import websockets.sync.client
from websockets.exceptions import ConnectionClosedError

from nnsight_lab.errors import LabError, ServerError, ServerUnreachable
from nnsight_lab.executors.remote import RemoteExecutor
from nnsight_lab.executors.remote_client import LabClient
from tests.server.lab_server import reads, request_for, values_of


@contextmanager
def door(behave: Callable[[socket.socket], Any]) -> Iterator[str]:
    """Something that listens, and does this with whoever comes first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            visitor, _ = listener.accept()
            with visitor:
                behave(visitor)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def reset(visitor: socket.socket) -> None:
    """The connection is torn down, as when a process is killed."""
    visitor.recv(10)
    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def leave(visitor: socket.socket) -> None:
    """Hear the request out, and go."""
    visitor.recv(10_000)


def stop_short(visitor: socket.socket) -> None:
    """Go in the middle of the answer."""
    visitor.recv(10_000)
    visitor.sendall(b"HTTP/1.1 101 Swi")


@pytest.mark.parametrize("behave", [reset, leave, stop_short])
def test_a_server_that_hangs_up_is_unreachable(behave: Callable[[socket.socket], Any]) -> None:
    with door(behave) as url, pytest.raises(ServerUnreachable) as caught:
        LabClient(url, None).link()
    assert caught.value.hint


def test_what_speaks_another_language_is_no_lab() -> None:
    def speak(visitor: socket.socket) -> None:
        visitor.recv(10_000)
        visitor.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

    with door(speak) as url, pytest.raises(ServerError, match="not a lab's server"):
        LabClient(url, None).link()


@pytest.mark.parametrize("error", [ConnectionClosedError(None, None), EOFError(), OSError()])
def test_a_run_whose_connection_is_closed_while_it_opens_is_a_lab_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of these it is depends on how far the two threads of the socket have come."""

    def closed(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(websockets.sync.client, "connect", closed)
    remote = RemoteExecutor(LabClient("http://127.0.0.1:1", None), "tiny")
    with pytest.raises(LabError) as caught:
        values_of(remote, request_for(reads("logits")))
    assert isinstance(caught.value, ServerUnreachable)
    assert caught.value.__cause__ is error
