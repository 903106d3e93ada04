"""A `%%trace` cell recorded and run: its body, what it saves, and what its names hold afterwards."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from nnsight_lab.errors import MagicUsage
from nnsight_lab.jupyter.body import LAST, Body
from nnsight_lab.jupyter.flow import Flow, forget_flow
from nnsight_lab.jupyter.line import TraceLine
from nnsight_lab.jupyter.lowering import FLOW
from nnsight_lab.models.run import Run
from nnsight_lab.tracing import Proxy, Tracer

__all__ = ["TRACER", "carried_out"]

TRACER = "tracer"
"""The variable that holds the cell's tracer, as in `with lm.trace(…) as tracer`."""


def carried_out(space: dict[str, Any], tracer: Tracer[Run], said: TraceLine, body: Body) -> Run:
    """Record the body, run it, and hand back what it saves to the user's variables.

    When the cell fails, a name it had given a recorded value holds again what it held before.
    """
    space.pop(LAST, None)
    other = space.get(TRACER, space)
    space[TRACER] = tracer
    before = dict(space)
    space[FLOW] = Flow(space)
    try:
        _record(space, tracer, said, body, before)
    except BaseException:  # an interrupt as well; it goes on below
        _take_back(space, before)
        if other is not space:
            space[TRACER] = other
        else:
            space.pop(TRACER, None)
        raise
    finally:
        forget_flow(space)
    space[said.name] = tracer.run
    return tracer.run


def _record(
    space: dict[str, Any],
    tracer: Tracer[Run],
    said: TraceLine,
    body: Body,
    before: dict[str, Any],
) -> None:
    tracer.begin()
    try:
        body.run(space)
        # `%time h = …` assigns where the body's own text shows no assignment.
        others = (
            name for name in _changed(space, before) if name.isidentifier() and name[0] != "_"
        )
        assigned = tuple(dict.fromkeys((*body.assigned, *others)))
        for name in assigned if said.save is None else said.save:
            _save(space, name, asked=said.save is not None)
        _save(space, LAST, asked=False)
    finally:
        tracer.end()
    names = (*assigned, *(said.save or ()), LAST)
    tracer.finish({name: space[name] for name in names if name in space}, space.update)


def _save(space: dict[str, Any], name: str, *, asked: bool) -> None:
    """Save what a name holds, as if the body had called `.save()` on it in its last line."""
    if asked and name not in space:
        raise MagicUsage(f"-s {name}: the cell assigns no {name}.", hint="Names: -s h,logits")
    for value in _recorded_in(space.get(name)):
        if value.recorder.open and value.saved_value is None:
            value.save()


_LONGEST = 10_000
"""Containers longer than this are data, not recorded values; they are not searched."""


def _recorded_in(value: Any, seen: set[int] | None = None) -> Iterator[Proxy]:
    """The recorded values a value is or holds, in order; named tuples are tuples."""
    seen = set() if seen is None else seen
    if isinstance(value, Proxy):
        yield value
    elif isinstance(value, list | tuple | dict | deque) and id(value) not in seen:
        seen.add(id(value))
        if len(value) <= _LONGEST:
            for item in value.values() if isinstance(value, dict) else value:
                yield from _recorded_in(item, seen)


def _changed(space: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Variables that are new, or hold another value than before."""
    return [name for name, value in space.items() if value is not before.get(name, space)]


def _take_back(space: dict[str, Any], before: dict[str, Any]) -> None:
    """Variables that a failed cell left with recorded values get what they held before."""
    for name in _changed(space, before):
        if name == LAST or next(_recorded_in(space[name]), None) is not None:
            if name in before:
                space[name] = before[name]
            else:
                del space[name]
