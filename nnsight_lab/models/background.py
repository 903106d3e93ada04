"""Runs that go on behind, each on a thread of its own, and the `Run` that fills in meanwhile.

The executors keep order: a model in this process runs one thing at a time, a server many.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import threading
import weakref
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol

import torch

from nnsight_lab.contract import RunEvent, Saved
from nnsight_lab.errors import Cancelled, EngineFailed, LabError, NotSupported, TimedOut
from nnsight_lab.tracing.show import is_shown
from nnsight_lab.tracing.source import for_the_user, user_line

if TYPE_CHECKING:
    from nnsight_lab.models.run import Run
    from nnsight_lab.models.under_way import RunUnderWay

__all__ = ["Behind", "CarryOut", "begun_behind"]


class CarryOut(Protocol):
    """Runs a graph to its end; tells of each event, and first of what is under way."""

    def __call__(
        self, on_event: Callable[[RunEvent], None], noted: Callable[[RunUnderWay], None]
    ) -> Run:
        """Give the finished run. Raises what it failed with."""
        ...


class Behind:
    """How a run in the background goes, for whoever waits for it. Safe on any thread."""

    def __init__(self) -> None:
        self._ended: concurrent.futures.Future[LabError | None] = concurrent.futures.Future()
        self._under_way: RunUnderWay | None = None
        self._cancelled = False
        self._why: LabError | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._ended.done()

    @property
    def state(self) -> str:
        """`under way`, `ended`, or how it failed."""
        if not self.done:
            return "under way"
        error = self._ended.result()
        return "ended" if error is None else f"failed: {error.message}"

    def cancel(self, why: LabError | None = None) -> None:
        """Ask it to stop, also before it has begun; it fails with `why`, or with `Cancelled`."""
        self._cancelled, self._why = True, why
        under_way = self._under_way
        if under_way is not None:
            under_way.cancel(why)

    def noted(self, run: RunUnderWay) -> None:
        """What is under way for it. Raises `Cancelled` where it need not begin."""
        self._under_way = run
        if self._cancelled:
            raise self._why or Cancelled(
                "The run was cancelled before it began.", hint="Run it once more."
            )

    def end(self, error: LabError | None) -> None:
        """It has ended."""
        self._under_way = None
        self._ended.set_result(error)

    def wait(self, timeout: float | None) -> None:
        """Wait for the end. Raises what it failed with, or `TimedOut`."""
        try:
            error = self._ended.result(timeout)
        except TimeoutError:
            raise TimedOut(
                f"The run has not ended after {timeout:g} s; it goes on.",
                hint="Wait longer, or end it: run.cancel().",
            ).at(user_line()) from None
        if error is not None:
            raise for_the_user(error) from error.__cause__

    async def awaited(self) -> None:
        """The same for `await`; others go on meanwhile."""
        # Whoever is no longer interested in the end does not end the run.
        error = await asyncio.shield(asyncio.wrap_future(self._ended))
        if error is not None:
            raise for_the_user(error) from error.__cause__

    def when_done(self, callback: Callable[[LabError | None], None]) -> None:
        """Call back at the end, on the run's own thread; at once where that has come."""
        self._ended.add_done_callback(lambda ended: callback(ended.result()))


_running: weakref.WeakSet[Behind] = weakref.WeakSet()


def begun_behind(carry_out: CarryOut, run: Run, back: Callable[[Run], None]) -> Run:
    """Begin to carry out a run on a thread of its own; gives `run`, which fills in.

    back: called on that thread when the run has ended well, before anyone who waits goes on.

    Raises:
        NotSupported: this thread computes under autocast, which another thread does not.
    """
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise NotSupported(
            "torch.autocast is a mode of this thread, and a run in the background has its own.",
            hint="Load the model in the precision you want, or run it here and now.",
        )
    behind = run.behind
    assert behind is not None, "it is to run behind"

    def take(event: RunEvent) -> None:
        if isinstance(event, Saved) and not is_shown(event.name):
            run.arrived(event.name, event.value)

    def go() -> None:
        error: LabError | None = None
        try:
            run.become(carry_out(on_event=take, noted=behind.noted))
            back(run)
        except LabError as exc:
            error = for_the_user(exc)
        except BaseException as exc:  # noqa: BLE001 - the last frame of a thread: whoever waits must hear
            error = EngineFailed(f"The run stopped: {exc!r}.", hint="Run it once more.")
            error.__cause__ = exc
        behind.end(error)

    _running.add(behind)
    # What is printed meanwhile belongs to the cell that began it, which the context knows.
    inside: Any = copy_context().run
    threading.Thread(target=inside, args=(go,), name="nnsight-lab-run", daemon=True).start()
    return run


@atexit.register
def _cancel_all() -> None:
    """A program that ends does not wait for what runs behind it, nor leave it to a server."""
    left = [behind for behind in _running if not behind.done]
    for behind in left:
        behind.cancel()
    concurrent.futures.wait([behind._ended for behind in left], timeout=2.0)  # noqa: SLF001
