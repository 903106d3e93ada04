"""What a `%%trace` cell shows of its run: the graph, the last expression, views, the cost."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display, publish_display_data

from nnsight_lab.errors import MagicUsage
from nnsight_lab.ir import Graph
from nnsight_lab.jupyter.body import LAST, Body
from nnsight_lab.jupyter.chosen import evaluated
from nnsight_lab.jupyter.line import TraceLine
from nnsight_lab.models.run import Run
from nnsight_lab.models.scans import Shapes
from nnsight_lab.tracing import Tracer

__all__ = ["cost_line", "other_run", "show_cell", "show_run"]


def show_cell(
    space: dict[str, Any],
    tracer: Tracer[Any],
    run: Any,
    said: TraceLine,
    body: Body,
    other: Run | None,
) -> None:
    """Show what the line of the cell asks for; the last expression unless it ends in `;`.

    other: the run to compare with.
    """
    if said.graph:
        _show_graph(tracer.graph)
    if said.explain:
        display(run)
        return
    if body.shows:
        last = space.pop(LAST, None)
        if last is not None:
            display(last)
    if said.scan:
        if not said.quiet:
            display(_without_last(run))
        return
    show_run(run, said, other)


def _show_graph(graph: Graph) -> None:
    """As the notebook draws it; its text is the whole graph, line by line, not a summary."""
    formatter: Any = InteractiveShell.instance().display_formatter
    data, metadata = formatter.format(graph)
    publish_display_data({**data, "text/plain": str(graph)}, metadata)


def show_run(run: Run, said: TraceLine, other: Run | None) -> None:
    """The views, the comparison, and the cost of a run that has ended."""
    for view in said.show:
        display(_view(run, view))
    if said.live and run.sliders:
        run.live()
    if other is not None:
        display(run.diff(other))
    if not said.quiet:
        print(cost_line(run))


def other_run(space: dict[str, Any], expression: str) -> Run | None:
    """The run that `--diff` names, None where it names none. Raises `MagicUsage`."""
    found = evaluated(space, expression) if expression else None
    if found is None and not expression:
        return None
    if isinstance(found, Run) and found.done:
        return found
    if isinstance(found, Run):
        raise MagicUsage(
            f"--diff {expression}: that run has not ended.", hint=f"{expression}.wait() first."
        )
    raise MagicUsage(
        f"--diff {expression} is a {type(found).__name__}, not a run.",
        hint="Give a run a name of its own with --as clean, then --diff clean.",
    )


def _view(run: Run, name: str) -> Any:
    """One view; what draws is loaded when something is drawn."""
    return import_module("nnsight_lab.jupyter.figures_views").VIEWS_OF_A_RUN[name](run)


def _without_last(shapes: Shapes) -> Shapes:
    return Shapes({name: shapes[name] for name in shapes if name != LAST})


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
