"""Every program of a folder of tests once more on vLLM, and what came of it.

`OnVllm` stands in for `LocalExecutor.run` while a test runs, as `every_way.EveryWay` does, when
`LAB_ON_VLLM` names how many tokens a step of vLLM's may have. Each run of the test's own is checked
as a server checks it, for a vLLM engine of the same model. It is refused there, or it gives what it
gave here. One line for each goes to the file that `LAB_ON_VLLM_TOLD` names.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from nnsight_lab.contract import (
    Done,
    Emit,
    Failed,
    RunEvent,
    RunRequest,
    Saved,
    Several,
    Token,
    TokenRows,
)
from nnsight_lab.errors import Cancelled, LabError
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.executors.remote_values import from_wire
from nnsight_lab.ir import Graph
from nnsight_lab.settings import Settings
from nnsight_lab_server.admission import admit
from nnsight_lab_server.config import ServerLimits
from nnsight_lab_server.engines.vllm_engine import VllmEngine, load_vllm
from nnsight_lab_server.vllm.options import VllmOptions
from tests.support.small_models import SmallModel, small_gpt2, small_llama

__all__ = ["OnVllm", "Outcome", "vllm_gpt2", "vllm_llama"]

BUDGET = "LAB_ON_VLLM"
TOLD = "LAB_ON_VLLM_TOLD"
NEAR = 1e-4
WAIT_S = 60.0
CONTEXT = 256
D_HEAD = 32

Run = Callable[[LocalExecutor, RunRequest, Emit], None]


def vllm_llama() -> SmallModel:
    """The small Llama with heads of a size that vLLM's kernels know."""
    return small_llama(head_dim=D_HEAD)


def vllm_gpt2() -> SmallModel:
    """The same of GPT-2, where that is one head."""
    return replace(small_gpt2(n_head=1, n_inner=64), kv_heads=1)


@dataclass(frozen=True)
class Outcome:
    """What came of one run.

    what: equal; refused; both refuse; failed alike; unseeded, drawn anew each time; other model,
    that vLLM does not serve here; or wrong.
    """

    test: str
    what: str
    why: str = ""


@dataclass
class _Events:
    values: dict[str, Any] = field(default_factory=dict)
    tokens: list[tuple[int, ...]] = field(default_factory=list)
    end: Done | Failed | None = None

    def take(self, event: RunEvent) -> None:
        match event:
            case Saved(name=name, value=value):
                self.values[name] = value
            case Token(ids=ids):
                self.tokens.append(ids)
            case Done() | Failed():
                self.end = event


class OnVllm:
    """Runs again on vLLM what a test runs here, and compares. test: which one is under way."""

    def __init__(self) -> None:
        self.test = ""
        self.outcomes: list[Outcome] = []
        self._run: Run = LocalExecutor.run
        self._served: list[tuple[dict[str, torch.Tensor], VllmEngine]] = []
        self._seen: set[int] = set()
        self._folder = tempfile.TemporaryDirectory()

    def serve(self, executor: Any) -> None:
        """From here on, runs of this model are compared with runs on vLLM."""
        if not isinstance(executor, LocalExecutor) or id(executor) in self._seen:
            return
        self._seen.add(id(executor))
        if self._engine_of(executor) is not None:
            return
        weights = {name: each.clone() for name, each in executor.module.state_dict().items()}
        source = executor.card().name
        if source != "tiny":
            source = str(Path(self._folder.name) / str(len(self._seen)))
            executor.module.save_pretrained(source)  # type: ignore[operator]
        options = VllmOptions(
            context=min(CONTEXT, executor.card().context),
            batch_tokens=int(os.environ[BUDGET]),
            kv_cache_gib=0.05,
            engine={"max_num_seqs": 4},
        )
        given = None if source == "tiny" else lambda: executor
        engine = load_vllm(
            "tiny", source, Settings(), options=options, executor=given, one_process=True
        )
        assert isinstance(engine, VllmEngine)
        self._served.append((weights, engine))

    def close(self) -> None:
        """Stop the engines."""
        for _, engine in self._served:
            engine.close()
        self._folder.cleanup()

    def run(self, executor: LocalExecutor, request: RunRequest, emit: Emit) -> None:
        """What stands in for `LocalExecutor.run`."""
        here = _Events()

        def note(event: RunEvent) -> None:
            here.take(event)
            emit(event)

        engine = self._engine_of(executor)
        self._run(executor, request, note)
        if isinstance(here.end, Failed) and isinstance(here.end.error, Cancelled):
            return
        if engine is None:
            self._note("other model")
            return
        self._compare(engine, request, here)

    def _engine_of(self, executor: LocalExecutor) -> VllmEngine | None:
        weights = _weights(executor)
        return next((engine for own, engine in self._served if _same_weights(own, weights)), None)

    def _note(self, what: str, why: str = "") -> None:
        self.outcomes.append(outcome := Outcome(self.test, what, why))
        if TOLD in os.environ:
            with Path(os.environ[TOLD]).open("a", encoding="utf-8") as told:
                told.write(json.dumps(asdict(outcome)) + "\n")

    def _compare(self, engine: VllmEngine, request: RunRequest, here: _Events) -> None:
        given = request.inputs
        every = given.parts if isinstance(given, Several) else (given,)
        parts = tuple(part for part in every if isinstance(part, TokenRows))
        if request.functions or len(parts) < len(every):
            self._note("refused", "local only")
            return
        try:
            graph, inputs = admit(
                request.graph.to_bytes(),
                parts,
                engine.card(),
                ServerLimits(),
                engine.source_of,
                None,
                engine.check,
            )
        except LabError as exc:
            done = isinstance(here.end, Done)
            self._note("refused" if done else "both refuse", f"{type(exc).__name__}: {exc.message}")
            return
        there = _ran(engine, graph, inputs)
        repeats = all(
            each.generation is None or not each.generation.temperature
            or each.generation.seed is not None
            for each in parts
        )  # fmt: skip
        wrong = _difference(here, there, values=repeats)
        if wrong:
            self._note("wrong", wrong)
            raise AssertionError(f"On vLLM: {wrong}\n{graph}")
        if isinstance(here.end, Failed):
            self._note("failed alike", type(here.end.error).__name__)
        else:
            self._note("equal" if repeats else "unseeded")


def _weights(executor: LocalExecutor) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = executor.module.state_dict()
    return weights


def _same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() <= other.keys() and all(
        one[name].shape == other[name].shape and torch.equal(one[name], other[name]) for name in one
    )


def _ran(engine: VllmEngine, graph: Graph, inputs: Any) -> _Events:
    told = _Events()
    request = RunRequest(uuid4().hex, graph, inputs)
    thread = threading.Thread(target=engine.run, args=(request, told.take), daemon=True)
    thread.start()
    thread.join(WAIT_S)
    if thread.is_alive():
        engine.cancel(request.id)
        thread.join(WAIT_S)
        told.end = None
    told.values = {name: from_wire(value) for name, value in told.values.items()}
    return told


def _difference(here: _Events, there: _Events, *, values: bool) -> str:
    """What is not as it is here; nothing when all is."""
    if there.end is None:
        return "the run does not end"
    if isinstance(there.end, Failed) or isinstance(here.end, Failed):
        ends = [end.error if isinstance(end, Failed) else None for end in (here.end, there.end)]
        if type(ends[0]) is type(ends[1]):
            return ""
        return f"here {ends[0]!r}, there {ends[1]!r} {getattr(ends[1], '__cause__', '')!r}"
    assert here.end is not None
    if (here.end.steps, here.end.ended) != (there.end.steps, there.end.ended):
        return f"here {here.end}, there {there.end}"
    if here.values.keys() != there.values.keys():
        return f"saved here {sorted(here.values)}, there {sorted(there.values)}"
    if not values:
        return ""
    if here.tokens != there.tokens:
        return f"tokens here {here.tokens}, there {there.tokens}"
    found = [(name, _off(value, there.values[name])) for name, value in here.values.items()]
    return "; ".join(f"{name}: {off}" for name, off in found if off)


def _off(one: Any, other: Any) -> str:
    """How a value is not as another; nothing when it is."""
    if isinstance(one, torch.Size):
        one = tuple(one)
    if type(one) is not type(other):
        return f"{type(one)} here, {type(other)} there"
    if isinstance(one, torch.Tensor):
        return _tensors_off(one.detach().cpu(), other)
    if isinstance(one, dict):
        if list(one) != list(other):
            return f"{list(one)} here, {list(other)} there"
        return _off(list(one.values()), list(other.values()))
    if isinstance(one, tuple | list):
        if len(one) != len(other):
            return f"{len(one)} items here, {len(other)} there"
        return next(filter(None, map(_off, one, other)), "")
    if isinstance(one, float):
        return _off(torch.tensor(one), torch.tensor(other))
    return "" if one == other else f"{one!r} here, {other!r} there"


def _tensors_off(one: torch.Tensor, other: torch.Tensor) -> str:
    if one.dtype != other.dtype or one.shape != other.shape:
        return f"{one.dtype} {list(one.shape)} here, {other.dtype} {list(other.shape)} there"
    if not one.numel():
        return ""
    if not (one.is_floating_point() or one.is_complex()):
        return "" if torch.equal(one, other) else f"{one} here, {other} there"
    finite = one.isfinite()
    if not torch.equal(one[~finite].nan_to_num(), other[~finite].nan_to_num()):
        return "what is not finite is not the same"
    if not finite.any():
        return ""
    scale = one[finite].abs().max().clamp(min=1.0)
    off = float((one[finite] - other[finite]).abs().max() / scale)
    return "" if off <= NEAR else f"{off:.2g} of its scale off ({list(one.shape)})"
