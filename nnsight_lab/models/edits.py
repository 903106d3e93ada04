"""Stored edits: a block recorded once, for prompts of any size, that later traces begin with.

    EditBlock         the `with model.edit()` block
    edit_recorder.py  records it for prompts of any size
    Edit              what was recorded; replayed into the recording of each later trace

An edit is a graph. Replaying it records its operations again, on the values of that trace, so that
shapes are checked at its size and later reads see what was edited. Errors name the edit's own line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from nnsight_lab.errors import GraphError, LabError, SourceLine
from nnsight_lab.ir import (
    Address,
    Apply,
    Call,
    Constant,
    Graph,
    ModuleSource,
    ModuleTree,
    Node,
    NodeId,
    OpaqueSpec,
    Read,
    Site,
    Weight,
    Write,
)
from nnsight_lab.kernels import to_python
from nnsight_lab.models.edit_recorder import ON_SIZES, EditRecorder, not_storable
from nnsight_lab.passes import drop_dead_nodes
from nnsight_lab.tracing import Proxy, Recorder
from nnsight_lab.tracing.cells import Cell, Value
from nnsight_lab.tracing.openings import close_for, open_for
from nnsight_lab.tracing.show import is_plotted, label_of, note_shown
from nnsight_lab.tracing.source import (
    at_line,
    for_the_user,
    shorten_traceback,
    standing_at,
    user_line,
)

if TYPE_CHECKING:
    from nnsight_lab.models.traced import TracedModel

__all__ = ["Edit", "EditBlock", "edits_noted", "without_shapes"]

ModelT = TypeVar("ModelT", bound="TracedModel")


@dataclass(frozen=True)
class Edit:
    """One stored edit block: its graph, and the line its block begins at.

    sources: of the modules inside which it names operations.
    """

    graph: Graph
    where: SourceLine | None = None
    sources: tuple[ModuleSource, ...] = ()

    def replay(self, recorder: Recorder) -> None:
        """Record it again, on the rows that places mean now.

        Raises:
            LabError: it does not fit this prompt; the error names the edit's own line.
        """
        values: dict[NodeId, Any] = {}
        for source in self.sources:
            at_line(self.where, recorder.places.look_into, source)
        for node in self.graph.nodes:
            with standing_at(node.where):
                try:
                    values[node.id] = _recorded_again(node, values, recorder)
                except LabError as exc:
                    raise exc.at(node.where)
        for output in self.graph.outputs:
            value: Proxy = values[output.node]
            drawn = is_plotted(output.name)
            note_shown(recorder, label_of(output.name), value.now().node, plotted=drawn)

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
        case Call(op=op) if op in ON_SIZES:
            return ON_SIZES[op](*_arguments(node, values)[0])
        case Call(op=op):
            found = recorder.call(op, *_arguments(node, values))
            return Proxy(recorder, Cell(found)) if isinstance(found, Value) else found
        case Apply(path=path):
            return recorder.apply(path, *_arguments(node, values))
    raise not_storable(node)


def _arguments(
    node: Call | Apply, values: dict[NodeId, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args = tuple(to_python(arg, values.__getitem__) for arg in node.args)
    return args, {key: to_python(arg, values.__getitem__) for key, arg in node.kwargs}


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
            sources = tuple(self._recorder.places.steps.sources.values())
            self._models[1].store_edit(Edit(graph, self._where, sources))
        except LabError as error:
            failure = for_the_user(error.at(self._where))
        if failure is not None:
            raise failure
