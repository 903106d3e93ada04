"""The columns of the grid: a model of ours for a family, on each engine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import nnsight_lab as nl
from nnsight_lab.contract import Emit, Failed, ModelCard, RunEvent, RunRequest
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.ir import ModuleSource
from nnsight_lab_server.engines.base import Engine
from nnsight_lab_server.engines.transformers_engine import TransformersEngine
from tests.parity.case import Case
from tests.server.lab_server import TOKEN, serving

__all__ = ["ENGINES", "Begun", "NotBuilt", "Opened"]


class NotBuilt(Exception):
    """There is no such engine here; why, in a few words."""


class Begun:
    """What an engine was asked to run: a refusal must come before that."""

    def __init__(self) -> None:
        self.failed = 0

    def note(self, event: RunEvent) -> None:
        """One event of a run."""
        self.failed += isinstance(event, Failed)


Opened = tuple[Any, Begun]


class _Noting:
    """An engine, and a note of each run of it that failed after it had begun."""

    def __init__(self, engine: Engine, begun: Begun) -> None:
        self._engine = engine
        self._begun = begun

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def card(self) -> ModelCard:
        return self._engine.card()

    def source_of(self, path: str) -> ModuleSource:
        return self._engine.source_of(path)

    def run(self, request: RunRequest, emit: Emit) -> None:
        def note(event: RunEvent) -> None:
            self._begun.note(event)
            emit(event)

        self._engine.run(request, note)

    def cancel(self, run_id: str) -> None:
        self._engine.cancel(run_id)

    def close(self) -> None:
        self._engine.close()


@contextmanager
def _local(case: Case) -> Iterator[Opened]:
    yield nl.LanguageModel(case.small.module), Begun()


@contextmanager
def _served(load: Callable[[], Engine]) -> Iterator[Opened]:
    begun = Begun()
    with serving(("model", lambda: _Noting(load(), begun))) as lab:
        with nl.connect(lab.url, TOKEN) as connected:
            yield connected.model("model"), begun


@contextmanager
def _transformers(case: Case) -> Iterator[Opened]:
    with _served(lambda: TransformersEngine("model", LocalExecutor(case.small.module))) as opened:
        yield opened


@contextmanager
def _vllm(case: Case) -> Iterator[Opened]:
    if importlib.util.find_spec("nnsight_lab_server.engines.vllm_engine") is None:
        raise NotBuilt("not built")
    if importlib.util.find_spec("vllm") is None:
        raise NotBuilt("vLLM is not installed")
    raise NotBuilt("not connected to the grid yet")
    yield


ENGINES: dict[str, Callable[[Case], AbstractContextManager[Opened]]] = {
    "local": _local,
    "transformers": _transformers,
    "vllm": _vllm,
}
"""local: in this process. The others: the same model at the end of a websocket."""
