"""After an engine has died: how long to wait before it is started again, and whose graph it was.

A graph that was running when the engine died may be why. One that was there twice, and never ended
well, is not run again for a while: it would take everybody's runs down with it once more. It may have
been there by chance, so after `_FORGIVEN_S` it may try again; if the engine dies once more, that counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

from nnsight_lab.errors import EngineFailed
from nnsight_lab.ir import Graph

__all__ = ["Restarts"]

_FIRST_S, _LONGEST_S = 0.5, 60.0
_DEATHS = 2
_FORGIVEN_S = 600.0


class Restarts:
    """What is remembered of the times an engine died. Not for two threads at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._there: dict[str, list[float]] = {}
        self._in_a_row = 0

    def died(self, running: Iterable[Graph]) -> None:
        """The engine died while these graphs ran."""
        now = self._clock()
        for key in {graph.key for graph in running}:
            self._there.setdefault(key, []).append(now)

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
        times = self._there.get(graph.key, [])
        left = times[-1] + _FORGIVEN_S - self._clock() if times else 0.0
        if len(times) < _DEATHS or left <= 0:
            return None
        return EngineFailed(
            f"The engine stopped {len(times)} times while this graph ran; it is not run for now.",
            hint=f"Run it in this process, in smaller parts, or in {math.ceil(left / 60)} minutes."
            " The server's log says more.",
        )
