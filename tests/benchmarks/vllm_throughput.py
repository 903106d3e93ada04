"""How many requests vLLM gets through: as it is, with the lab idle in it, and with runs that save.

vLLM lives in this process, and what counts is the process's own CPU time: everything is in it, the
client's side of each run as well, and what else the machine does is not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from uuid import uuid4

from nnsight_lab.contract import Failed, Generation, RunEvent, RunRequest, TokenRows
from nnsight_lab.ir import RESULT, Address, Graph, Output, Read
from nnsight_lab_server.engines.vllm_engine import VllmEngine
from tests.benchmarks.vllm_engines import LAYERS, VOCAB, Stock
from tests.server.lab_server import reads

__all__ = ["Task", "tasks"]

REQUESTS, PROMPT, TOKENS = 16, 64, 16

Way = Callable[[], None]


@dataclass(frozen=True)
class Task:
    """Ways to do the same, the baseline first.

    goal: the least throughput of the others beside it. ready: what is done before a way, untimed.
    """

    name: str
    ways: dict[str, Way]
    goal: float | None
    rounds: int
    ready: dict[str, Way] = field(default_factory=dict)


class Load:
    """Sixteen requests of 64 tokens, each from a thread of its own, as a server has them."""

    def __init__(self, engine: VllmEngine, stock: Stock) -> None:
        draw = random.Random(0)
        self._prompts = [
            tuple(draw.randrange(1, VOCAB) for _ in range(PROMPT)) for _ in range(REQUESTS)
        ]
        self._engine = engine
        self._stock = stock
        self._threads = ThreadPoolExecutor(REQUESTS)

    def plain(self, tokens: int = 1) -> None:
        """As anybody's requests."""
        self._at_once(lambda number: self._stock.run(self._prompts[number], tokens))

    def traced(self, graphs: Sequence[Graph], generation: Generation | None = None) -> None:
        """Each with a graph."""
        self._at_once(lambda number: self._run(graphs[number % len(graphs)], number, generation))

    def _at_once(self, work: Callable[[int], None]) -> None:
        doing = [self._threads.submit(work, number) for number in range(REQUESTS)]
        wait(doing)
        for each in doing:
            each.result()

    def _run(self, graph: Graph, number: int, generation: Generation | None) -> None:
        last: list[RunEvent] = []
        inputs = TokenRows((self._prompts[number],), generation)
        self._engine.run(RunRequest(uuid4().hex, graph, inputs), last.append)
        if isinstance(last[-1], Failed):
            raise last[-1].error


def tasks(engine: VllmEngine, stock: Stock) -> Iterator[Task]:
    """Every task."""
    load = Load(engine, stock)
    yield _idle(load, stock)
    stock.with_lab()
    outputs = [f"layers.{layer}.output" for layer in range(LAYERS)]
    saving_one = [reads(output) for output in outputs]
    saving_all = [reads(*outputs)]
    ways: dict[str, Way] = {
        "untraced": load.plain,
        "one layer saved": lambda: load.traced(saving_one),
        "all layers saved": lambda: load.traced(saving_all),
    }
    name = f"{REQUESTS} prompts of {PROMPT} tokens"
    for way, goal in (("one layer saved", 0.95), ("all layers saved", 0.90)):
        pair = {"untraced": ways["untraced"], way: ways[way]}
        yield Task(f"{name}, {way}", pair, goal, rounds=40)
    generating = [_generating(output) for output in outputs]
    yield Task(
        f"{name} and {TOKENS} more, one layer of the prompt saved",
        {
            "untraced": lambda: load.plain(TOKENS),
            "one layer saved": lambda: load.traced(generating, Generation(TOKENS, stop_ids=())),
        },
        None,
        rounds=30,
    )


def _idle(load: Load, stock: Stock) -> Task:
    """The lab is taken off vLLM and put on again, and the same is asked of vLLM."""
    return Task(
        f"{REQUESTS} prompts of {PROMPT} tokens and {TOKENS} more, untraced",
        {"vLLM": lambda: load.plain(TOKENS), "lab idle": lambda: load.plain(TOKENS)},
        0.99,
        rounds=60,
        ready={"vLLM": stock.without_lab, "lab idle": stock.with_lab},
    )


def _generating(output: str) -> Graph:
    """Saves an output in the prompt's pass, and the tokens."""
    path, _, port = output.rpartition(".")
    nodes = (
        Read(id=0, address=Address(path, port)),
        Read(id=1, address=RESULT, step=TOKENS - 1),
    )
    return Graph(nodes, (Output("saved", 0), Output("tokens", 1)))
