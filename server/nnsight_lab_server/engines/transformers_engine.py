"""The engine every lab has: transformers on PyTorch, through the same executor a notebook uses.

Same code as a local run, so the same graph gives the same numbers. The only thing added is the
crossing from tensors to bytes, made on the engine's thread the moment a value is saved: what is
sent is a copy, and later edits of the model cannot reach it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nnsight_lab.contract import Emit, ModelCard, RunEvent, RunRequest, Saved, TokenRows
from nnsight_lab.ir import ModuleSource
from nnsight_lab.settings import Settings
from nnsight_lab_server.engines.base import Engine
from nnsight_lab_server.values import to_wire

__all__ = ["TransformersEngine", "load_transformers"]


def load_transformers(name: str, source: str, settings: Settings) -> Engine:
    """The engine of a model by bundled name, folder or Hugging Face id, served as `name`.

    Raises:
        ModelNotFound: there is no such model.
    """
    from nnsight_lab.executors.local import load_local

    return TransformersEngine(name, load_local(source, settings))


class TransformersEngine:
    """Runs graphs on a `LocalExecutor`."""

    def __init__(self, name: str, executor: Any) -> None:
        self._executor = executor
        card: ModelCard = executor.card()
        # `local` says that the torch module is at hand, which it is not for a client, and
        # `local_fn` that functions can be given, which do not travel.
        features = card.capabilities.features - {"local", "local_fn"}
        able = replace(card.capabilities, features=features)
        self._card = replace(card, name=name, capabilities=able)

    def card(self) -> ModelCard:
        """The model, under the name it is served by."""
        return self._card

    def source_of(self, path: str) -> ModuleSource:
        """What the forward of one module calls. Waits for the run that is under way."""
        source: ModuleSource = self._executor.source_of(path, TokenRows(((0,),)))
        return source

    def run(self, request: RunRequest, emit: Emit) -> None:
        """Run to the end, sending saved values on as bytes."""

        def to_bytes(event: RunEvent) -> None:
            if isinstance(event, Saved):
                event = Saved(event.name, to_wire(event.name, event.value))
            emit(event)

        self._executor.run(request, to_bytes)

    def cancel(self, run_id: str) -> None:
        """Stop a run at the next module it reaches."""
        self._executor.cancel(run_id)

    def close(self) -> None:
        """Let the model go."""
        self._executor = None
