"""A `%%trace` cell recorded and run: its body, what it saves, and what its names hold afterwards."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from nnsight_lab.errors import LabError, MagicUsage
from nnsight_lab.jupyter.around import around_the_run
from nnsight_lab.jupyter.body import LAST, Body
from nnsight_lab.jupyter.flow import Flow, forget_flow
from nnsight_lab.jupyter.line import TraceLine
from nnsight_lab.jupyter.lowering import FLOW
from nnsight_lab.models.deadline import cancelled_after, ended_after
from nnsight_lab.models.traced import TracedModel
from nnsight_lab.tracing import Proxy, Tracer
from nnsight_lab.tracing.show import note_needed

__all__ = ["TRACER", "Recording"]

TRACER = "tracer"
"""The variable that holds the cell's tracer, as in `with lm.trace(…) as tracer`."""


class Recording:
    """One cell on its way from its text to its values.

    space: the user's variables. When the cell fails, a name that it had given a recorded value
    holds again what it held before.
    """

    def __init__(
        self, space: dict[str, Any], model: TracedModel, tracer: Tracer[Any], said: TraceLine
    ) -> None:
        self._space = space
        self._model = model
        self.tracer = tracer
        self._said = said
        self._before: dict[str, Any] = {}
        self._other: Any = space
        self._recorded: list[Proxy] = []
        self.late: dict[str, Any] = {}

    def go(self, body: Body) -> Any:
        """Record the body, run it, and hand back what it saves; gives the run, or its shapes.

        In the background names come back when the run has ended, where they still hold what the
        cell gave them; a last expression is then in `late`.
        """
        space, tracer, said = self._space, self.tracer, self._said
        space.pop(LAST, None)
        self._other = space.get(TRACER, space)
        space[TRACER] = tracer
        self._before = dict(space)
        space[FLOW] = Flow(space)
        try:
            with around_the_run(self._model, said) as around, cancelled_after(said.timeout):
                self._record(body)
                if said.background:
                    kept = around.pop_all()
                    tracer.run.when_done(lambda _: kept.close())
        except BaseException:  # an interrupt as well; it goes on below
            self._undo()
            raise
        finally:
            forget_flow(space)
        if said.explain:
            self._undo()
            return tracer.experiment.explain(self._model)
        if said.background:
            space.pop(LAST, None)
            ended_after(tracer.run, said.timeout)
        space[said.name] = tracer.run
        return tracer.run

    def undo_late(self, error: LabError | None) -> None:
        """A run in the background has ended; where it failed, its names are taken back."""
        if error is not None:
            _take_back(self._space, self._before, self._recorded)

    def _undo(self) -> None:
        _take_back(self._space, self._before)
        if self._other is not self._space:
            self._space[TRACER] = self._other
        else:
            self._space.pop(TRACER, None)

    def _record(self, body: Body) -> None:
        space, said, tracer = self._space, self._said, self.tracer
        tracer.begin()
        try:
            body.run(space)
            # `%time h = …` assigns where the body's own text shows no assignment.
            others = (
                name
                for name in _changed(space, self._before)
                if name.isidentifier() and name[0] != "_"
            )
            assigned = tuple(dict.fromkeys((*body.assigned, *others)))
            for name in assigned if said.save is None else said.save:
                _save(space, name, asked=said.save is not None)
            _save(space, LAST, asked=False)
            if said.live and said.generation:
                # Else the last token is not sampled: nobody would have asked for it.
                tokens = tracer.result
                note_needed(tokens.recorder, tokens.now().node)
        finally:
            tracer.end()
        names = (*assigned, *(said.save or ()), LAST)
        given = {name: space[name] for name in names if name in space}
        self._recorded = [each for value in given.values() for each in _recorded_in(value)]
        assign: Callable[[dict[str, Any]], None] = space.update
        if said.background:
            assign = lambda changed: self._assign_late(given, changed)  # noqa: E731
        tracer.finish(given, assign)

    def _assign_late(self, given: dict[str, Any], changed: dict[str, Any]) -> None:
        """Names come back from another thread; what the user has done with them since, stays."""
        for name, value in changed.items():
            if name == LAST:
                self.late[LAST] = value
            elif self._space.get(name) is given[name]:
                self._space[name] = value


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


def _take_back(
    space: dict[str, Any], before: dict[str, Any], of: list[Proxy] | None = None
) -> None:
    """Variables that a failed cell left with recorded values get what they held before.

    of: take back only what this cell recorded; others have run since.
    """
    for name in _changed(space, before):
        value = next(_recorded_in(space[name]), None)
        if name == LAST or (
            value is not None and (of is None or any(value is each for each in of))
        ):
            if name in before:
                space[name] = before[name]
            else:
                del space[name]
