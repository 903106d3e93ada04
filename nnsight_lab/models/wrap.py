"""wrap: trace any torch module, by its own module paths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from nnsight_lab.contract import Emit, ModuleInputs, Several
from nnsight_lab.errors import BadInput, GraphError, LabError
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.executors.measure import module_cards
from nnsight_lab.ir import Graph, ModuleSource, ModuleTree
from nnsight_lab.models.compiled import uncompiled
from nnsight_lab.models.edits import edits_noted, without_shapes
from nnsight_lab.models.run import Run
from nnsight_lab.models.scans import Shapes, scanned
from nnsight_lab.models.traced import TracedModel
from nnsight_lab.tracing import Envoy, Tracer
from nnsight_lab.tracing.openings import open_recorder
from nnsight_lab.tracing.source import for_the_user, one_frame, user_line

__all__ = ["WrappedModule", "wrap"]


class WrappedModule(TracedModel):
    """Any torch module, traced in this process.

    net = wrap(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()))
    with net.trace(torch.ones(1, 4)):
        hidden = net[0].output.save()
    """

    def __init__(self, module: torch.nn.Module, *, rename: Any = None) -> None:
        super().__init__(LocalExecutor(module, language=False))
        object.__setattr__(self, "_modules_only", ModuleTree(module_cards(module)))
        self._rename(rename)

    def _current_tree(self) -> ModuleTree:
        recorder = open_recorder(self)
        tree: ModuleTree = self._modules_only
        return recorder.tree if recorder is not None else tree

    def _edit_tree(self) -> ModuleTree:
        """Every module, with outputs and inputs of shapes that only the arguments tell."""
        tree: ModuleTree = self._modules_only
        return without_shapes(tree)

    def _source_of(self, path: str) -> ModuleSource:
        if open_recorder(self) is None:
            raise GraphError(
                "What a forward calls follows from its inputs, so a trace has to be open.",
                hint="with net.trace(inputs): print(net.….source)",
            )
        return super()._source_of(path)

    @one_frame
    def scan(self, *args: Any, **kwargs: Any) -> Tracer[Shapes]:
        """Record the `with` block, and give the shapes of what it saves; nothing runs."""
        return scanned(self._tracer(_inputs(args, kwargs), args, peek=False))

    def trace(
        self, *args: Any, execute: bool = True, peek: bool = True, **kwargs: Any
    ) -> Tracer[Run]:
        """Record the `with` block, and run the module on these arguments when it ends.

        execute: False only records; `tracer.graph` is the experiment.
        peek: False refuses what needs a value while recording.

        Raises:
            BadInput: the module cannot run on these arguments.
        """
        try:
            return self._tracer(_inputs(args, kwargs), args, execute=execute, peek=peek)
        except LabError as exc:
            raise for_the_user(exc) from exc.__cause__

    def inputs_of(self, prompt: Any) -> ModuleInputs | Several:
        """The arguments of the module's forward: a tuple of them, or one; or a run's inputs."""
        return _inputs_again(prompt if isinstance(prompt, tuple) else (prompt,), {})

    def run(self, graph: Graph, *args: Any, on_event: Emit | None = None, **kwargs: Any) -> Run:
        """Run a recorded graph again, on these arguments, or on the `inputs` of a run."""
        try:
            return self.run_inputs(graph, _inputs_again(args, kwargs), args, on_event)
        except LabError as exc:
            raise for_the_user(exc) from exc.__cause__

    def __getitem__(self, index: int | str) -> Any:
        return self._envoy[index]

    def __len__(self) -> int:
        return len(self._envoy)

    def __iter__(self) -> Iterator[Envoy]:
        return iter(self._envoy)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        head = f"<wrapped {type(self.module).__name__}{edits_noted(self.edits)}>"
        return f"{head}\n{self._envoy!r}"


def _inputs_again(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModuleInputs | Several:
    """Arguments; or, by itself, what a run was given."""
    if len(args) == 1 and not kwargs and isinstance(args[0], ModuleInputs | Several):
        return args[0]
    return _inputs(args, kwargs)


def _inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModuleInputs:
    if not args and not kwargs:
        raise BadInput("The module was given nothing.", hint="Pass what its forward takes.")
    return ModuleInputs(args, kwargs)


def wrap(
    module: torch.nn.Module, *, rename: Mapping[str, str | Iterable[str]] | None = None
) -> WrappedModule:
    """Any torch module as something to trace with, by its own module paths.

    Nothing is changed on the module: hooks stand only while a run is under way.
    rename: names of your own for modules: `{"encoder.blocks": "layers"}`.

    Raises:
        BadInput: it is no module, one whose parameters have no shape yet, or a name is taken.
    """
    if not isinstance(module, torch.nn.Module):
        raise BadInput(
            f"A {type(module).__name__} is not a torch module.",
            hint="Give an instance of torch.nn.Module.",
        ).at(user_line())
    if any(map(is_lazy, (*module.parameters(), *module.buffers()))):
        raise BadInput(
            f"{type(module).__name__} has parameters that have no shape yet.",
            hint="Call it once on an input, then wrap it.",
        ).at(user_line())
    try:
        return WrappedModule(uncompiled(module), rename=rename)
    except LabError as exc:
        raise for_the_user(exc) from None
