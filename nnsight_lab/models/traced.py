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
    ModuleInputs,
    RunEvent,
    RunRequest,
    RunResult,
    Saved,
    Token,
    TokenRows,
)
from nnsight_lab.errors import BadInput, EngineFailed, LabError, NotSupported
from nnsight_lab.ir import Graph, ModuleTree
from nnsight_lab.models.run import Run
from nnsight_lab.passes import drop_dead_nodes
from nnsight_lab.settings import Settings
from nnsight_lab.tracing import Envoy, Recorder, Tracer
from nnsight_lab.tracing.session import PartPlan, Session, open_session
from nnsight_lab.tracing.source import one_frame, user_line
from nnsight_lab.tracing.tracer import open_recorder

__all__ = ["TracedModel"]


class TracedModel(ABC):
    """A model to trace with. Modules are attributes: `model.layers[2].mlp`."""

    def __init__(self, executor: Executor, settings: Settings | None = None) -> None:
        own = {
            "_executor": executor,
            "_settings": settings or Settings.from_environment(),
            "_envoy": Envoy("", self._current_tree, lambda: open_recorder(self)),
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

    def session(self, *, execute: bool = True, peek: bool = True) -> Session[Run]:
        """Several traces as one run: values flow between them unsaved; one request to a server.

        Each `with model.trace(prompt):` in the block is recorded; all run when the block ends, in
        that order. Saved values come back then.

        execute: False only records; `session.graph` is the experiment.
        peek: whether Python may ask for a value while the block is recorded, by running what it
            depends on.

        Raises:
            GraphError: a trace or a session is open on this model already.
        """
        recorder = Recorder(self._current_tree(), 0, 0)
        return Session(self, recorder, self._carry_out, execute=execute, peek=peek)

    def _tracer(
        self,
        inputs: TokenRows | ModuleInputs,
        prompt: Any,
        *,
        execute: bool = True,
        peek: bool = True,
    ) -> Tracer[Run]:
        tree, decode = self.executor.tree_for(inputs), None
        batch, pos, passes = 1, 1, 0
        if isinstance(inputs, TokenRows):
            batch, pos = inputs.batch, inputs.pos
            if inputs.generation is not None:
                decode, passes = self.card.decode, inputs.passes
        session = open_session(self)
        if session is not None:
            plan = PartPlan(tree, batch, pos, lambda: inputs, prompt, decode, passes)
            return session.part(plan, execute=execute)
        recorder = Recorder(tree, batch, pos, decode=decode, passes=passes)
        return Tracer(
            self,
            recorder,
            lambda graph: self._carry_out(graph, inputs, prompt),
            execute=execute,
            peek=peek,
        )

    def _carry_out(
        self, graph: Graph, inputs: Inputs, prompt: Any, on_event: Emit | None = None
    ) -> Run:
        """Run a graph and collect what it saves. Raises what the run failed with."""
        values: dict[str, Any] = {}
        tokens: list[tuple[int, ...]] = []
        ending: list[Done | Failed] = []

        def collect(event: RunEvent) -> None:
            if isinstance(event, Saved):
                values[event.name] = event.value
            elif isinstance(event, Token):
                tokens.append(event.ids)
            elif isinstance(event, Done | Failed):
                ending.append(event)
            if on_event is not None:
                on_event(event)

        self.executor.run(RunRequest(uuid.uuid4().hex, graph, inputs), collect)
        match ending:
            case [Done() as done]:
                result = RunResult(
                    values, done.seconds, done.sent_bytes, done.steps, done.ended, tuple(tokens)
                )
                return Run(self, graph, inputs, prompt, result)
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
    return error if error.node is None else error.at(graph.line_of(error.node, error.inside))
