"""What goes on around the run of a cell: the place where options of the line hook in.

An option of `TraceLine` that wants to see a cell's run adds itself to `AROUND`; nothing else of the
magic needs to know of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from typing import Any, Protocol

from nnsight_lab.jupyter.line import TraceLine
from nnsight_lab.models.traced import TracedModel
from nnsight_lab.models.under_way import Asker, asked_by

__all__ = ["AROUND", "Around", "around_the_run"]


class Around(Protocol):
    """What is open while a cell is recorded and run; for `--bg`, until the run has ended."""

    def __call__(self, model: TracedModel, said: TraceLine) -> AbstractContextManager[Any]:
        """Open it for one cell. `models.under_way.watching` tells it of the run's events, and
        `asker_now()` whose runs are the cell's.
        """
        ...


AROUND: dict[str, str] = {"live": "nnsight_lab.jupyter.live.following:followed_by_line"}
"""Fields of `TraceLine` to what is around the run where they are set: `module:function`, loaded
when it is first needed."""


@contextmanager
def around_the_run(model: TracedModel, said: TraceLine) -> Iterator[ExitStack]:
    """Everything that the line asks for; `pop_all()` keeps it open after the block."""
    with asked_by(Asker()), ExitStack() as stack:
        for field, target in AROUND.items():
            if getattr(said, field):
                module, _, name = target.partition(":")
                around: Around = getattr(import_module(module), name)
                stack.enter_context(around(model, said))
        yield stack
