"""After an engine has died: how long to wait before it is started again, and whose graph it was.

A graph that was running when the engine died may be why. One that was there twice, and never ended
well, is not run again: it would take everybody's runs down with it once more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from nnsight_lab.errors import EngineFailed
from nnsight_lab.ir import Graph

__all__ = ["Restarts"]

_FIRST_S, _LONGEST_S = 0.5, 60.0
_DEATHS = 2


class Restarts:
    """What is remembered of the times an engine died. Not for two threads at once."""

    def __init__(self) -> None:
        self._there: Counter[str] = Counter()
        self._in_a_row = 0

    def died(self, running: Iterable[Graph]) -> None:
        """The engine died while these graphs ran."""
        self._there.update({graph.key for graph in running})

    def pause(self) -> float:
        """Seconds to wait before the next try; twice as long each time."""
        self._in_a_row += 1
        return min(_LONGEST_S, _FIRST_S * 2.0 ** (self._in_a_row - 1))

    def ended_well(self, graph: Graph) -> None:
        """A run of this graph was done: neither it nor the engine is to blame."""
        self._in_a_row = 0
        if self._there:
            self._there.pop(graph.key, None)

    def refusal(self, graph: Graph) -> EngineFailed | None:
        """Why a graph is not run any more; None when it may be."""
        if not self._there or self._there[graph.key] < _DEATHS:
            return None
        return EngineFailed(
            f"The engine stopped {self._there[graph.key]} times while this graph ran;"
            " it is not run again.",
            hint="Run it in this process, or in smaller parts. The server's log says more.",
        )
