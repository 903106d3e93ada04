"""What goes wrong in one run ends that run: its neighbours in the same steps get the very same bits.

A node that raises, a loop that would go on for minutes, numbers that are none, and a run that is
cancelled, each beside two runs that have nothing to do with it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.contract import Done, Failed, RunRequest, TokenRows
from nnsight_lab.errors import Cancelled, LimitExceeded, OpFailed
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.ir import Graph, While
from nnsight_lab.settings import Settings
from nnsight_lab_server.engines import vllm_run
from nnsight_lab_server.engines.vllm_engine import VllmEngine, load_vllm
from nnsight_lab_server.vllm.options import VllmOptions
from nnsight_lab_server.vllm.plan import Plan
from tests.server.vllm.test_isolation import Told, generating
from tests.support.vllm_models import vllm_model

PROMPT = tuple(range(3, 33))
MOST_S = 2.0
TURNS = 100_000


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    module, folder = vllm_model("llama")
    made = load_vllm(
        "llama",
        str(folder),
        Settings(),
        options=VllmOptions(context=128, batch_tokens=256, kv_cache_gib=1 / 64),
        executor=lambda: LocalExecutor(module),
        one_process=True,
    )
    assert isinstance(made, VllmEngine)
    yield made
    made.close()


@pytest.fixture(scope="module")
def lm() -> nl.LanguageModel:
    return nl.LanguageModel(vllm_model("llama")[0])


def with_op(nodes: Any, old: str, new: str) -> Any:
    """The same nodes with another operation; so a graph is had that could not be recorded here."""
    return tuple(
        replace(node, op=new) if getattr(node, "op", "") == old else node for node in nodes
    )


def raising(lm: nl.LanguageModel) -> Graph:
    """The Cholesky factor of minus one."""
    with lm.trace(list(PROMPT)) as tracer:
        nothing = lm.layers[1].output[0, :4, :4] * 0
        torch.linalg.cholesky(nothing + torch.eye(4)).save()
    graph = tracer.graph
    return replace(graph, nodes=with_op(graph.nodes, "Tensor.add", "Tensor.sub"))


def endless(lm: nl.LanguageModel) -> Graph:
    """A loop of a hundred thousand turns, each of which takes milliseconds."""
    with lm.trace(list(PROMPT)) as tracer:
        wide = lm.layers[1].output[0].T.repeat(4, 18)[:500, :500] * 0.0
        nl.while_(lambda v: v.sum() > 1.0, lambda v: v @ v, wide, limit=3).save()
    nodes = []
    for node in tracer.graph.nodes:
        if isinstance(node, While):
            test = replace(node.test, nodes=with_op(node.test.nodes, "Tensor.gt", "Tensor.lt"))
            node = replace(node, test=test, limit=TURNS)  # noqa: PLW2901
        nodes.append(node)
    return replace(tracer.graph, nodes=tuple(nodes))


def no_numbers(lm: nl.LanguageModel) -> Graph:
    with lm.trace(list(PROMPT)) as tracer:
        lm.layers[0].output[:] *= float("nan")
        lm.logits[:, -1].save()
    return tracer.graph


def good(lm: nl.LanguageModel) -> Graph:
    with lm.trace(list(PROMPT)) as tracer:
        lm.logits[:, -1].save()
    return tracer.graph


def together(engine: VllmEngine, programs: list[tuple[Graph, TokenRows]]) -> list[Told]:
    """Run them in the same steps of the engine: it waits until all of them are there."""
    driver: Any = engine._driver
    held, gate = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        gate.wait()

    driver._tasks.put(hold)
    held.wait()
    told = [Told() for _ in programs]
    threads = []
    for number, (program, each) in enumerate(zip(programs, told, strict=True)):
        before = driver._tasks.qsize()
        request = RunRequest(f"r{number}", *program)
        threads.append(threading.Thread(target=engine.run, args=(request, each.take)))
        threads[-1].start()
        while driver._tasks.qsize() == before:
            assert threads[-1].is_alive(), each.end
            time.sleep(0.001)
    gate.set()
    for thread in threads:
        thread.join()
    return told


Bad = Callable[[nl.LanguageModel], Graph]
CASES: list[tuple[Bad, type[Exception] | None]] = [
    (raising, OpFailed), (endless, LimitExceeded), (no_numbers, None),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "error"), CASES, ids=lambda each: getattr(each, "__name__", ""))
def test_neighbours_get_the_very_same_bits(
    engine: VllmEngine,
    lm: nl.LanguageModel,
    bad: Bad,
    error: type[Exception] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    programs = [generating(lm, random.Random(seed)) for seed in (1, 2)]
    healthy = together(engine, [*programs, (good(lm), TokenRows((PROMPT,)))])
    monkeypatch.setattr(vllm_run, "Plan", partial(Plan, seconds=MOST_S))
    begun = time.perf_counter()
    told = together(engine, [*programs, (bad(lm), TokenRows((PROMPT,)))])

    assert time.perf_counter() - begun < 20 * MOST_S
    for one, other in zip(told[:2], healthy[:2], strict=True):
        assert isinstance(one.end, Done), one.end
        assert one.tokens == other.tokens
        assert one.values.keys() == other.values.keys()
        for name, value in other.values.items():
            assert torch.equal(one.values[name], value), name
    end = told[-1].end
    assert isinstance(end, Done) if error is None else isinstance(end, Failed)
    if isinstance(end, Failed) and error is not None:
        assert isinstance(end.error, error)
    assert engine.stats()["runs"] == 0


def test_a_loop_is_cancelled_in_time(engine: VllmEngine, lm: nl.LanguageModel) -> None:
    """A long generation is gone from the worker soon after its client wants it no more."""
    graph, inputs = generating(lm, random.Random(4))
    told = Told()
    thread = threading.Thread(
        target=engine.run, args=(RunRequest("long", graph, inputs), told.take)
    )
    thread.start()
    engine.cancel("long")
    thread.join(timeout=10)

    assert isinstance(told.end, Failed)
    assert isinstance(told.end.error, Cancelled)
    assert engine.stats()["runs"] == 0
