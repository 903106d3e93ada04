"""The variables that a loop of a cell carries from turn to turn; found by running its body.

A variable that existed before the loop and is given a new value in it is carried. One that the
body defines is the body's own: after a loop that may have had no turn it is undefined.
"""

from __future__ import annotations

from typing import Any

from nnsight_lab.errors import GraphError, SourceLine
from nnsight_lab.jupyter.variables import MISSING, Variables
from nnsight_lab.tracing import Recorder
from nnsight_lab.tracing.cells import Value
from nnsight_lab.tracing.control import made_by
from nnsight_lab.tracing.loops import Loop, Turn
from nnsight_lab.tracing.nests import Leaf, collected, rebuilt, settled, stand_ins

__all__ = ["Carried"]


class Carried:
    """What one loop carries. at_start: the variables when the cell began. what: for errors."""

    def __init__(
        self,
        names: dict[str, Any],
        at_start: dict[str, Any],
        recorder: Recorder,
        where: SourceLine | None,
        what: str,
    ) -> None:
        self._names = names
        self._at_start = at_start
        self._recorder = recorder
        self._where = where
        self.variables = Variables(names, what)
        self._carried: list[str] = []
        self._own: dict[str, None] = {}
        self._found: dict[str, Any] = {}
        self._last: list[Leaf] = []
        self._begin()

    def _begin(self) -> None:
        """Begin anew with the variables that are known to be carried."""
        self._begins: list[Leaf] = []
        before = {name: self.variables.before[name] for name in self._carried}
        self._shape = collected(self._recorder, settled(self._recorder, before), self._begins)
        self.loop = Loop(self._recorder, [leaf.value for leaf in self._begins], self._where)

    @property
    def new(self) -> list[Value]:
        """What a turn ends with, for each carried value."""
        return [leaf.value for leaf in self._last]

    def give(self, turn: Turn) -> None:
        """Bind the carried variables to what a turn is given."""
        given = stand_ins(self._recorder, self._begins, turn.carried)
        self._names.update(rebuilt(self._shape, given))

    def take(self) -> None:
        """Note what the variables hold at the end of a turn. Called while it is recorded."""
        names = [*self._carried, *(n for n in self.variables.changed() if n not in self._carried)]
        self._found = {
            name: settled(self._recorder, self._names.get(name, MISSING)) for name in names
        }

    def lasts(self, turn: Turn) -> bool:
        """Whether the turn can be any turn. The variables are as before then.

        Raises:
            GraphError: a variable changes in a way that cannot be carried.
        """
        self.variables.check_containers(self._where)
        self.variables.restore()
        known = {*self._carried, *self._own}
        news = [name for name in self._found if name not in known]
        for name in news:
            there = name in self.variables.before and self._found[name] is not MISSING
            (self._carried.append(name) if there else self._own.setdefault(name))
        odd = [name for name in self._carried if not self._keeps(name)]
        for name in odd:
            self._refuse(name)
            self._carried.remove(name)
            self._own[name] = None
        if odd or any(name in self._carried for name in news):
            self._begin()
            return False
        self._last = []
        ends = {name: self._found[name] for name in self._carried}
        collected(self._recorder, ends, self._last)
        return self.loop.lasts(turn, self.new)

    def _keeps(self, name: str) -> bool:
        """Whether a variable has the same structure before and after a turn."""
        before = settled(self._recorder, self.variables.before[name])
        shapes = [collected(self._recorder, nest, []) for nest in (before, self._found[name])]
        return bool(type(shapes[0]) is type(shapes[1]) and shapes[0] == shapes[1])

    def _refuse(self, name: str) -> None:
        """Raise for a variable of this cell; one left by an earlier cell is the body's own."""
        if self.variables.before[name] is self._at_start.get(name, MISSING):
            return
        raise GraphError(
            f"{name} changes from turn to turn in a way a loop of the graph cannot carry.",
            hint="Carry numbers and recorded values, in tuples and dicts that keep their length.",
        ).at(self._where)

    def finish(self, turn: Turn, ends: list[Value]) -> None:
        """The loop is part of the graph: bind its last values."""
        last = made_by(self._recorder, ends, turn, self._begins, self._last)
        self._names.update(rebuilt(self._shape, last))
        self.variables.forget(self._own)
