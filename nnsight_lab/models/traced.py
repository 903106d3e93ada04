"""What every traced model shares: its modules by name, `trace`, and `run`.

Abstract: `LanguageModel` (prompts) and `WrappedModule` (any arguments) are the final classes.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Self

from nnsight_lab.contract import (
    Emit,
    Executor,
    Inputs,
    ModelCard,
    ModuleInputs,
    RunRequest,
    Several,
    TokenRows,
)
from nnsight_lab.errors import BadInput, Cancelled, LabError, NotSupported
from nnsight_lab.ir import Graph, ModuleSource, ModuleTree
from nnsight_lab.models.background import begun_behind
from nnsight_lab.models.collected import Collected
from nnsight_lab.models.edit_recorder import EditRecorder
from nnsight_lab.models.edits import Edit, EditBlock
from nnsight_lab.models.experiment import Experiment, experiment_of
from nnsight_lab.models.generation import draws_anew
from nnsight_lab.models.run import Run
from nnsight_lab.models.under_way import RunUnderWay, under_way
from nnsight_lab.passes import check_features, drop_dead_nodes
from nnsight_lab.settings import Settings
from nnsight_lab.tracing import Envoy, Recorder, Tracer
from nnsight_lab.tracing.aliases import Aliases, aliases_of
from nnsight_lab.tracing.attached import Attachments
from nnsight_lab.tracing.local_calls import functions_of, remember
from nnsight_lab.tracing.openings import open_recorder
from nnsight_lab.tracing.session import PartPlan, Session, open_session
from nnsight_lab.tracing.source import one_frame, user_line

__all__ = ["TracedModel"]


class TracedModel(ABC):
    """A model to trace with. Modules are attributes: `model.layers[2].mlp`."""

    def __init__(self, executor: Executor, settings: Settings | None = None) -> None:
        own = {
            "_executor": executor,
            "_settings": settings or Settings.from_environment(),
            "_edits": (),
            "_attached": Attachments(),
        }
        for name, value in own.items():
            object.__setattr__(self, name, value)
        self._name_modules(Aliases())

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise _not_copied()

    def __deepcopy__(self, memo: Any) -> Any:
        raise _not_copied()

    def __copy__(self) -> Self:
        return self._with_edits(self.edits)

    def _name_modules(self, aliases: Aliases) -> None:
        """Modules are attributes from here on, under their own names and the user's."""
        object.__setattr__(self, "_aliases", aliases)

    def _rename(self, rename: Any) -> None:
        """Give modules names of the user's own. Raises `BadInput`."""
        if rename is not None:
            verbs = (name for name in dir(type(self)) if not name.startswith("_"))
            self._name_modules(aliases_of(rename, self._current_tree(), verbs))

    def _prepared(self, recorder: Recorder) -> Recorder:
        """A new recording of this model: it knows the user's names, and begins with the edits."""
        recorder.aliases = self._aliases
        recorder.preludes = self._preludes
        return recorder

    @property
    def _preludes(self) -> tuple[Callable[[Recorder], None], ...]:
        return tuple(edit.replay for edit in self.edits)

    # Stored edits

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The stored edits that every trace of this model begins with, in order."""
        found: tuple[Edit, ...] = self._edits
        return found

    def edit(self, *, inplace: bool = False) -> EditBlock[Self]:
        """Record edits that every later trace begins with, for prompts of any size.

            with lm.edit() as steered:
                lm.layers[2].output[:, -1] += direction
            with steered.trace(prompt): ...

        The block gives a model with the same weights that has the edits; this one stays as it is.
        inplace: this model itself has them, until `clear_edits()`.

        Raises:
            NotSupported: what was recorded cannot be stored: a gradient, a value of one size.
        """
        view = self if inplace else self._with_edits(self.edits)
        return EditBlock(self, view, EditRecorder(self._edit_tree()))

    def clear_edits(self) -> None:
        """Forget the stored edits of this model; others made from it keep theirs."""
        object.__setattr__(self, "_edits", ())

    def store_edit(self, edit: Edit) -> None:
        """Begin every later trace of this model with one more edit."""
        object.__setattr__(self, "_edits", (*self.edits, edit))

    def _with_edits(self, edits: tuple[Edit, ...]) -> Self:
        """This model once more: the same weights and names, edits of its own."""
        view = type(self).__new__(type(self))
        for name, value in (vars(self) | {"_edits": edits}).items():
            object.__setattr__(view, name, value)
        view._name_modules(self._aliases)  # noqa: SLF001
        return view

    def _edit_tree(self) -> ModuleTree:
        """The tree that edit blocks are recorded with, where no prompt is given."""
        return self._current_tree()

    @property
    def _envoy(self) -> Envoy:
        """The model's root module. Made when asked for: kept here, it would keep the model."""
        return Envoy(
            "",
            self._current_tree,
            lambda: open_recorder(self),
            self._aliases,
            attached=self._attached,
            source=self._source_of,
        )

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
    def inputs_of(self, prompt: Any) -> Inputs:
        """What the model is given for a prompt. Raises `BadInput`."""

    @one_frame
    def experiment(self, graph: Graph, prompt: Any) -> Experiment:
        """A graph on this model and prompt, as a value: to save, to print, to run later."""
        return experiment_of(self, graph, self.inputs_of(prompt), prompt)

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
        recorder = self._prepared(Recorder(self._current_tree(), 0, 0))
        return Session(
            self,
            recorder,
            self._carry_out,
            describe=partial(experiment_of, self),
            weights=self.executor,
            execute=execute,
            peek=peek,
        )

    def _source_of(self, path: str) -> ModuleSource:
        """What the forward of the module at `path` calls, on the inputs of the open trace."""
        recorder = open_recorder(self)
        inputs = recorder.inputs if recorder is not None else None
        return self.executor.source_of(path, TokenRows(((0,),)) if inputs is None else inputs)

    def _tracer(
        self,
        inputs: TokenRows | ModuleInputs,
        prompt: Any,
        *,
        execute: bool = True,
        peek: bool = True,
    ) -> Tracer[Run]:
        tree, decode = self.executor.tree_for(inputs), None
        batch, pos, passes, anew = 1, 1, 0, False
        if isinstance(inputs, TokenRows):
            batch, pos, anew = inputs.batch, inputs.pos, draws_anew(inputs.generation)
            if inputs.generation is not None:
                decode, passes = self.card.decode, inputs.passes
        session = open_session(self.executor)
        if session is not None:
            session.draws_anew(anew)
            given = (tree, batch, pos, lambda: inputs, prompt, decode, passes)
            plan = PartPlan(*given, owner=self, preludes=self._preludes)
            return session.part(plan, execute=execute, peek=peek)
        recorder = self._prepared(Recorder(tree, batch, pos, decode=decode, passes=passes))
        recorder.inputs, recorder.draws_anew = inputs, anew
        return Tracer(
            self,
            recorder,
            lambda graph: self._carry_out(graph, inputs, prompt),
            execute=execute,
            peek=peek,
            describe=lambda graph: experiment_of(self, graph, inputs, prompt),
            go_on=lambda graph, back: self._go_on(graph, inputs, prompt, back),
        )

    def _go_on(self, graph: Graph, inputs: Inputs, prompt: Any, back: Callable[[Run], None]) -> Run:
        """Begin to run a graph in the background."""
        check_features(graph, self.card)
        run = partial(self._carry_out, graph, inputs, prompt)
        return begun_behind(run, Run.awaiting(self, graph, inputs, prompt), back)

    def _carry_out(
        self,
        graph: Graph,
        inputs: Inputs,
        prompt: Any,
        on_event: Emit | None = None,
        noted: Callable[[RunUnderWay], None] | None = None,
    ) -> Run:
        """Run a graph and collect what it saves. Raises what the run failed with."""
        check_features(graph, self.card)
        functions = functions_of(graph)
        # Executors keep graphs with their schedules; the functions must not be kept with them.
        own = replace(graph) if functions else graph
        request = RunRequest(uuid.uuid4().hex, own, inputs, functions)
        run = RunUnderWay(request.id, self, graph, inputs, prompt)
        if noted is not None:
            noted(run)
        with under_way(run) as tell:
            collected = Collected(tell) if on_event is None else Collected(on_event, tell)
            self.executor.run(request, collected.take)
        if collected.error is not None:
            stopped = run.why if isinstance(collected.error, Cancelled) else None
            raise _at_its_line(stopped or collected.error, graph)
        return Run(self, graph, inputs, prompt, collected.result)

    def run_inputs(
        self, graph: Graph, inputs: Inputs, prompt: Any = None, on_event: Emit | None = None
    ) -> Run:
        """Run a graph on inputs that are already token rows or module arguments."""
        if not isinstance(graph, Graph):
            raise BadInput(f"A {type(graph).__name__} is not a graph.", hint="tracer.graph is one.")
        lean = remember(drop_dead_nodes(graph), functions_of(graph))
        return self._carry_out(lean, inputs, prompt, on_event)

    def trace_after(self, run: Run) -> Tracer[Run]:
        """What `run.trace()` is: a block on the run's inputs, whose graph comes after the run's."""
        if isinstance(run.inputs, Several):
            raise NotSupported(
                "This run is a session of several traces; a block has one prompt.",
                hint="Trace that prompt by itself, and go on from its run.",
            )
        begun = self._tracer(run.inputs, run.prompt)
        return begun.ended_by(lambda graph, recorder: run.then(remember(graph, recorder.functions)))

    @one_frame
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._envoy, name)

    @one_frame
    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._envoy, name, value)

    @one_frame
    def __delattr__(self, name: str) -> None:
        delattr(self._envoy, name)

    def get(self, path: str) -> Envoy:
        """The module at a dotted path: `lm.get("model.layers.0.mlp")`."""
        found: Envoy = self._envoy.get(path)
        return found

    def __dir__(self) -> list[str]:
        names = self._envoy.__dir__()
        return [*object.__dir__(self), *names]


def _at_its_line(error: LabError, graph: Graph) -> LabError:
    return error if error.node is None else error.at(graph.line_of(error.node, error.inside))


def _not_copied() -> NotSupported:
    return NotSupported(
        "A traced model cannot be copied or pickled.",
        hint="Copy or save lm.module, and make a model of that: nl.LanguageModel(module).",
    ).at(user_line())
