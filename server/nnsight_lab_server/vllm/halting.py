"""`Halt`: a start of vLLM, which takes long, given up from another thread.

Whoever starts something asks now and then whether it is still wanted. vLLM itself cannot be asked
to stop while it starts: its processes are ended, and it says that they have.

A start whose workers stop answering is given up after a while, and made once more (`once_more`).
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait
from contextlib import suppress
from importlib import import_module
from typing import Any, TypeVar

from nnsight_lab.errors import EngineFailed

__all__ = ["Halt", "Stalled", "end_others", "once_more", "processes_here"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_LOOK_S = 0.1
_TRIES = 80


class Stalled(EngineFailed):
    """The workers of an engine do not answer, as when they wait for each other."""


class Halt:
    """Whether what is being started is still wanted."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    @property
    def asked(self) -> bool:
        """Whether it is not."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Give it up; from any thread, as often as one likes."""
        self._asked.set()

    def check(self) -> None:
        """Go on only if it is wanted.

        Raises:
            EngineFailed: it is not.
        """
        if self.asked:
            raise EngineFailed(
                "The engine was stopped while it started.", hint="Start the server again."
            )

    def wait(self, answer: Future[_T], end: Callable[[], None]) -> _T:
        """The answer of something that takes long. end: ends what it waits for; called if given up.

        Raises:
            EngineFailed: it was given up.
            BaseException: what the answer raises.
        """
        while not (self.asked or wait([answer], timeout=_LOOK_S).done):
            pass
        tries = _TRIES
        while self.asked and tries and not answer.done():
            end()  # again and again: it may be about to start a process
            wait([answer], timeout=_LOOK_S)
            tries -= 1
        self.check()
        return answer.result()


def once_more(start: Callable[[], _T], again: Callable[[], None]) -> _T:
    """What a start gives; one that stalls is made a second time. again: called before that.

    Raises:
        Stalled: the second has stalled too.
        BaseException: what a start raises.
    """
    try:
        return start()
    except Stalled as exc:
        _log.warning("%s It is started once more.", exc.message)
        again()
    return start()


def processes_here() -> frozenset[int]:
    """The numbers of the processes that this one has started as Python does."""
    return frozenset(process.pid or 0 for process in multiprocessing.active_children())


def end_others(before: Collection[int]) -> None:
    """End all processes that this one has started, and what they have, but for those before."""
    psutil = import_module("psutil")
    for process in multiprocessing.active_children():
        if process.pid in before:
            continue
        with suppress(Exception):  # it has ended by itself
            family: list[Any] = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for each in family:
                with suppress(Exception):
                    each.kill()
