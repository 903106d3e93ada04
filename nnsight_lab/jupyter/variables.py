"""The variables of a cell around a branch or a body that is recorded: before, after, and as it was.

A branch runs though it may not be taken, so what it does to variables is noted and undone. What
cannot be undone cleanly, a list that it changes in place, is refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from nnsight_lab.errors import GraphError, NotSaved, SourceLine
from nnsight_lab.tracing import Proxy, Recorder
from nnsight_lab.tracing.nests import settled

__all__ = ["MISSING", "Missing", "Variables"]


class Missing:
    """No value: the variable does not exist."""


MISSING = Missing()

_LONGEST = 10_000
"""Containers longer than this are data; whether they are changed is not looked at."""


class Variables:
    """The notebook's variables as they are now. what: the statement, for errors."""

    def __init__(self, names: dict[str, Any], what: str) -> None:
        self._names = names
        self._what = what
        self.before = dict(names)
        self.touched: dict[str, None] = {}
        self._containers = [(name, value, value.copy()) for name, value in _containers(names)]

    def changed(self) -> list[str]:
        """The variables that are new, gone, or hold something else than before."""
        all_names = dict.fromkeys((*self.before, *self._names))
        return [
            name
            for name in all_names
            if name.isidentifier()  # the names of lowering and of the magic have spaces
            and self._names.get(name, MISSING) is not self.before.get(name, MISSING)
        ]

    def ends(self, recorder: Recorder) -> dict[str, Any]:
        """What each variable that matters holds now, settled."""
        changed = self.changed()
        self.touched.update(dict.fromkeys(changed))
        own = (
            name
            for name, value in self._names.items()
            if isinstance(value, Proxy) and value.recorder is recorder
        )
        return {
            name: _settled(recorder, self._names.get(name, MISSING))
            for name in dict.fromkeys((*changed, *own))
        }

    def end(self, recorder: Recorder, name: str, ends: dict[str, Any]) -> Any:
        """What a variable holds at the end of a branch that may not have changed it."""
        if name in ends:
            return ends[name]
        return _settled(recorder, self.before.get(name, MISSING))

    def restore(self) -> None:
        """Give every variable back what it held before."""
        for name in self.changed():
            if name in self.before:
                self._names[name] = self.before[name]
            else:
                del self._names[name]

    def forget(self, names: Iterable[str]) -> None:
        """Undefine variables that only one branch, or a turn of a loop, defines."""
        for name in names:
            self._names.pop(name, None)

    def check_containers(self, where: SourceLine | None) -> None:
        """Refuse a list, dict or set that was changed in place.

        Raises:
            GraphError: one was; it is as before now.
        """
        for name, held, copy in self._containers:
            if _is_as(held, copy):
                continue
            _put_back(held, copy)
            raise GraphError(
                f"{name} is changed in place inside {self._what} that only the run can decide.",
                hint="Collect with a list comprehension, or give the variable a new value.",
            ).at(where)


def _settled(recorder: Recorder, value: Any) -> Any:
    try:
        return settled(recorder, value)
    except NotSaved:  # left by an earlier cell, which did not save it
        return MISSING


def _containers(names: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    kinds = (list, dict, set, deque)
    return [
        (name, value)
        for name, value in names.items()
        if isinstance(value, kinds)
        and len(value) <= _LONGEST
        and not name.startswith("_")
        and name not in ("In", "Out")
    ]


def _is_as(held: Any, copy: Any) -> bool:
    """Whether a container holds the very same things as when it was copied."""
    if len(held) != len(copy):
        return False
    if isinstance(held, dict):
        pairs = zip(held.items(), copy.items(), strict=True)
        return all(one[0] is other[0] and one[1] is other[1] for one, other in pairs)
    return all(one is other for one, other in zip(held, copy, strict=True))


def _put_back(held: Any, copy: Any) -> None:
    held.clear()
    held.extend(copy) if isinstance(held, list | deque) else held.update(copy)
