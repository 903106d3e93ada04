"""What a `%%trace` cell shows of its run: the graph, the last expression, views, the cost."""

from __future__ import annotations

from typing import Any

import torch
from IPython.display import display

from nnsight_lab.jupyter.body import LAST, Body
from nnsight_lab.jupyter.line import TraceLine
from nnsight_lab.models.run import Run
from nnsight_lab.tracing import Tracer

__all__ = ["cost_line", "show_cell"]


def show_cell(
    space: dict[str, Any], tracer: Tracer[Run], run: Run, said: TraceLine, body: Body
) -> None:
    """Show what the line of the cell asks for; the last expression unless it ends in `;`."""
    if said.graph:
        print(tracer.graph)
    if body.shows:
        last = space.pop(LAST, None)
        if last is not None:
            display(last)
    for view in said.show:
        display(getattr(run.fig, view)())
    if not said.quiet:
        print(cost_line(run))


def cost_line(run: Run) -> str:
    """Where a run ran, how long it took, and what it saved, in one line."""
    names = [name for name in run if name != LAST]
    size = sum(_bytes(run[name]) for name in run)
    where = run.model.card.capabilities
    took = sum(run.seconds.values()) * 1e3
    how_far = f"{run.how_far}, " if run.how_far else ""
    peeks = f"{run.peeks} before ({run.peeks.seconds * 1e3:.0f} ms), " if run.peeks.count else ""
    saved = ", ".join(names[:6]) + (", …" if len(names) > 6 else "") if names else "nothing"
    return (
        f"{run.model.name} on {where.engine} ({where.device}): {took:.0f} ms, {how_far}"
        f"{peeks}saved {saved} ({_size(size)})"
    )


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, tuple | list):
        return sum(map(_bytes, value))
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return 0


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
