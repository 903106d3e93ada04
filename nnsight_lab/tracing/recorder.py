"""Writes the graph: nodes, shapes, the order of moments. Refuses what cannot be, at its line.

    recorder.py   nodes, operations, constants, the finished graph
    record.py     one operation, as Python writes it
    places.py     places of the model: cells, invokes, edits
    backward.py   backward passes and gradients
    skips.py      modules that do not run

The recorder is what envoys and proxies call. It never runs a model: shapes come from the module
tree and from running operations on tensors without data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from nnsight_lab.contract import Inputs
from nnsight_lab.errors import NotSaved, OpNotAllowed
from nnsight_lab.ir import (
    Apply,
    Call,
    Constant,
    GradientWrite,
    Graph,
    ModuleTree,
    Node,
    NodeId,
    Output,
    Ref,
    TensorData,
    Weight,
    Write,
)
from nnsight_lab.ir.nodes import dependencies
from nnsight_lab.kernels import Unknown, from_python, infer_call, tensor_to_data
from nnsight_lab.kernels.arguments import to_python, without_numpy
from nnsight_lab.passes.live import drop_dead_nodes
from nnsight_lab.passes.schedule import BEFORE
from nnsight_lab.passes.shapes import infer_apply, weight_meta
from nnsight_lab.tracing.aliases import Aliases
from nnsight_lab.tracing.backward import Backwards
from nnsight_lab.tracing.cells import Cell, MadeLate, Value, holds_tensor
from nnsight_lab.tracing.modes import Modes
from nnsight_lab.tracing.peeks import Peeks
from nnsight_lab.tracing.places import Places
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.record import record
from nnsight_lab.tracing.regions import Tape, gone, refuse_inside, without_holes
from nnsight_lab.tracing.skips import Skips
from nnsight_lab.tracing.source import at_line, user_line

__all__ = ["Recorder"]

_VALUES = (Proxy, torch.Tensor)


class Recorder:
    """One recording. `batch` and `pos` are the size of the prompt it is recorded with.

    aliases: the user's own names for modules. preludes: what is recorded first, for each prompt.
    at_end: called when the block ends, each gives more values to save, by name. shown: outputs
    that are printed as they come, and are not handed back.

    decode, passes: of a generation, the tree of each pass after the prompt's, and how many passes
        there may be; 0 for a trace.
    peeks: finds values while it is recorded; None where nothing may run. draws_anew: whether
        every run samples other tokens, so that a peek of what follows from them would not hold.
    """

    def __init__(
        self,
        tree: ModuleTree,
        batch: int = 1,
        pos: int = 1,
        *,
        decode: ModuleTree | None = None,
        passes: int = 0,
    ) -> None:
        self.places = Places(self, tree, batch, pos, decode, passes)
        self.backwards = Backwards(self)
        self.peeks: Peeks | None = None
        self.skips = Skips(self)
        self.modes = Modes(self)
        self.open = True
        self.session: Any = None
        self.inputs: Inputs | None = None
        self.draws_anew = False
        self.results: dict[NodeId, Any] = {}
        self.missing: set[NodeId] = set()
        self.outputs: dict[torch.nn.Module, Any] = {}
        self.functions: dict[str, Callable[..., Any]] = {}
        self.tapes: list[Tape] = []
        self._nodes: list[Node | None] = []
        self._holes = False
        self._values: list[Value] = []
        self._constants: dict[int, tuple[Value, TensorData, Any]] = {}
        self._by_data: dict[TensorData, Value] = {}
        self._weights: dict[tuple[str, str], Value] = {}
        self._saved: dict[NodeId, None] = {}
        self.aliases = Aliases()
        self.preludes: tuple[Callable[[Recorder], None], ...] = ()
        self.at_end: list[Callable[[], dict[str, Any]]] = []
        self.caches = 0
        self.sliders: dict[str, tuple[Constant, Value]] = {}
        self.shown: list[tuple[str, NodeId]] = []

    @property
    def tree(self) -> ModuleTree:
        """The tree of the forward pass that is recorded now."""
        return self.places.tree

    @property
    def nodes(self) -> tuple[Node | None, ...]:
        """The nodes recorded so far, by their ids; None where a node moved into a region."""
        return tuple(self._nodes)

    def moment_of(self, node: NodeId) -> int:
        """When a node of this recording happens."""
        return self._values[node].moment

    def pending(self) -> list[tuple[Write | GradientWrite, int]]:
        """What edits become when the block ends, with their moments; not yet among the nodes."""
        writes = self.places.writes()
        return [*writes, *self.backwards.writes(self.next_id + len(writes))]

    @property
    def next_id(self) -> NodeId:
        """The id of the node that is added next."""
        return len(self._nodes)

    def start_rows(self) -> None:
        """The rows of one more prompt begin: what the model's stored edits say comes first.

        In a generation, at each of its steps.
        """
        for step in range(max(self.places.steps.passes, 1) if self.preludes else 0):
            with self.places.steps.at(step):
                for prelude in self.preludes:
                    prelude(self)

    def known(self, name: str, value: Value, found: Any) -> Any:
        """What Python is told of a value at once: `found`, its `name`. Edit blocks know less."""
        return found

    # Operations, weights, constants

    def weight(self, path: str, name: str) -> Proxy | None:
        """A parameter of a module, or None when it has none of that name."""
        meta = weight_meta(self.tree, path, name)
        if meta is None:
            return None
        if (path, name) not in self._weights:
            node = Weight(id=self.next_id, path=path, name=name, where=user_line())
            self._weights[path, name] = self.add(node, meta, BEFORE)
        full = f"{path}.{name}".strip(".")
        fixed = f"{full} is a parameter of the model; a trace does not edit those."
        return Proxy(self, Cell(self._weights[path, name], fixed=fixed))

    def apply(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Proxy:
        """Call a module out of its order: `lm.lm_head(lm.norm(h))`."""
        where = user_line()
        args, kwargs, needs = self._prepared(args, kwargs)
        metas = [self._values[arg.id].meta for arg in args if isinstance(arg, Ref)]
        given, places = (metas[0] if metas else Unknown()), self.places
        meta = at_line(where, infer_apply, self.tree, path, given, places.batch, places.pos)
        named = tuple(kwargs.items())
        node = Apply(id=self.next_id, path=path, args=args, kwargs=named, where=where)
        result = Proxy(self, Cell(self.add(node, meta, *self._latest(needs))))
        return self.modes.given(result) if self.modes.without_gradient else result

    def record(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One operation as the user wrote it, and what Python expects of it."""
        return record(self, op, args, kwargs)

    def call(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value | Any:
        """Record an operation. A result without tensors (a size, a flag) is given at once.

        Raises:
            ShapeMismatch: the shapes or dtypes do not fit.
            OpNotAllowed: the operation or an argument cannot be part of a graph.
        """
        where = user_line()
        plain_args, plain_kwargs, needs = at_line(where, self._prepared, args, kwargs)
        metas = [to_python(arg, self._meta_of) for arg in plain_args]
        named = {key: to_python(arg, self._meta_of) for key, arg in plain_kwargs.items()}
        meta = at_line(where, infer_call, op, metas, named)
        if not holds_tensor(meta):
            return meta
        node = Call(
            id=self.next_id,
            op=op,
            args=plain_args,
            kwargs=tuple(plain_kwargs.items()),
            where=where,
        )
        return self.add(node, meta, *self._latest(needs))

    def _meta_of(self, node: NodeId) -> Any:
        return self._values[node].meta

    def wrapped(self, value: Any) -> Proxy:
        """A recorded value by itself, which is no view of another."""
        return Proxy(self, Cell(value))

    def value_of(self, value: Any, like: Any = None) -> Value:
        """A recorded value as it is now, or a tensor or number as a constant like `like`."""
        if isinstance(value, Proxy) and value.recorder is not self:
            if not value.came_back:
                raise NotSaved(
                    "This value belongs to another block.",
                    hint="Save it there, and use the tensor here.",
                ).at(user_line())
            value = value.value
        value = without_numpy(value)
        if isinstance(value, Proxy):
            return self._still_here(value.now())
        if isinstance(value, int | float | bool | complex) and isinstance(like, torch.Tensor):
            value = torch.full(like.shape, value, dtype=like.dtype)
        if isinstance(value, torch.Tensor):
            return self.constant(value)
        where = user_line()
        raise OpNotAllowed(
            f"A {type(value).__name__} cannot take the place of a value.",
            hint="Give a tensor, a number, or a recorded value.",
        ).at(where)

    def constant(self, tensor: torch.Tensor) -> Value:
        """A real tensor as part of the graph; the same tensor twice is one constant, and so are
        equal ones, but for weights: two that are equal have gradients of their own.

        Its bytes are looked at each time: memory shared with numpy changes without a trace.
        """
        where = user_line()
        try:
            data = tensor_to_data(tensor)
        except (ValueError, NotImplementedError) as exc:
            hint = "Only dense tensors with values can be part of a graph."
            raise OpNotAllowed(f"{exc}.", hint=hint).at(where) from exc
        known = self._constants.get(id(tensor))
        if known is None or known[1] != data:
            own = tensor.requires_grad and tensor.is_leaf
            value = None if own else self._by_data.get(data)
            if value is None:
                node = Constant(id=self.next_id, value=data, where=where)
                value = self.add(node, tensor.detach().to("meta"), BEFORE)
            if not own:
                self._by_data[data] = value
            known = self._constants[id(tensor)] = (value, data, tensor)
        return known[0]

    def constant_again(self, node: Constant) -> Value:
        """A constant of a stored graph; in one recording it is one node, however often it comes."""
        known = self._constants.get(id(node))
        if known is None:
            data = node.value
            meta = torch.empty(data.shape, dtype=getattr(torch, data.dtype), device="meta")
            again = replace(node, id=self.next_id)
            known = self._constants[id(node)] = (self.add(again, meta, BEFORE), data, node)
        return known[0]

    def add(self, node: Node, meta: Any, moment: int, read: MadeLate = None) -> Value:
        """Add a node, which has the id `next_id`. Raises `NotSaved` once the block has ended."""
        if not self.open:
            raise NotSaved(
                "This value belongs to a block that has ended.",
                hint="Call .save() on it inside the block.",
            ).at(user_line())
        if self._holes and any(map(self.is_gone, dependencies(node))):
            raise gone()
        value = Value(node.id, meta, moment, read)
        self._nodes.append(node)
        self._values.append(value)
        return value

    def prepared(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], tuple[int, MadeLate]]:
        """Arguments as graph data, and the moment when the values among them are there."""
        plain, named, needs = at_line(user_line(), self._prepared, args, kwargs)
        return plain, named, self._latest(needs)

    def _latest(self, needs: list[Value]) -> tuple[int, MadeLate]:
        latest = max(needs, key=lambda value: value.moment, default=None)
        return (latest.moment, latest.read) if latest is not None else (BEFORE, None)

    def _prepared(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], list[Value]]:
        """Arguments as graph data, and the values among them."""
        needs: list[Value] = []

        def ref(item: Any) -> Ref | None:
            if isinstance(item, np.ndarray):
                item = without_numpy(item)
            if not isinstance(item, _VALUES):
                return None
            needs.append(self.value_of(item))
            return Ref(needs[-1].node)

        plain = tuple(from_python(arg, ref) for arg in args)
        return plain, {key: from_python(value, ref) for key, value in kwargs.items()}, needs

    # Regions: nodes that are moved into a block, see `regions.py`

    @property
    def in_region(self) -> bool:
        """Whether a branch or the body of a loop is recorded now."""
        return bool(self.tapes)

    def nodes_from(self, start: NodeId) -> list[Node]:
        """The nodes from an id on that are still part of the program."""
        return [node for node in self._nodes[start:] if node is not None]

    def take_out(self, ids: Iterable[NodeId]) -> None:
        """Take nodes out of the program: a block holds them now."""
        for id in ids:
            self._nodes[id], self._holes = None, True

    def is_gone(self, id: NodeId) -> bool:
        """Whether a node was taken out."""
        return self._nodes[id] is None

    def value_at(self, id: NodeId) -> Value:
        """The value a node makes."""
        return self._values[id]

    def note_edit(self, cell: Cell) -> None:
        """A cell is about to be edited, maybe in a branch only."""
        if self.tapes:
            self.tapes[-1].note(cell)

    def _still_here(self, value: Value) -> Value:
        if self.is_gone(value.node):
            raise gone()
        return value

    def note_output(self, module: torch.nn.Module, _: Any, output: Any) -> None:
        """A module of the user's was called on recorded values, and gave this."""
        self.outputs[module] = output

    # The end

    def check_saving(self, value: Value) -> None:
        """Refuse to save what may never be made, or is made many times."""
        self._still_here(value)
        hint = "Give the value back from it, and save the result: nl.cond(...).save()."
        refuse_inside(self, "Nothing can be saved", hint)

    def note_saved(self, value: Value) -> None:
        """A value was saved; it must come back whatever name it has."""
        self._saved[value.node] = None

    @property
    def saved(self) -> tuple[NodeId, ...]:
        """The nodes of every value that was saved, in order."""
        return tuple(self._saved)

    def finish(self, names: dict[str, NodeId]) -> Graph:
        """Close the recording. Each edited place in the model is written once, with its end value.

        names: what to save, by name.
        """
        for node, moment in self.pending():
            self.add(node, None, moment)
        self.open = False
        outputs = tuple(Output(name, node) for name, node in (*names.items(), *self.shown))
        return without_holes(self._nodes, outputs, self.places.invokes)

    def let_go(self) -> None:
        """The block is over: hold no proxies, which hold this, nor tensors of the user's."""
        self.open = False
        self._saved.clear()
        self._constants.clear()
        self._by_data.clear()
        self.outputs.clear()
        self.at_end.clear()
        self.preludes, self.session = (), None

    def so_far(self) -> Graph:
        """What has been recorded up to now, without names for what it saves."""
        outputs = tuple(Output(f"saved_{place}", node) for place, node in enumerate(self._saved))
        return drop_dead_nodes(without_holes(self._nodes, outputs, self.places.invokes))
