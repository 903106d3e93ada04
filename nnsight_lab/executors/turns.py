"""One run at a time on one model in this process, and runs that are cancelled before their turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nnsight_lab.errors import Cancelled

__all__ = ["in_turn"]

_LOOK_S = 0.05
"""How often a run that waits looks whether it was cancelled."""


@contextmanager
def in_turn(lock: threading.RLock, cancelled: Callable[[], bool]) -> Iterator[None]:
    """Wait for the lock, and hold it while the block lasts.

    Raises:
        Cancelled: the run was, while it waited.
    """
    if not lock.acquire(blocking=False):
        while not lock.acquire(timeout=_LOOK_S):
            if cancelled():
                raise Cancelled("The run was cancelled before its turn.", hint="Run it once more.")
    try:
        yield
    finally:
        lock.release()
