"""Stored edits: a block recorded once, for prompts of any size, that later traces begin with.

    EditBlock     the `with model.edit()` block
    EditRecorder  records it, and refuses what holds for one size of prompt only
    Edit          what was recorded; replayed into the recording of each later trace

An edit is a graph. Replaying it records its operations again, on the values of that trace, so that
shapes are checked at its size and later reads see what was edited. Errors name the edit's own line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from nnsight_lab.errors import BadInput, GraphError, LabError, NotSupported, SourceLine
from nnsight_lab.ir import (
    Address,
    Apply,
    Call,
    Constant,
    Graph,
    ModuleTree,
    Node,
    NodeId,
    OpaqueSpec,
    Read,
    Site,
    Weight,
    Write,
)
from nnsight_lab.kernels import infer_call, to_python
from nnsight_lab.passes import drop_dead_nodes
from nnsight_lab.passes.check import infer_node
from nnsight_lab.tracing import Proxy, Recorder
from nnsight_lab.tracing.cells import Cell, Value
from nnsight_lab.tracing.source import for_the_user, shorten_traceback, standing_at, user_line
from nnsight_lab.tracing.tracer import close_for, open_for

if TYPE_CHECKING:
    from nnsight_lab.models.traced import TracedModel

__all__ = ["Edit", "EditBlock", "EditRecorder", "edits_noted", "without_shapes"]

ModelT = TypeVar("ModelT", bound="TracedModel")

_SIZE = (61, 1009)
_OTHER_SIZE = (67, 1013)
"""Two (batch, pos) that no model has an axis of. What differs between them follows the prompt."""


@dataclass(frozen=True)
class Edit:
    """One stored edit block: its graph, and the line its block begins at."""

    graph: Graph
    where: SourceLine | None = None

    def replay(self, recorder: Recorder) -> None:
        """Record it again, on the rows that places mean now.

        Raises:
            LabError: it does not fit this prompt; the error names the edit's own line.
        """
        values: dict[NodeId, Any] = {}
        for node in self.graph.nodes:
            with standing_at(node.where):
                try:
                    values[node.id] = _recorded_again(node, values, recorder)
                except LabError as exc:
                    raise exc.at(node.where)
        for output in self.graph.outputs:
            value: Proxy = values[output.node]
            recorder.shown.append((output.name, value.now().node))

    def __repr__(self) -> str:
        places = dict.fromkeys(str(node.address) for node in self.graph.writes())
        return f"<edit at {self.where}: {', '.join(places) or 'nothing'}>"


def _recorded_again(node: Node, values: dict[NodeId, Any], recorder: Recorder) -> Any:
    match node:
        case Read(address=address):
            return Proxy(recorder, Cell(recorder.places.cell(address).value))
        case Write(address=address, value=value):
            new = recorder.value_of(values[value])
            return recorder.places.edit(recorder.places.cell(address), new)
        case Constant():
            return Proxy(recorder, Cell(recorder.constant_again(node)))
        case Weight(path=path, name=name):
            return recorder.weight(path, name)
        case Call(op=op):
            found = recorder.call(op, *_arguments(node, values))
            return Proxy(recorder, Cell(found)) if isinstance(found, Value) else found
        case Apply(path=path):
            return recorder.apply(path, *_arguments(node, values))
    raise _not_storable(node)


def _arguments(
    node: Call | Apply, values: dict[NodeId, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args = tuple(to_python(arg, values.__getitem__) for arg in node.args)
    return args, {key: to_python(arg, values.__getitem__) for key, arg in node.kwargs}


def _not_storable(node: Node) -> NotSupported:
    what = type(node).__name__.lower()
    return NotSupported(
        f"A {what} cannot be part of a stored edit.",
        hint="Reads, operations and edits can; write the rest in the trace itself.",
    ).at(node.where)


def edits_noted(edits: tuple[Edit, ...]) -> str:
    """How many edits a model has, for its first printed line."""
    if not edits:
        return ""
    return f", {len(edits)} stored edit{'s' if len(edits) > 1 else ''}"


def without_shapes(tree: ModuleTree) -> ModuleTree:
    """A tree in which every module has an input and an output whose shapes are not known."""
    unknown = OpaqueSpec("unknown")
    sites = (
        Site(Address(card.path, port), 0, unknown)
        for card in tree.modules
        for port in ("input", "output")
    )
    return replace(tree, sites=tuple(sites))


class EditBlock(Generic[ModelT]):
    """`with model.edit() as edited:`; when it ends, `edited` has what was recorded."""

    def __init__(self, model: ModelT, edited: ModelT, recorder: EditRecorder) -> None:
        self._models = (model, edited)
        self._recorder = recorder
        self._token: Any = None
        self._where: SourceLine | None = None

    def __enter__(self) -> ModelT:
        self._where = user_line()
        failure: LabError | None = None
        try:
            if self._token is not None:
                raise GraphError(
                    "This edit block has been used.", hint="Each needs a model.edit() of its own."
                )
            self._token = open_for(self._models, self._recorder)
        except LabError as exc:
            failure = for_the_user(exc)
        if failure is not None:
            raise failure
        return self._models[1]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        close_for(self._token)
        if exc is not None:
            self._recorder.open = False
            shorten_traceback(exc)
            return
        failure: LabError | None = None
        try:
            for more in self._recorder.at_end:
                more()
            graph = drop_dead_nodes(self._recorder.finish({}))
            self._models[1].store_edit(Edit(graph, self._where))
        except LabError as error:
            failure = for_the_user(error.at(self._where))
        if failure is not None:
            raise failure


class EditRecorder(Recorder):
    """Records a block for prompts of any size, by keeping all shapes for two sizes at once."""

    def __init__(self, tree: ModuleTree) -> None:
        super().__init__(tree, *_SIZE)
        self._others: list[Any] = []

    def add(self, node: Node, meta: Any, moment: int, read: str = "") -> Value:
        """Add a node.

        Raises:
            BadInput: its value fits prompts of one size only.
            NotSupported: it is of a kind that edits do not hold.
        """
        if not isinstance(node, Read | Write | Constant | Weight | Call | Apply):
            raise _not_storable(node)
        value = super().add(node, meta, moment, read)
        try:
            other = infer_node(node, self._others, self.tree, *_OTHER_SIZE)
        except LabError as exc:
            raise _one_size(exc.message).at(user_line()) from None
        if _form(other) != _form(meta):
            raise _one_size("The number of parts follows the size of the prompt.").at(user_line())
        self._others.append(other)
        return value

    def call(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value | Any:
        """Record an operation; a size that follows the prompt is not told."""
        if _holds_size((args, kwargs)):
            raise _one_size("A size of the prompt is not known here.").at(user_line())
        found = super().call(op, args, kwargs)
        if isinstance(found, Value):
            return found
        named = {key: self._at_other_size(value) for key, value in kwargs.items()}
        other = infer_call(op, [self._at_other_size(arg) for arg in args], named)
        return _alike(found, other)

    def known(self, name: str, value: Value, found: Any) -> Any:
        """What is the same for every prompt; a size that is not refuses to be used."""
        other = self._others[value.node]
        return _alike(found, getattr(other, name) if isinstance(other, torch.Tensor) else found)

    def note_saved(self, proxy: Proxy) -> None:
        """There is no run to save from."""
        raise GraphError(
            "Nothing is saved in an edit block: it does not run by itself.",
            hint="Save in a trace of the edited model; it sees the edits.",
        ).at(user_line())

    def _at_other_size(self, arg: Any) -> Any:
        match arg:
            case Proxy() | torch.Tensor():
                return self._others[self.value_of(arg).node]
            case tuple() | list():
                return type(arg)(map(self._at_other_size, arg))
            case slice():
                return slice(*map(self._at_other_size, (arg.start, arg.stop, arg.step)))
            case _:
                return arg


class _PromptSize:
    """A size that follows the prompt. It may be looked at, and not be computed with."""

    def __repr__(self) -> str:
        return "<size of the prompt>"


def _refused(self: _PromptSize, *_: Any) -> Any:
    raise for_the_user(_one_size("A size of the prompt is not known here."))


for _name in (
    "int index float bool add radd sub rsub mul rmul floordiv rfloordiv truediv rtruediv mod rmod "
    "pow neg lt le gt ge eq ne"
).split():
    setattr(_PromptSize, f"__{_name}__", _refused)


def _alike(one: Any, other: Any) -> Any:
    """What is known for prompts of both sizes; the sizes in it that differ are refused when used."""
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        if one == other:
            return one
        return tuple(a if a == b else _PromptSize() for a, b in zip(one, other, strict=True))
    return one if one == other else _PromptSize()


def _holds_size(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_holds_size, value))
    if isinstance(value, dict):
        return any(map(_holds_size, value.values()))
    if isinstance(value, slice):
        return any(map(_holds_size, (value.start, value.stop, value.step)))
    return isinstance(value, _PromptSize)


def _form(meta: Any) -> Any:
    if isinstance(meta, tuple | list):
        return tuple(map(_form, meta))
    if isinstance(meta, dict):
        return {key: _form(item) for key, item in meta.items()}
    return (meta.dim(), meta.dtype) if isinstance(meta, torch.Tensor) else repr(meta)


def _one_size(what: str) -> BadInput:
    return BadInput(
        f"An edit block holds for prompts of any size. {what}",
        hint="Use -1, flatten, unflatten, zeros_like or negative positions, which fit every prompt.",
    )
