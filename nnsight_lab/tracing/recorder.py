"""Writes the graph: nodes, shapes, the order of moments. Refuses what cannot be, at its line.

The recorder is what envoys and proxies call. It never runs a model: shapes come from the module
tree and from running operations on tensors without data.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from nnsight_lab.errors import (
    GraphError,
    LabError,
    NotSaved,
    NotSupported,
    OpNotAllowed,
    ShapeMismatch,
    SourceLine,
)
from nnsight_lab.ir import (
    Address,
    Apply,
    Call,
    Constant,
    Gradient,
    Graph,
    ModuleTree,
    Node,
    NodeId,
    Output,
    Read,
    Ref,
    TensorData,
    Weight,
    Write,
)
from nnsight_lab.kernels import Unknown, from_python, infer_call, tensor_to_data
from nnsight_lab.kernels.arguments import without_numpy
from nnsight_lab.passes.check import check_differentiable, check_fits
from nnsight_lab.passes.invokes import check_separable
from nnsight_lab.passes.live import drop_dead_nodes
from nnsight_lab.passes.schedule import AFTER, BEFORE, find_moment, too_early
from nnsight_lab.passes.shapes import infer_apply, meta_of_spec, weight_meta
from nnsight_lab.tracing.cells import Cell, Value, holds_tensor
from nnsight_lab.tracing.operators import GRADIENTS_ARE_READ
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.source import user_line

__all__ = ["Recorder"]


class Recorder:
    """One recording. `batch` and `pos` are the size of the prompt it is recorded with."""

    def __init__(self, tree: ModuleTree, batch: int = 1, pos: int = 1) -> None:
        self.tree = tree
        self.batch = batch
        self.pos = pos
        self.open = True
        self.results: dict[NodeId, Any] = {}
        self._nodes: list[Node] = []
        self._values: list[Value] = []
        self._cells: dict[tuple[Address, int | None], Cell] = {}
        self._rows: list[tuple[int, int]] = []
        self._invoke: int | None = None
        self._constants: dict[int, tuple[Value, TensorData, Any]] = {}
        self._weights: dict[tuple[str, str], Value] = {}
        self._saved: list[Proxy] = []
        self._loss: Value | None = None
        self._gradients: dict[tuple[NodeId, NodeId], Value] = {}

    # Places in the model

    def read(self, address: Address) -> Proxy:
        """The value at an address; the same cell each time, so that edits are seen."""
        return Proxy(self, self._cell(address))

    def _cell(self, address: Address) -> Cell:
        address = self.tree.one_name.get(address, address)
        key = (address, self._invoke)
        where = user_line()
        self._at(where, self._check_rows, address)
        if key not in self._cells:
            moment = self._at(where, find_moment, self.tree, address)
            spec = self.tree.by_address[address].spec
            meta = meta_of_spec(spec, self.batch, self.pos)
            if self._invoke is not None:
                self._at(where, check_separable, spec, str(address))
            node = Read(id=len(self._nodes), address=address, invoke=self._invoke, where=where)
            value = self._add(node, meta, moment, f"{address} ({where})")
            self._cells[key] = Cell(value, address)
        return self._cells[key]

    def _check_rows(self, address: Address) -> None:
        """Once a place is edited, it is used by invokes or by all rows, never by both."""
        if not self.batch:
            raise GraphError(
                "No prompt was given to this trace, and no invoke is open.",
                hint="with tracer.invoke(prompt): reads and edits that prompt's rows.",
            )
        for (at, invoke), cell in self._cells.items():
            apart = (invoke is None) != (self._invoke is None)
            if at == address and cell.version and apart:
                raise _mixed(address, invoke, self._invoke)

    def enter_invoke(self, rows: int, pos: int) -> None:
        """From here on, places are those of one more invoke: `rows` prompts of `pos` tokens."""
        self._invoke = len(self._rows)
        self._rows.append((rows, pos))
        self.batch, self.pos = rows, pos

    def enter_all_rows(self) -> None:
        """From here on, places are those of the whole batch; no prompt may follow."""
        self._invoke = None
        self.batch = sum(rows for rows, _ in self._rows)
        self.pos = max((pos for _, pos in self._rows), default=0)

    def leave_invoke(self) -> None:
        """The invoke is over; places need another one."""
        self._invoke = None
        self.batch = self.pos = 0

    def write(self, address: Address, value: Any) -> None:
        """Replace what is at an address: `module.output = value`."""
        cell = self._cell(address)
        if isinstance(value, Proxy) and value.is_whole(cell):
            return
        held = cell.value.meta
        if isinstance(value, tuple | list) and isinstance(held, tuple | list):
            self._write_items(Proxy(self, cell), value, len(held))
        else:
            self.edit(cell, self.value_of(value, like=held))

    def _write_items(self, whole: Proxy, items: tuple[Any, ...] | list[Any], count: int) -> None:
        """`module.output = (new, *rest)`: each item that is not what was there before."""
        if len(items) != count:
            raise ShapeMismatch(
                f"{whole!r} has {count} items; {len(items)} cannot replace them.",
                hint="Write one item: module.output[0] = value.",
            ).at(user_line())
        new = {
            place: Proxy(self, Cell(self.value_of(item)))
            for place, item in enumerate(items)
            if item is not None and not (isinstance(item, Proxy) and item.views(whole, place))
        }
        for place, item in new.items():
            whole[place] = item

    def edit(self, cell: Cell, new: Value) -> None:
        """Give a cell a new value, checking that a place in the model can take it.

        Raises:
            ShapeMismatch: the value does not fit the place.
            WriteTooEarly: the value is made after the model has passed the place.
        """
        where = user_line()
        if cell.fixed:
            hint = "Edit a .clone() of it, or a module's output."
            raise OpNotAllowed(cell.fixed, hint=hint).at(where)
        if cell.address is not None:
            self._at(where, check_fits, str(cell.address), cell.value.meta, new.meta)
            if new.moment > cell.value.moment:
                raise too_early(cell.address, *_place_and_line(new.read)).at(where)
            new = Value(new.node, new.meta, cell.value.moment, cell.value.read)
        cell.value = new
        cell.version += 1
        cell.edited = where

    def weight(self, path: str, name: str) -> Proxy | None:
        """A parameter of a module, or None when it has none of that name."""
        meta = weight_meta(self.tree, path, name)
        if meta is None:
            return None
        if (path, name) not in self._weights:
            node = Weight(id=len(self._nodes), path=path, name=name, where=user_line())
            self._weights[path, name] = self._add(node, meta, BEFORE)
        full = f"{path}.{name}".strip(".")
        fixed = f"{full} is a parameter of the model; a trace does not edit those."
        return Proxy(self, Cell(self._weights[path, name], fixed=fixed))

    def apply(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Proxy:
        """Call a module out of its order: `lm.lm_head(lm.norm(h))`."""
        where = user_line()
        args, kwargs, needs = self._prepared(args, kwargs)
        metas = [self._values[arg.id].meta for arg in args if isinstance(arg, Ref)]
        given = metas[0] if metas else Unknown()
        meta = self._at(where, infer_apply, self.tree, path, given, self.batch, self.pos)
        named = tuple(kwargs.items())
        node = Apply(id=len(self._nodes), path=path, args=args, kwargs=named, where=where)
        return Proxy(self, Cell(self._add(node, meta, *self._latest(needs))))

    # Operations

    def call(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value | Any:
        """Record an operation. A result without tensors (a size, a flag) is given at once.

        Raises:
            ShapeMismatch: the shapes or dtypes do not fit.
            OpNotAllowed: the operation or an argument cannot be part of a graph.
        """
        where = user_line()
        args, kwargs = without_numpy(args), without_numpy(kwargs)
        plain_args, plain_kwargs, needs = self._at(where, self._prepared, args, kwargs)
        metas = [_meta_argument(arg, self) for arg in args]
        named = {key: _meta_argument(value, self) for key, value in kwargs.items()}
        meta = self._at(where, infer_call, op, metas, named)
        if not holds_tensor(meta):
            return meta
        node = Call(
            id=len(self._nodes),
            op=op,
            args=plain_args,
            kwargs=tuple(plain_kwargs.items()),
            where=where,
        )
        return self._add(node, meta, *self._latest(needs))

    def backward(self, loss: Value) -> AbstractContextManager[None]:
        """From here on, `.grad` is the gradient of this loss.

        Raises:
            ShapeMismatch: it is not a single real number.
        """
        self._at(user_line(), check_differentiable, loss.meta, loss.meta)
        self._loss = loss
        return nullcontext()

    def gradient(self, at: Value) -> Proxy:
        """The gradient of the last loss with respect to a value; the same node each time.

        Raises:
            GraphError: nothing was gone back through yet.
        """
        where = user_line()
        loss = self._loss
        if loss is None:
            raise GraphError(
                "There is no gradient before a backward pass.",
                hint="with loss.backward(): gradient = h.grad.save()",
            ).at(where)
        self._at(where, check_differentiable, loss.meta, at.meta)
        key = (loss.node, at.node)
        if key not in self._gradients:
            node = Gradient(id=len(self._nodes), of=loss.node, at=at.node, where=where)
            self._gradients[key] = self._add(node, at.meta, AFTER, f"a gradient ({where})")
        return Proxy(self, Cell(self._gradients[key], fixed=GRADIENTS_ARE_READ))

    def value_of(self, value: Any, like: Any = None) -> Value:
        """A recorded value as it is now, or a tensor or number as a constant like `like`."""
        if isinstance(value, Proxy) and value.recorder is not self:
            if not value.came_back:
                raise NotSaved(
                    "This value belongs to another block.",
                    hint="Save it there, and use the tensor here.",
                ).at(user_line())
            value = value.value
        if isinstance(value, Proxy):
            return value.now()
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
        """A real tensor as part of the graph; the same tensor twice is one constant.

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
            node = Constant(id=len(self._nodes), value=data, where=where)
            value = self._add(node, tensor.detach().to("meta"), BEFORE)
            known = self._constants[id(tensor)] = (value, data, tensor)
        return known[0]

    def _add(self, node: Node, meta: Any, moment: int, read: str = "") -> Value:
        if not self.open:
            raise NotSaved(
                "This value belongs to a block that has ended.",
                hint="Call .save() on it inside the block.",
            ).at(user_line())
        self._nodes.append(node)
        self._values.append(Value(node.id, meta, moment, read))
        return self._values[-1]

    def _latest(self, needs: list[Value]) -> tuple[int, str]:
        latest = max(needs, key=lambda value: value.moment, default=None)
        return (latest.moment, latest.read) if latest is not None else (BEFORE, "")

    def _prepared(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], list[Value]]:
        """Arguments as graph data, and the values among them."""
        needs: list[Value] = []

        def ref(item: Any) -> Ref | None:
            if not isinstance(item, Proxy | torch.Tensor):
                return None
            needs.append(self.value_of(item))
            return Ref(needs[-1].node)

        plain = tuple(from_python(arg, ref) for arg in args)
        return plain, {key: from_python(value, ref) for key, value in kwargs.items()}, needs

    def _at(self, where: SourceLine | None, check: Any, *args: Any) -> Any:
        """Run a check; an error it raises gets the user's line."""
        try:
            return check(*args)
        except LabError as exc:
            raise exc.at(where)

    # The end

    def note_saved(self, proxy: Proxy) -> None:
        """A value was saved; it must come back whatever name it has."""
        self._saved.append(proxy)

    @property
    def saved(self) -> tuple[Proxy, ...]:
        """Every proxy that `.save()` was called on or gave, in order."""
        return tuple(self._saved)

    def finish(self, names: dict[str, NodeId]) -> Graph:
        """Close the recording. Each edited place in the model is written once, with its end value.

        names: what to save, by name.
        """
        edited = {key for key, cell in self._cells.items() if cell.version}
        for (address, invoke), cell in list(self._cells.items()):
            if invoke is not None and {(address, invoke), (address, None)} <= edited:
                raise _mixed(address, None, invoke).at(cell.edited)
            if cell.version and cell.address is not None:
                value = cell.value
                node = Write(
                    id=len(self._nodes),
                    address=cell.address,
                    value=value.node,
                    invoke=invoke,
                    where=cell.edited,
                )
                self._add(node, None, value.moment)
        self.open = False
        outputs = tuple(Output(name, node) for name, node in names.items())
        invokes = tuple(rows for rows, _ in self._rows)
        return Graph(tuple(self._nodes), outputs, invokes)

    def so_far(self) -> Graph:
        """What has been recorded up to now, without names for what it saves."""
        saved = [proxy.saved_value for proxy in self._saved]
        ids = dict.fromkeys(value.node for value in saved if value is not None)
        outputs = tuple(Output(f"saved_{place}", node) for place, node in enumerate(ids))
        invokes = tuple(rows for rows, _ in self._rows)
        return drop_dead_nodes(Graph(tuple(self._nodes), outputs, invokes))


def _rows_named(invoke: int | None) -> str:
    return "all rows" if invoke is None else f"invoke {invoke}"


def _mixed(address: Address, edited: int | None, used: int | None) -> NotSupported:
    return NotSupported(
        f"{address} is edited for {_rows_named(edited)}, and used for {_rows_named(used)}.",
        hint="Edit and read it for the same rows.",
    )


def _place_and_line(read: str) -> tuple[str, str]:
    place, _, line = read.partition(" (")
    return place, "read at " + line.removesuffix(")") if line else "read later"


def _meta_argument(arg: Any, recorder: Recorder) -> Any:
    """An argument with every value in it replaced by its shape."""
    if isinstance(arg, Proxy | torch.Tensor):
        return recorder.value_of(arg).meta
    if isinstance(arg, tuple) and hasattr(arg, "_fields"):
        return type(arg)(*(_meta_argument(item, recorder) for item in arg))
    if isinstance(arg, tuple | list):
        return type(arg)(_meta_argument(item, recorder) for item in arg)
    if isinstance(arg, dict):
        return {key: _meta_argument(item, recorder) for key, item in arg.items()}
    if isinstance(arg, slice):
        return slice(*(_meta_argument(p, recorder) for p in (arg.start, arg.stop, arg.step)))
    return arg
