"""What a lowered cell asks about its tests and iterables while it runs (see `lowering.py`).

Plain Python gets plain answers. For a recorded test both branches run, each on the variables as
they were before, and what they leave in the variables is joined. For an iterable of unknown
length, and for a recorded `while`, the body runs as one turn of a loop of the graph, and a
variable it changes is carried from turn to turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from nnsight_lab.errors import GraphError, LabError, SourceLine
from nnsight_lab.jupyter.carried import Carried
from nnsight_lab.jupyter.lowering import FLOW
from nnsight_lab.jupyter.variables import MISSING, Variables
from nnsight_lab.kernels import Unknown
from nnsight_lab.passes.blocks import items_of
from nnsight_lab.tracing import Proxy, Recorder
from nnsight_lab.tracing.branches import choice
from nnsight_lab.tracing.cells import Cell, Value
from nnsight_lab.tracing.control import chosen, is_recorded, single, taken_apart
from nnsight_lab.tracing.loops import Loop
from nnsight_lab.tracing.nests import Differ, Leaf, Pairing, collected, settled
from nnsight_lab.tracing.regions import taped
from nnsight_lab.tracing.source import at_line, user_line

__all__ = ["LIMIT", "Flow", "forget_flow"]

LIMIT = 1000
"""How many turns a `while` on a recorded value may take in a cell."""


class Flow:
    """The choices and loops of one cell. names: the notebook's variables."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names
        self._at_start = dict(names)
        self._lists: list[_List | None] = []

    # Statements

    def branches(self, test: Any) -> Iterable[bool]:
        """Which branches of an `if` to run, one after another."""
        if not is_recorded(test):
            return (bool(test),)
        return self._branches(test, user_line())

    def _branches(self, test: Proxy, where: SourceLine | None) -> Iterator[bool]:
        recorder, value = test.recorder, single(test, where)
        variables, tapes, ends = Variables(self._names, "an `if`"), [], []
        for side in (True, False):
            with taped(recorder) as tape:
                yield side
                ends.append(variables.ends(recorder))
            variables.check_containers(where)
            variables.restore()
            tapes.append(tape)
        names = variables.touched
        sides = [{name: variables.end(recorder, name, end) for name in names} for end in ends]
        undefined = [name for name in names if any(side[name] is MISSING for side in sides)]
        for name in undefined:
            del sides[0][name], sides[1][name]
        failure = self._disagreement(recorder, sides, undefined, where)
        if failure is not None and recorder.peeks is not None:
            yield bool(test)
            return
        if failure is not None:
            raise failure
        result = choice(recorder, value, (tapes[0], tapes[1]), (sides[0], sides[1]), where)
        self._names.update(result)
        variables.forget(undefined)

    def _disagreement(
        self,
        recorder: Recorder,
        sides: list[dict[str, Any]],
        undefined: list[str],
        where: SourceLine | None,
    ) -> LabError | None:
        """Variables that are plain and differ: an error, or undefined if left from earlier cells."""
        for name in list(sides[0]):
            try:
                Pairing(recorder).put(sides[0][name], sides[1][name])
            except Differ as differ:
                if self._is_left_over(name):
                    undefined.append(name)
                    del sides[0][name], sides[1][name]
                    continue
                return GraphError(
                    f"{name} would be {differ}, by a test that only the run can answer.",
                    hint="Give it a number or a recorded value in both branches.",
                ).at(where)
        return None

    def _is_left_over(self, name: str) -> bool:
        """Whether a variable holds what it held when the cell began."""
        return self._names.get(name, MISSING) is self._at_start.get(name)

    def items(self, items: Any) -> Iterable[Any]:
        """What a `for` goes over; one turn stands for all where the length is unknown."""
        return self._items(items, user_line()) if _is_endless(items) else items

    def _items(self, items: Proxy, where: SourceLine | None) -> Iterator[Any]:
        recorder = items.recorder
        over = recorder.value_of(items)
        length, item = at_line(where, items_of, over.meta)
        carried = Carried(self._names, self._at_start, recorder, where, "a `for`")
        while True:
            with carried.loop.turn(over, item) as turn:
                assert turn.item is not None, "this loop goes over something"
                carried.give(turn)
                yield Proxy(recorder, Cell(turn.item))
                carried.take()
            if carried.lasts(turn):
                break
        new, _ = carried.loop.foreach(over, length, turn, carried.new, [])
        carried.finish(turn, new)

    def turns(self) -> Iterator[_Turn]:
        """The turns of a `while`; each is told the test, and says whether the body runs."""
        return self._turns(user_line())

    def _turns(self, where: SourceLine | None) -> Iterator[_Turn]:
        turn = _Turn()
        yield turn
        while turn.goes_on:
            yield turn
        if not is_recorded(turn.tested):
            return
        recorder = turn.tested.recorder
        carried = Carried(self._names, self._at_start, recorder, where, "a `while`")
        while True:
            turn.forced = False
            with carried.loop.turn() as look:
                carried.give(look)
                yield turn
                holds = _truth(recorder, turn.tested, where)
            carried.variables.restore()
            turn.forced = True
            with carried.loop.turn() as done:
                carried.give(done)
                yield turn
                carried.take()
            if carried.lasts(done):
                break
        carried.finish(done, carried.loop.while_(look, holds, done, carried.new, LIMIT))

    # Expressions

    def chosen(self, test: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        """`a if test else b`."""
        return chosen(test, then, otherwise)

    def all_of(self, first: Any, *rest: Callable[[], Any]) -> Any:
        """`first and …`."""
        if not rest:
            return first
        if is_recorded(first):
            return chosen(first, lambda: self.all_of(rest[0](), *rest[1:]), lambda: first)
        return self.all_of(rest[0](), *rest[1:]) if first else first

    def any_of(self, first: Any, *rest: Callable[[], Any]) -> Any:
        """`first or …`."""
        if not rest:
            return first
        if is_recorded(first):
            return chosen(first, lambda: first, lambda: self.any_of(rest[0](), *rest[1:]))
        return first or self.any_of(rest[0](), *rest[1:])

    def negated(self, value: Any) -> Any:
        """`not value`."""
        if not is_recorded(value):
            return not value
        single(value, user_line())
        return value.logical_not()

    def compared(self, left: Any, op: str, later: Callable[[], Any], *rest: Any) -> Any:
        """`left < b < c`, each asked once."""
        right = later()
        answer = _COMPARISONS[op](left, right)
        return self.all_of(answer, lambda: self.compared(right, *rest)) if rest else answer

    # List comprehensions

    def listed(self, items: Any) -> Iterable[Any]:
        """What a list comprehension goes over."""
        if not _is_endless(items):
            self._lists.append(None)
            return items  # type: ignore[no-any-return]
        found = _List(items.recorder)
        self._lists.append(found)
        return self._listed(items, found, user_line())

    def _listed(self, items: Proxy, found: _List, where: SourceLine | None) -> Iterator[Any]:
        recorder = items.recorder
        over = recorder.value_of(items)
        length, item = at_line(where, items_of, over.meta)
        loop = Loop(recorder, [], where)
        while True:
            with loop.turn(over, item) as turn:
                assert turn.item is not None, "this loop goes over something"
                yield Proxy(recorder, Cell(turn.item))
            if loop.lasts(turn, []):
                break
        if found.made is MISSING:
            return  # an `if` in the comprehension left out every item
        leaves: list[Leaf] = []
        made = collected(recorder, found.made, leaves)
        _, tuples = loop.foreach(over, length, turn, [], [leaf.value for leaf in leaves])
        found.result = taken_apart(recorder, made, tuples, length)

    def made(self, item: Any) -> Any:
        """An item of the list comprehension that runs now."""
        current = self._lists[-1]
        if current is not None:
            current.made = settled(current.recorder, item)
        return item

    def list(self, found: Any) -> Any:
        """The list that a list comprehension made."""
        current = self._lists.pop()
        return found if current is None else current.result


_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "is": lambda a, b: a is b,
    "is not": lambda a, b: a is not b,
    "in": lambda a, b: a in b,
    "not in": lambda a, b: a not in b,
}


def _is_endless(items: Any) -> bool:
    """Whether only the run can tell how many items there are."""
    return is_recorded(items) and isinstance(items.now().meta, Unknown)


def _truth(recorder: Recorder, tested: Any, where: SourceLine | None) -> Value:
    if is_recorded(tested):
        return single(tested, where)
    return recorder.constant(torch.tensor(bool(tested)))


class _List:
    """A list comprehension over a recorded value: what its one turn made, and all of it."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.made: Any = MISSING
        self.result: Any = []


class _Turn:
    """One turn of a `while`. forced: whether the body runs whatever the test says; None: by it."""

    def __init__(self) -> None:
        self.tested: Any = None
        self.forced: bool | None = None
        self.goes_on = False

    def test(self, value: Any) -> None:
        """What the test gave this time."""
        self.tested = value
        plain = not is_recorded(value)
        self.goes_on = (plain and bool(value)) if self.forced is None else self.forced


def forget_flow(names: dict[str, Any]) -> None:
    """Take the names that lowering uses out of the notebook's variables."""
    for name in [name for name in names if name.startswith(FLOW)]:
        del names[name]
