"""What every traced model shares: its modules by name, `trace`, and `run`.

Abstract: `LanguageModel` (prompts) and `WrappedModule` (any arguments) are the final classes.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from typing import Any

from nnsight_lab.contract import (
    Done,
    Emit,
    Executor,
    Failed,
    Inputs,
    ModelCard,
    RunEvent,
    RunRequest,
    RunResult,
    Saved,
    TokenRows,
)
from nnsight_lab.errors import BadInput, EngineFailed, LabError, NotSupported
from nnsight_lab.ir import Graph, ModuleSource, ModuleTree
from nnsight_lab.models.run import Run
from nnsight_lab.passes import drop_dead_nodes
from nnsight_lab.settings import Settings
from nnsight_lab.tracing import Envoy, Recorder, Tracer
from nnsight_lab.tracing.source import one_frame, user_line
from nnsight_lab.tracing.tracer import open_recorder

__all__ = ["TracedModel"]


class TracedModel(ABC):
    """A model to trace with. Modules are attributes: `model.layers[2].mlp`."""

    def __init__(self, executor: Executor, settings: Settings | None = None) -> None:
        own = {
            "_executor": executor,
            "_settings": settings or Settings.from_environment(),
            "_envoy": Envoy("", self._current_tree, lambda: open_recorder(self), self._source_of),
        }
        for name, value in own.items():
            object.__setattr__(self, name, value)

    @property
    def executor(self) -> Executor:
        """What carries out this model's runs."""
        found: Executor = self._executor
        return found

    @property
    def settings(self) -> Settings:
        """The settings this model was made with."""
        found: Settings = self._settings
        return found

    @property
    def card(self) -> ModelCard:
        """The model described: architecture, size, modules, what its engine can do."""
        return self.executor.card()

    @property
    def name(self) -> str:
        """The model's name."""
        return self.card.name

    @property
    def tree(self) -> ModuleTree:
        """The modules and the places a graph may name."""
        return self._current_tree()

    @property
    def module(self) -> Any:
        """The torch module, for a model in this process.

        Raises:
            NotSupported: the model is on a server; its weights are not here.
        """
        module = getattr(self.executor, "module", None)
        if module is None:
            raise NotSupported(
                f"{self.name} runs on a server; its weights are not here.",
                hint="Read weights in a trace, or load the model locally.",
            ).at(user_line())
        return module

    @abstractmethod
    def _current_tree(self) -> ModuleTree:
        """The module tree to complete names from."""

    def _source_of(self, path: str) -> ModuleSource:
        """What the forward of the module at `path` calls, on the inputs of the open trace."""
        recorder = open_recorder(self)
        inputs = recorder.inputs if recorder is not None else None
        return self.executor.source_of(path, TokenRows(((0,),)) if inputs is None else inputs)

    def _tracer(self, inputs: Inputs, prompt: Any, *, execute: bool = True) -> Tracer[Run]:
        tree = self.executor.tree_for(inputs)
        batch, pos = (inputs.batch, inputs.pos) if isinstance(inputs, TokenRows) else (1, 1)
        recorder = Recorder(tree, batch, pos)
        recorder.inputs = inputs
        return Tracer(
            self, recorder, lambda graph: self._carry_out(graph, inputs, prompt), execute=execute
        )

    def _carry_out(
        self, graph: Graph, inputs: Inputs, prompt: Any, on_event: Emit | None = None
    ) -> Run:
        """Run a graph and collect what it saves. Raises what the run failed with."""
        values: dict[str, Any] = {}
        ending: list[Done | Failed] = []

        def collect(event: RunEvent) -> None:
            if isinstance(event, Saved):
                values[event.name] = event.value
            elif isinstance(event, Done | Failed):
                ending.append(event)
            if on_event is not None:
                on_event(event)

        self.executor.run(RunRequest(uuid.uuid4().hex, graph, inputs), collect)
        match ending:
            case [Done(seconds=seconds, sent_bytes=sent)]:
                return Run(self, graph, inputs, prompt, RunResult(values, seconds, sent))
            case [Failed(error=error)]:
                raise _at_its_line(error, graph)
            case _:
                raise EngineFailed("The run ended without saying how.", hint="Run it once more.")

    def run_inputs(
        self, graph: Graph, inputs: Inputs, prompt: Any = None, on_event: Emit | None = None
    ) -> Run:
        """Run a graph on inputs that are already token rows or module arguments."""
        if not isinstance(graph, Graph):
            raise BadInput(f"A {type(graph).__name__} is not a graph.", hint="tracer.graph is one.")
        return self._carry_out(drop_dead_nodes(graph), inputs, prompt, on_event)

    @one_frame
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._envoy, name)

    @one_frame
    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._envoy, name, value)

    def get(self, path: str) -> Envoy:
        """The module at a dotted path: `lm.get("model.layers.0.mlp")`."""
        found: Envoy = self._envoy.get(path)
        return found

    def __dir__(self) -> list[str]:
        names = self._envoy.__dir__()
        return [*object.__dir__(self), *names]


def _at_its_line(error: LabError, graph: Graph) -> LabError:
    if error.node is not None and error.node < len(graph):
        return error.at(graph[error.node].where)
    return error
