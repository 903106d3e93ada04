"""What a worker tells the server of a run. Data; how it crosses is `channel.py`'s business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from nnsight_lab.errors import LabError

__all__ = ["Done", "Failed", "Message", "Saved", "Submit", "Token"]


@dataclass(frozen=True, slots=True)
class Saved:
    """A value the graph saves: of tensors, or a `wire.Value`, which it is on arrival anyway.

    Whoever sends tensors leaves them as they are from then on.
    """

    run: str
    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class Token:
    """Every row has gone on with a token after forward pass `step`; ended ones with padding."""

    run: str
    step: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Submit:
    """Rows of a part are to be run, from the beginning: `(row, attempt, token ids)` each.

    So rows come again that went by an edit before it was known, and the next part of a session begins.
    """

    run: str
    part: int
    rows: tuple[tuple[int, int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The run ended with an error. The last of its messages."""

    run: str
    error: LabError


@dataclass(frozen=True, slots=True)
class Done:
    """The run ended well. The last of its messages."""

    run: str
    steps: int
    ended: bool


Message: TypeAlias = Saved | Token | Submit | Failed | Done
