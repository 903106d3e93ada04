"""Rounds of several ways to do one thing, and what each costs as a ratio to the first.

Each way runs once a round, in an order that changes, so that what else the machine does falls on
all of them; a ratio is taken within its round, on the process's own CPU time, and the median over
all rounds is what counts.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Ratio", "measured"]


@dataclass(frozen=True)
class Ratio:
    """A way's cost beside the baseline's: median and quartiles, and its own median time in ms."""

    name: str
    median: float
    low: float
    high: float
    ms: float


def measured(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    calls: int = 1,
    *,
    ready: Mapping[str, Callable[[], object]] | None = None,
) -> list[Ratio]:
    """Run all ways in turn, `calls` times each a round. The first way is the baseline.

    ready: what is done before a way, and is not timed.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    shuffle = random.Random(0).shuffle
    for round_ in range(rounds + 1):
        shuffle(order)
        for name in order:
            if ready is not None and name in ready:
                ready[name]()
            began = time.process_time()
            for _ in range(calls):
                ways[name]()
            if round_:  # the first is not counted: caches, lazy imports
                times[name].append((time.process_time() - began) / calls)
    base = times[next(iter(ways))]
    return [_ratio(name, own, base) for name, own in times.items()]


def _ratio(name: str, own: list[float], base: list[float]) -> Ratio:
    ratios = [mine / other for mine, other in zip(own, base, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return Ratio(name, median, low, high, statistics.median(own) * 1e3)
