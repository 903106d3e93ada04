"""Blocks whose run goes on behind: when there can be one, and `async with`, which waits for it."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from nnsight_lab.errors import LabError, NotSupported
from nnsight_lab.tracing.names import forget_variables
from nnsight_lab.tracing.source import for_the_user, user_line

__all__ = ["awaited", "check_goes_on", "given"]

ValueT = TypeVar("ValueT")


def check_goes_on(possible: bool) -> None:
    """Refuse a block that has no run of its own. Raises `NotSupported`."""
    if not possible:
        raise NotSupported(
            "This block has no run of its own that could go on in the background.",
            hint="A trace or a generation by itself has; a session, a scan, and execute=False not.",
        ).at(user_line())


async def given(value: ValueT) -> ValueT:
    """What is there already, for `await`."""
    return value


async def awaited(run: Any, back: Callable[[Any], None], frame: FrameType) -> None:
    """Wait for a run without holding up others; then hand its values back to the block's frame.

    Whoever stops to wait, by a timeout or a cancelled task, cancels the run.
    """
    failure: LabError | None = None
    try:
        back(await run)
    except LabError as error:
        failure = for_the_user(error)
    except BaseException:
        run.cancel()
        raise
    finally:
        forget_variables(frame)
    if failure is not None:
        try:
            raise failure
        finally:
            del failure, frame
