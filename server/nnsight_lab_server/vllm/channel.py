"""The way from the workers of an engine to the server: one socket, and a folder in shared memory.

    server   Receiver(hear)        one thread; `address` is given to the workers
    worker   sender_to(address)    its `send` never waits: a thread of its own carries on

Messages of one worker arrive in the order they were sent. The folder is the server's: it is removed
when the engine is closed, and folders of servers that died are removed when the next one starts.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import torch

from nnsight_lab.errors import EngineFailed, LabError
from nnsight_lab.wire import Value
from nnsight_lab_server.values import to_wire
from nnsight_lab_server.vllm.messages import Failed, Message, Saved
from nnsight_lab_server.vllm.parcels import decode, encode

__all__ = ["Here", "Receiver", "Sender", "Sends", "sender_to"]

_log = logging.getLogger(__name__)
_PREFIX = "nnsight-lab.v2-"  # before, folders had no locks
_TICK_MS = 200
_LINGER_MS = 500
_HERE = "here:"


class Sends(Protocol):
    """What a worker speaks through."""

    def send(self, message: Message) -> None:
        """Tell the server; at once, from any thread."""
        ...

    def close(self) -> None:
        """Say what is left to say, and let go."""
        ...


def sender_to(address: str) -> Sends:
    """The sender that an address means, in the process it is asked for."""
    return Here.at(address) if address.startswith(_HERE) else Sender(address)


def _failed(message: Message, error: LabError) -> Failed:
    return Failed(message.run, error)


def _lost(cause: Exception) -> LabError:
    return EngineFailed(
        f"A message of the worker was lost on its way: {type(cause).__name__}: {cause}",
        hint="Save less at a time, or look whether the server's shared memory is full.",
    )


class Sender:
    """A worker's end: a queue, a thread, and a socket that belongs to the thread."""

    def __init__(self, address: str) -> None:
        self._address = address
        # Beside a socket that is a file there is room for large tensors; beside others there is none.
        path = address.removeprefix("ipc://")
        self._folder = Path(path).parent if path != address else None
        self._queue: queue.SimpleQueue[tuple[Message, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="lab-sender", daemon=True)
        self._thread.start()

    def send(self, message: Message) -> None:
        """Queue a message. Tensors on a device are copied later, behind what the device does now."""
        self._queue.put((message, _moment_of_devices()))

    def close(self) -> None:
        """Send what is queued, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        zmq: Any = import_module("zmq")
        context = zmq.Context()
        socket = context.socket(zmq.PUSH)
        socket.setsockopt(zmq.LINGER, _LINGER_MS)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.connect(self._address)
        while (item := self._queue.get()) is not None:
            message, moment = item
            try:
                _wait_for(moment)
                parts = encode(message, self._folder)
            except LabError as exc:
                parts = encode(_failed(message, exc), None)
            except Exception as exc:  # noqa: BLE001 - a seam: a thread that ends would silence every run
                _log.exception("A message of run %s was lost.", message.run)
                parts = encode(_failed(message, _lost(exc)), None)
            socket.send_multipart(parts, copy=False)
        socket.close()
        context.term()


def _moment_of_devices() -> Any:
    """A mark in what the device is doing, for `_wait_for`; None where there is none."""
    if not torch.cuda.is_initialized():
        return None
    event = torch.cuda.Event()
    event.record()
    return event


def _wait_for(moment: Any) -> None:
    if moment is not None:
        moment.synchronize()


class Here:
    """Both ends in one process, for engines that live in this one: values are bytes at once.

    with here.together():   # what is sent in here is heard at its end
    """

    _known: dict[str, Here] = {}  # noqa: RUF012 - the addresses of this process

    def __init__(self, hear: Callable[[Message], None]) -> None:
        self.address = f"{_HERE}{uuid4().hex}"
        self._hear = hear
        self._kept: list[Message] | None = None
        self._keeping = threading.Lock()
        self._known[self.address] = self

    @classmethod
    def at(cls, address: str) -> Here:
        """The one of an address."""
        return cls._known[address]

    def send(self, message: Message) -> None:
        """Hand a message over, on the sender's thread."""
        if isinstance(message, Saved) and not isinstance(message.value, Value):
            try:
                message = Saved(message.run, message.name, to_wire(message.name, message.value))
            except LabError as exc:
                message = _failed(message, exc)
        with self._keeping:
            if self._kept is not None:
                self._kept.append(message)
                return
        self._hear(message)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Keep what is sent until the end: a thread woken by each message would take turns with this one."""
        kept: list[Message] = []
        self._kept = kept
        try:
            yield
        finally:
            with self._keeping:
                self._kept = None
            for message in kept:
                self._hear(message)

    def close(self) -> None:
        """Forget the address."""
        self._known.pop(self.address, None)


class Receiver:
    """The server's end: a thread that hands every message to `hear`.

    address: what the workers are told.
    """

    def __init__(self, hear: Callable[[Message], None]) -> None:
        zmq: Any = import_module("zmq")
        self._hear = hear
        self.folder, lock = _new_folder()
        self.address = f"ipc://{self.folder / 'socket'}"
        self._lock: int | None = lock
        self._closing = False
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.bind(self.address)
        self._thread = threading.Thread(target=self._work, name="lab-receiver", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hear no more, and remove the folder with what was left in it."""
        self._closing = True
        if threading.current_thread() is not self._thread:
            self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _work(self) -> None:
        while not self._closing:
            if not self._socket.poll(_TICK_MS):
                continue
            try:
                self._hear(decode([frame.buffer for frame in self._received()]))
            except Exception:  # noqa: BLE001 - a seam: whatever a worker in trouble may have sent
                _log.exception("A message of a worker could not be taken.")
        self._socket.close(0)
        self._context.term()

    def _received(self) -> list[Any]:
        frames: list[Any] = self._socket.recv_multipart(copy=False)
        return frames


def _new_folder() -> tuple[Path, int]:
    """A folder in shared memory that only this user may enter, and the lock that says it is in use.

    Leftovers of the dead are removed. A lock goes with its process, however that ends; a number of
    a process may be another's by now, or mean nothing in this container.
    """
    shared = Path("/dev/shm")  # noqa: S108 - memory that processes share, not a temporary file
    root = shared if shared.is_dir() else Path(tempfile.gettempdir())
    for old in root.glob(f"{_PREFIX}*"):
        if not _in_use(old):
            shutil.rmtree(old, ignore_errors=True)
    name = f"{_PREFIX}{os.getpid()}-{uuid4().hex[:12]}"
    begun = root / f".{name}"  # nobody looks for it by this name, until it is locked
    begun.mkdir(mode=0o700)
    lock = os.open(begun, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return begun.rename(root / name), lock


def _in_use(folder: Path) -> bool:
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:  # somebody else's, or gone
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False
