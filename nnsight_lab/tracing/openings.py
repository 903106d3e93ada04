"""Which recordings are open, in this thread or task: on which model, and what records them."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from nnsight_lab.errors import GraphError
from nnsight_lab.tracing.einops_values import teach_einops
from nnsight_lab.tracing.recorder import Recorder

__all__ = ["close_for", "open_for", "open_recorder", "open_recordings"]

_open: ContextVar[tuple[tuple[object, Recorder], ...]] = ContextVar("open_traces", default=())


def open_recorder(owner: object) -> Recorder | None:
    """The recording that is open on a model in this thread, or None."""
    for model, recorder in reversed(_open.get()):
        if model is owner:
            return recorder
    return None


def open_recordings() -> tuple[tuple[object, Recorder], ...]:
    """The models with an open recording in this thread, each with it; the last one first."""
    return tuple(reversed(_open.get()))


def open_for(owners: tuple[object, ...], recorder: Recorder) -> Any:
    """Open a recording on these models, and give what `close_for` needs.

    Raises:
        GraphError: one of them has a recording open.
    """
    if any(open_recorder(owner) is not None for owner in owners):
        raise GraphError(
            "A trace on this model is already open.",
            hint="End it first, or give both prompts to one trace.",
        )
    teach_einops()
    return _open.set((*_open.get(), *((owner, recorder) for owner in owners)))


def close_for(token: Any) -> None:
    """Close what `open_for` opened."""
    _open.reset(token)
