"""The columns of the grid: a model of ours for a family, on each engine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import nnsight_lab as nl
from nnsight_lab.contract import Emit, Failed, RunEvent, RunRequest
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.settings import Settings
from nnsight_lab_server.config import ServedModel
from nnsight_lab_server.engines.base import Engine
from nnsight_lab_server.engines.transformers_engine import TransformersEngine
from tests.parity.case import Case
from tests.server.lab_server import TOKEN, serving_models

APART = ("GPT-NeoX", "OLMo 2")
"""Families that vLLM runs on the classes of transformers, which it changes: not in our process."""

__all__ = ["ENGINES", "Begun", "NotBuilt", "Opened"]


class NotBuilt(Exception):
    """There is no such engine here; why, in a few words."""


class Begun:
    """What engines were told to run: which, and how many runs failed after that."""

    def __init__(self) -> None:
        self.failed = 0
        self.engines: set[str] = set()

    def note(self, event: RunEvent) -> None:
        """One event of a run."""
        self.failed += isinstance(event, Failed)


Opened = tuple[Any, Begun]


def _noting(engine: Engine, begun: Begun) -> Engine:
    """The same engine, which notes each of its runs."""
    run = engine.run

    def noted(request: RunRequest, emit: Emit) -> None:
        begun.engines.add(engine.card().capabilities.engine)

        def note(event: RunEvent) -> None:
            begun.note(event)
            emit(event)

        run(request, note)

    vars(engine)["run"] = noted
    return engine


@contextmanager
def _local(case: Case) -> Iterator[Opened]:
    yield nl.LanguageModel(case.small.module), Begun()


@contextmanager
def _served(*engines: Engine) -> Iterator[Opened]:
    begun = Begun()
    noting = [_noting(engine, begun) for engine in engines]
    first, *others = (partial(_itself, engine) for engine in noting)
    model = ServedModel("model", first, tuple(others))
    with serving_models((model,)) as lab, nl.connect(lab.url, TOKEN) as connected:
        yield connected.model("model"), begun


def _itself(engine: Engine) -> Engine:
    return engine


def _transformers(case: Case) -> AbstractContextManager[Opened]:
    return _served(TransformersEngine("model", LocalExecutor(case.small.module)))


def _vllm(case: Case) -> AbstractContextManager[Opened]:
    """As `--engine auto` has it: vLLM, and the same model beside it for what vLLM cannot."""
    if importlib.util.find_spec("vllm") is None:
        raise NotBuilt("vLLM is not installed")
    from nnsight_lab_server.engines.vllm_engine import load_vllm
    from nnsight_lab_server.vllm.options import VllmOptions

    # Steps shorter than the longest prompts, so that prompts are cut and their pieces mixed.
    options = VllmOptions(
        dtype="float32", context=64, batch_tokens=32, kv_cache_gib=1 / 64,
        engine={"max_num_seqs": 16},
    )  # fmt: skip
    executor = LocalExecutor(case.small.module)
    engine = load_vllm(
        "model", str(case.folder), Settings(), options=options, executor=lambda: executor,
        one_process=case.name not in APART,
    )  # fmt: skip
    return _served(engine, TransformersEngine("model", executor))


ENGINES: dict[str, Callable[[Case], AbstractContextManager[Opened]]] = {
    "local": _local,
    "transformers": _transformers,
    "vllm": _vllm,
}
"""local: in this process. The others: the same model at the end of a websocket."""
