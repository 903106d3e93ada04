"""How long a trace on a server takes, beside one token of the vLLM engine behind it.

A real server, client and socket in this process; vLLM in processes of its own, as it is served.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import nnsight_lab as nl
from nnsight_lab_server.config import ServedModel
from nnsight_lab_server.engines.vllm_engine import VllmEngine
from tests.benchmarks.vllm_engines import LAYERS, NAME, VOCAB, Stock, checkpoint, engine
from tests.server.lab_server import TOKEN, Serving, serving_models

__all__ = ["Latency", "latencies"]

PROMPT = 16
_LOAD_S = 600.0


@dataclass(frozen=True)
class Latency:
    """A way's median time, how much more than the baseline it takes, and how much it may.

    more: the median over rounds; low, high: the quartiles.
    """

    name: str
    ms: float
    more: float
    low: float
    high: float
    goal: float | None


def latencies(rounds: int) -> Iterator[Latency]:
    """A one-token request, an empty trace, and a trace that saves a layer, in turn."""
    with checkpoint() as made:
        load = partial(engine, *made, one_process=False)
        with serving_models((ServedModel(NAME, load),), wait_s=_LOAD_S) as running:
            yield from _compared(running, rounds)


def _compared(running: Serving, rounds: int) -> Iterator[Latency]:
    served = next(iter(running.catalogue)).engine
    assert isinstance(served, VllmEngine)
    stock = Stock(served)
    lm = nl.connect(running.url, token=TOKEN).model(NAME)
    draw = random.Random(0)
    ids = [draw.randrange(1, VOCAB) for _ in range(PROMPT)]

    def empty() -> None:
        with lm.trace(ids):
            pass

    def one_layer() -> Any:
        with lm.trace(ids):
            saved = lm.layers[LAYERS // 2].output.save()
        return saved

    ways: dict[str, tuple[Callable[[], Any], float | None]] = {
        "one token of vLLM": (lambda: stock.run(tuple(ids)), None),
        "remote empty trace": (empty, 4.0),
        "remote trace, one layer saved": (one_layer, 5.0),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for round_ in range(rounds + 5):
        draw.shuffle(order)
        for name in order:
            began = time.perf_counter()
            ways[name][0]()
            if round_ >= 5:  # the first are not counted: caches, lazy imports
                times[name].append((time.perf_counter() - began) * 1e3)
    base = next(iter(times.values()))
    for name, own in times.items():
        apart = [mine - other for mine, other in zip(own, base, strict=True)]
        low, more, high = statistics.quantiles(apart, n=4)
        yield Latency(name, statistics.median(own), more, low, high, ways[name][1])
