"""Many runs at once on one engine: each gets what it gets alone, and nothing of another's.

Sixteen graphs with prompts of any length run together, with so little room in an engine step that
long prompts come in chunks, and with so few blocks that vLLM sets requests aside and computes them
once more. Some runs are cancelled on their way.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.contract import Done, Failed, Generation, RunRequest, Saved, Token, TokenRows
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.executors.remote_values import from_wire
from nnsight_lab.ir import Graph
from nnsight_lab.settings import Settings
from nnsight_lab_server.engines.vllm_engine import VllmEngine, load_vllm
from nnsight_lab_server.vllm.options import VllmOptions
from tests.support.vllm_models import D_MODEL, VOCAB, vllm_model

BUDGETS = (32, 64)
RUNS = 16
CANARY = 12345.678
CLOSE = 1e-5


@dataclass
class Told:
    """What a run has told."""

    values: dict[str, Any] = field(default_factory=dict)
    bytes: list[bytes] = field(default_factory=list)
    tokens: list[tuple[int, ...]] = field(default_factory=list)
    end: Done | Failed | None = None

    def take(self, event: Any) -> None:
        match event:
            case Saved(name=name, value=value):
                self.values[name] = from_wire(value)
                self.bytes += [tensor.data for tensor in value.tensors]
            case Token(ids=ids):
                self.tokens.append(ids)
            case Done() | Failed():
                self.end = event


@pytest.fixture(scope="module")
def hf() -> Any:
    return vllm_model("llama")[0]


@pytest.fixture(scope="module", params=BUDGETS)
def engine(request: pytest.FixtureRequest, hf: Any) -> Iterator[VllmEngine]:
    """Room for 32 or 64 tokens in a step, and blocks for less than what is asked for at once."""
    options = VllmOptions(
        context=128,
        batch_tokens=request.param,
        kv_cache_gib=1 / 64,
        engine={"num_gpu_blocks_override": 10, "block_size": 32, "max_num_seqs": RUNS},
    )
    made = load_vllm(
        "llama",
        str(vllm_model("llama")[1]),
        Settings(),
        options=options,
        executor=lambda: LocalExecutor(hf),
        one_process=True,
    )
    assert isinstance(made, VllmEngine)
    yield made
    made.close()


@pytest.fixture(scope="module")
def lm(hf: Any) -> nl.LanguageModel:
    return nl.LanguageModel(hf)


def prompt(draw: random.Random) -> list[int]:
    return [draw.randrange(1, VOCAB) for _ in range(draw.randint(5, 60))]


def direction(draw: random.Random) -> torch.Tensor:
    return torch.randn(D_MODEL, generator=torch.Generator().manual_seed(draw.randrange(10**6)))


def reading(lm: nl.LanguageModel, draw: random.Random) -> tuple[Graph, TokenRows]:
    ids = prompt(draw)
    with lm.trace(ids) as tracer:
        for layer in range(3):
            lm.layers[layer].output.save()
        lm.logits[:, -1].save()
    return tracer.graph, TokenRows((tuple(ids),))


def steering(lm: nl.LanguageModel, draw: random.Random) -> tuple[Graph, TokenRows]:
    ids, layer, towards = prompt(draw), draw.randrange(3), direction(draw)
    with lm.trace(ids) as tracer:
        lm.layers[layer].output[:, -3:] += 2 * towards
        lm.layers[2].output.save()
        lm.logits[:, -1].save()
    return tracer.graph, TokenRows((tuple(ids),))


def canary(lm: nl.LanguageModel, draw: random.Random) -> tuple[Graph, TokenRows]:
    """Puts a number of its own into everything, and saves nothing of it."""
    ids = prompt(draw)
    with lm.trace(ids) as tracer:
        lm.layers[0].output[:] = CANARY
        lm.layers[1].mlp.output[:] = CANARY
        lm.logits[:, -1].argmax(-1).save()
    return tracer.graph, TokenRows((tuple(ids),))


def patching(lm: nl.LanguageModel, draw: random.Random) -> tuple[Graph, TokenRows]:
    one, other = prompt(draw), prompt(draw)
    with lm.trace() as tracer:
        with tracer.invoke(one):
            source = lm.layers[1].output[:, -1]
        with tracer.invoke(other):
            lm.layers[1].output[:, -1] = source
            lm.logits[:, -1].save()
    return tracer.graph, TokenRows((tuple(one), tuple(other)))


def knock_out(lm: nl.LanguageModel, draw: random.Random) -> tuple[Graph, TokenRows]:
    ids, head = prompt(draw), draw.randrange(4)
    with lm.trace(ids) as tracer:
        lm.layers[1].attn.pattern[:, head, :, 0] = 0.0
        lm.layers[2].attn.pattern.save()
        lm.logits[:, -1].save()
    return tracer.graph, TokenRows((tuple(ids),))


def generating(lm: nl.LanguageModel, draw: random.Random) -> tuple[Graph, TokenRows]:
    ids, towards, steps = prompt(draw), direction(draw), draw.randint(20, 40)
    options: dict[str, Any] = {"max_new_tokens": steps, "eos_token_id": []}
    seen = []
    with lm.generate(ids, **options) as tracer:
        for _ in tracer.iter[:]:
            lm.layers[1].output[:] += towards
            seen.append(lm.layers[2].output[:, -1])
        nl.save(torch.stack(seen))
        tracer.result.save()
    return tracer.graph, TokenRows((tuple(ids),), Generation(steps, stop_ids=()))


KINDS: tuple[Callable[[nl.LanguageModel, random.Random], tuple[Graph, TokenRows]], ...] = (
    generating, reading, generating, steering, canary, generating, patching, knock_out,
)  # fmt: skip


def run(engine: VllmEngine, name: str, graph: Graph, inputs: TokenRows) -> Told:
    told = Told()
    engine.run(RunRequest(name, graph, inputs), told.take)
    return told


def all_at_once(engine: VllmEngine, programs: list[Any], cancel: set[int]) -> list[Told]:
    told = [Told() for _ in programs]
    requests = [RunRequest(f"r{n}", *program) for n, program in enumerate(programs)]
    threads = [
        threading.Thread(target=engine.run, args=(request, each.take))
        for request, each in zip(requests, told, strict=True)
    ]
    for thread in threads:
        thread.start()
    for number in cancel:
        engine.cancel(f"r{number}")
    for thread in threads:
        thread.join()
    return told


def off(one: Any, other: Any) -> float:
    if one.dtype == torch.int64:
        return float(not torch.equal(one, other))
    return float((one.double() - other.double()).abs().max() / other.double().abs().max().clamp(1))


@pytest.mark.parametrize("seed", [0, 1])
def test_sixteen_runs_at_once_each_get_what_they_get_alone(
    engine: VllmEngine, lm: nl.LanguageModel, seed: int
) -> None:
    draw = random.Random(seed)
    programs = [KINDS[number % len(KINDS)](lm, draw) for number in range(RUNS)]
    alone = [run(engine, f"alone{n}", *program) for n, program in enumerate(programs)]
    cancel = {3, 7, 11}
    together = all_at_once(engine, programs, cancel)
    for number, (one, other) in enumerate(zip(together, alone, strict=True)):
        assert isinstance(other.end, Done), other.end
        if number in cancel:
            assert one.end is not None
            continue
        assert isinstance(one.end, Done), (number, one.end)
        assert one.tokens == other.tokens
        assert one.values.keys() == other.values.keys()
        for name in other.values:
            assert off(one.values[name], other.values[name]) <= CLOSE, (number, name)
    assert (engine.stats()["runs"], engine.stats()["points"]) == (0, 0)


def test_texts_that_vllm_sets_aside_are_gone_on_with_alike(
    engine: VllmEngine, lm: nl.LanguageModel
) -> None:
    """Eight long texts need twice the blocks there are."""
    draw = random.Random(3)
    programs = [generating(lm, draw) for _ in range(8)]
    alone = [run(engine, f"alone{n}", *program) for n, program in enumerate(programs)]
    before = engine.stats()["set_aside"]
    for _ in range(20):  # they may by chance come one after another
        for one, other in zip(all_at_once(engine, programs, set()), alone, strict=True):
            assert isinstance(one.end, Done), one.end
            assert one.tokens == other.tokens
            for name in other.values:
                assert off(one.values[name], other.values[name]) <= CLOSE, name
        if engine.stats()["set_aside"] > before:
            return
    raise AssertionError("vLLM has set nothing aside")


def test_what_one_run_plants_is_never_in_another_ones_bytes(
    engine: VllmEngine, lm: nl.LanguageModel
) -> None:
    draw = random.Random(5)
    programs = [(canary if number % 2 else reading)(lm, draw) for number in range(RUNS)]
    planted = torch.tensor(CANARY).numpy().tobytes()
    for number, told in enumerate(all_at_once(engine, programs, set())):
        assert isinstance(told.end, Done), told.end
        if number % 2 == 0:
            assert told.bytes
            assert not any(planted in data for data in told.bytes)


def test_a_clean_run_after_a_steered_one_is_what_it_was_before(
    engine: VllmEngine, lm: nl.LanguageModel
) -> None:
    ids = tuple(prompt(random.Random(9)))
    clean, _ = reading(lm, random.Random(9))
    steered, _ = steering(lm, random.Random(9))
    before = run(engine, "before", clean, TokenRows((ids,)))
    between = run(engine, "between", steered, TokenRows((ids,)))
    after = run(engine, "after", clean, TokenRows((ids,)))
    assert any(
        off(between.values[n], v) > 0.01 for n, v in before.values.items() if n in between.values
    )
    assert before.values.keys() == after.values.keys()
    for name, value in before.values.items():
        assert torch.equal(value, after.values[name])


@pytest.mark.parametrize("way", ["written", "in place of a layer"])
def test_what_is_not_a_number_stays_in_the_run_that_wrote_it(
    engine: VllmEngine, lm: nl.LanguageModel, way: str
) -> None:
    """Also in the blocks it leaves behind, which all go to somebody else sooner or later."""
    clean, _ = reading(lm, random.Random(9))
    with lm.trace([[5] * 60]) as tracer:
        if way == "written":
            lm.layers[0].output[:] = float("nan")
        else:
            lm.layers[0].skip(lm.layers[0].input * float("nan"))
        lm.logits[:, -1].save()
    short = TokenRows(((5, 6),))
    before = run(engine, "before", clean, short)
    for number in range(12):
        told = run(engine, f"nan{number}", tracer.graph, TokenRows(((5,) * 60,)))
        assert all(value.isnan().all() for value in told.values.values())
    for number in range(12):
        after = run(engine, f"after{number}", clean, short)
        assert before.values.keys() == after.values.keys()
        for name, value in before.values.items():
            assert torch.equal(value, after.values[name])
