"""A recorded value. It looks like a tensor without data: shapes are concrete, values are not.

Operators, methods, indexing and torch functions record nodes. Edits (`h[:, -1] += v`, `h.mul_(2)`)
go to the cell the proxy views, so that every other view and the model see them. What needs a
number at once (`if h > 0:`, `float(h)`) is refused with the line and a way round.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from nnsight_lab.errors import AddressNotFound, NotSaved, OpNotAllowed, ValueNotKnown
from nnsight_lab.ir.ops import is_op, nearest_ops
from nnsight_lab.kernels.infer import is_alias
from nnsight_lab.kernels.table import is_inplace, op_name, refused
from nnsight_lab.passes.shapes import describe
from nnsight_lab.tracing.cells import Cell, Step, Value
from nnsight_lab.tracing.source import user_line

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = ["Proxy"]

_CONCRETE = frozenset({"shape", "dtype", "ndim", "itemsize", "nbytes", "layout"})
_TRANSPOSED = frozenset({"T", "mT", "H", "mH", "real", "imag"})


class Proxy:
    """A value of the experiment, before there is one.

    Behaves as the `torch.Tensor` (or tuple, or dict of them) it will be. `.save()` asks for it
    back; `.shape` and `.dtype` are known now. After the block, saved names hold real tensors.
    """

    __slots__ = ("_cell", "_pin", "_saved", "_seen", "_steps", "_value", "recorder")
    __hash__ = object.__hash__

    def __init__(self, recorder: Recorder, cell: Cell, steps: tuple[Step, ...] = ()) -> None:
        self.recorder = recorder
        self._cell = cell
        self._steps = steps
        self._seen = -1
        self._value: Value | None = None
        self._pin: Value | None = None
        self._saved: Value | None = None

    # What it stands for

    def now(self) -> Value:
        """The value as it is at this point of the recording."""
        if self._pin is not None:
            return self._pin
        if not self._steps:
            return self._cell.value
        if self._value is None or self._seen != self._cell.version:
            self._value, self._seen = self._viewed(), self._cell.version
        return self._value

    def _viewed(self) -> Value:
        *before, (op, args, kwargs) = self._steps
        base = Proxy(self.recorder, self._cell, tuple(before))
        value = self.recorder.call(op, (base, *args), kwargs)
        assert isinstance(value, Value), "a view of a value is a value"
        return value

    def is_whole(self, cell: Cell) -> bool:
        """Whether this is all of `cell`, as after `module.output += v`."""
        return self._cell is cell and not self._steps and self._pin is None

    def views(self, base: Proxy, key: Any) -> bool:
        """Whether this is `base[key]`, up to date."""
        if self._cell is not base._cell or self._pin is not None or not self._steps:
            return False
        op, args, _ = self._steps[-1]
        same_key = op == "operator.getitem" and (args[0] is key or _same_key(args[0], key))
        return same_key and self._steps[:-1] == base._steps

    def viewed_by(self, step: Step, value: Value) -> Proxy:
        """A view of what this proxy views, one step further."""
        view = Proxy(self.recorder, self._cell, (*self._steps, step))
        if self._pin is not None:
            view._pin = value
        view._value, view._seen = value, self._cell.version
        return view

    @property
    def saved_value(self) -> Value | None:
        """The value `.save()` was called on, or None."""
        return self._saved

    @property
    def value(self) -> Any:
        """After the block: the saved tensor.

        Raises:
            NotSaved: it was not saved, or the block has not ended.
        """
        results = self.recorder.results
        if self._saved is None or self._saved.node not in results:
            raise NotSaved(
                "This value was not saved, so it did not come back.",
                hint="Call .save() on it inside the block.",
            ).at(user_line())
        return results[self._saved.node]

    def save(self) -> Proxy:
        """Ask for this value back, as it is at this line. Later edits do not change what is saved.

        Returns a recorded value that reads as it is now; after the block the name it is bound to
        holds a real tensor, and so does the name of the value it was called on.
        """
        if not self.recorder.open:
            self._ended()
        value = self.now()
        pinned = Proxy(self.recorder, self._cell, self._steps)
        pinned._pin = value
        for proxy in (self, pinned):
            proxy._saved = value
            self.recorder.note_saved(proxy)
        return pinned

    def _ended(self) -> None:
        raise NotSaved(
            "This value belongs to a block that has ended, and was not saved.",
            hint="Call .save() on it inside the block.",
        ).at(user_line())

    # Recording

    def _call(self, op: str, *args: Any, **kwargs: Any) -> Any:
        return _record(self.recorder, op, args, kwargs)

    def edit_in_place(self, new: Any) -> None:
        """Put `new` (a recorded result) in place of what this proxy views."""
        self._pin = None
        if self._steps:
            steps = tuple(self._steps)
            base = Proxy(self.recorder, self._cell)
            given = Proxy(self.recorder, Cell(new))
            new = self.recorder.call("lab.assign", (base, steps, given), {})
        self.recorder.edit(self._cell, new)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        recorder = _recorder_in((*args, *(kwargs or {}).values()))
        op = op_name(function)
        if op is None:
            raise OpNotAllowed(f"{function} has no name a graph could hold.").at(user_line())
        if op == "Tensor.__setitem__":
            raise OpNotAllowed(
                "A real tensor cannot be written to with a value that is not there yet.",
                hint="Record the copy: use torch.index_put, or write into a recorded value.",
            ).at(user_line())
        if op == "Tensor.__getitem__":
            return _record(recorder, "operator.getitem", args, kwargs or {})
        if op in ("Tensor.to", "Tensor.cpu", "Tensor.cuda"):
            return getattr(args[0], op.removeprefix("Tensor."))(*args[1:], **(kwargs or {}))
        return _record(recorder, op, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        meta = self.now().meta
        if isinstance(meta, dict) and name in meta:
            return self[name]
        if isinstance(meta, tuple) and name in getattr(meta, "_fields", ()):
            return self[meta._fields.index(name)]
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        if name in _ON_MODEL_DEVICE:
            return _ON_MODEL_DEVICE[name](self)
        if name in _CONCRETE:
            return getattr(self._known(name), name)
        if name in _TRANSPOSED:
            return self._call(f"Tensor.{name}", self)
        if not is_op(f"Tensor.{name}"):
            raise _no_attribute(name)
        return lambda *args, **kwargs: self._call(f"Tensor.{name}", self, *args, **kwargs)

    def _known(self, asked: str) -> torch.Tensor:
        meta = self.now().meta
        if isinstance(meta, torch.Tensor):
            return meta
        raise ValueNotKnown(
            f"{asked} of this value depends on what the model computes ({describe(meta)}).",
            hint="Use operations that keep a known shape, such as torch.where or topk.",
        ).at(user_line())

    def __getitem__(self, key: Any) -> Any:
        return self._call("operator.getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._pin = None
        if isinstance(value, Proxy) and value.views(self, key):
            return  # `h[k] += v` has already edited h through its view
        base = Proxy(self.recorder, self._cell)
        new = self.recorder.call("lab.set_item", (base, self._steps, key, value), {})
        self.recorder.edit(self._cell, new)

    def __iter__(self) -> Iterator[Any]:
        return iter([self[index] for index in range(len(self))])

    def __len__(self) -> int:
        meta = self.now().meta
        if isinstance(meta, tuple | list | dict):
            return len(meta)
        shape = self._known("The length").shape
        if not shape:
            raise TypeError("len() of a 0-d tensor")
        return shape[0]

    def __repr__(self) -> str:
        if self._saved is not None and self._saved.node in self.recorder.results:
            return repr(self.recorder.results[self._saved.node])
        where = f" at {self._cell.address}" if self._cell.address is not None else ""
        state = "" if self.recorder.open else ", not saved"
        return f"<recorded {describe(self.now().meta)}{where}{state}>"


def _same_key(one: Any, other: Any) -> bool:
    """Whether two index keys are the same literals; keys that hold values never are."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same_key, one, other))
    if isinstance(one, slice) and isinstance(other, slice):
        return (one.start, one.stop, one.step) == (other.start, other.stop, other.step)
    plain = (int, str, type(None), type(Ellipsis))
    return isinstance(one, plain) and type(one) is type(other) and one == other


def _recorder_in(values: Any) -> Recorder:
    """The recorder of the first recorded value among arguments."""
    stack = list(values)
    while stack:
        item = stack.pop(0)
        if isinstance(item, Proxy):
            return item.recorder
        if isinstance(item, tuple | list):
            stack[:0] = item
        elif isinstance(item, dict):
            stack[:0] = item.values()
    raise AssertionError("torch asked for an override without a recorded value")


def _record(recorder: Recorder, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record one operation and give what Python expects of it: a value, a tuple, a size."""
    if not is_op(op):
        raise refused(op).at(user_line())
    if is_inplace(op):
        return _record_inplace(recorder, op, args, kwargs)
    result = recorder.call(op, args, kwargs)
    if not isinstance(result, Value):
        return result
    base = args[0] if args and isinstance(args[0], Proxy) else None
    step: Step = (op, args[1:], kwargs)
    return _wrapped(recorder, result, base, step)


def _record_inplace(
    recorder: Recorder, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    target = args[0] if args else None
    if not isinstance(target, Proxy):
        raise OpNotAllowed(
            f"{op} would write a recorded value into a real tensor.",
            hint="Use the form without the underscore; it gives a recorded value.",
        ).at(user_line())
    target.edit_in_place(recorder.call(op, args, kwargs))
    return target


def _wrapped(recorder: Recorder, result: Value, base: Proxy | None, step: Step) -> Any:
    meta = result.meta
    if isinstance(meta, tuple | list | dict) and step[0] != "operator.getitem":
        return _unpacked(recorder, result, base, step)
    if base is not None and _is_view(base, step, meta):
        return base.viewed_by(step, result)
    return Proxy(recorder, Cell(result))


def _is_view(base: Proxy, step: Step, meta: Any) -> bool:
    whole = base.now().meta
    if step[0] == "operator.getitem" and not isinstance(whole, torch.Tensor):
        return not _holds_value(step[1])
    return is_alias(meta, whole)


def _holds_value(key: Any) -> bool:
    if isinstance(key, tuple | list):
        return any(map(_holds_value, key))
    return isinstance(key, Proxy | torch.Tensor)


def _unpacked(recorder: Recorder, result: Value, base: Proxy | None, step: Step) -> Any:
    """A tuple of results as a tuple of recorded values, so that `values, ids = h.topk(3)` works."""
    meta = result.meta
    first = meta[0] if isinstance(meta, tuple | list) and meta else None
    whole = Proxy(recorder, Cell(result))
    if base is not None and is_alias(first, base.now().meta):
        whole = base.viewed_by(step, result)
    if isinstance(meta, dict):
        return {key: whole[key] for key in meta}
    items = [whole[index] for index in range(len(meta))]
    if hasattr(meta, "_fields"):
        return type(meta)(*items)
    return type(meta)(items)


def _no_attribute(name: str) -> Exception:
    if name in _NEEDS_NUMBER:
        return _needs_number(f".{name}()" if name != "__array__" else "numpy")
    if hasattr(torch.Tensor, name):
        return refused(f"Tensor.{name}").at(user_line())
    near = nearest_ops(f"Tensor.{name}", 1)
    return AddressNotFound(
        f"A recorded value has no {name!r}.", hint=f"Nearest: {near[0]}." if near else ""
    ).at(user_line())


_NEEDS_NUMBER = frozenset({"item", "tolist", "numpy", "__array__", "allclose", "equal"})


def _needs_number(what: str) -> ValueNotKnown:
    error = ValueNotKnown(
        f"{what} needs the value itself, which is only there when the model runs.",
        hint="Save it and look after the block, or use torch.where to choose between values.",
    )
    error.at(user_line())
    return error


def _moved(proxy: Proxy, *args: Any, **kwargs: Any) -> Any:
    """`.to(...)`: values stay on the model's device, so only a dtype is recorded."""
    if args and isinstance(args[0], Proxy):
        return proxy.type_as(args[0])
    kept = [arg for arg in args if not isinstance(arg, torch.device | str | bool)]
    named = {k: v for k, v in kwargs.items() if k in ("dtype", "copy", "memory_format")}
    if not kept and not named:
        return proxy
    return _record(proxy.recorder, "Tensor.to", (proxy, *kept), named)


_ON_MODEL_DEVICE: dict[str, Any] = {
    "device": lambda proxy: torch.device("cpu"),
    "to": lambda proxy: partial(_moved, proxy),
    "cpu": lambda proxy: lambda *args, **kwargs: proxy,
    "cuda": lambda proxy: lambda *args, **kwargs: proxy,
}
"""Values live where the model is; constants from here are taken there. Moves change nothing."""

_OPERATORS = {
    "__add__": "add", "__sub__": "sub", "__mul__": "mul", "__truediv__": "div",
    "__matmul__": "matmul", "__pow__": "pow", "__neg__": "neg", "__pos__": "positive",
    "__abs__": "abs", "__lt__": "lt", "__le__": "le", "__gt__": "gt", "__ge__": "ge",
    "__eq__": "eq", "__ne__": "ne", "__iadd__": "add_", "__isub__": "sub_",
    "__imul__": "mul_", "__itruediv__": "div_",
} | {
    name: name
    for name in (
        "__and__", "__or__", "__xor__", "__invert__", "__lshift__", "__rshift__", "__mod__",
        "__floordiv__", "__radd__", "__rsub__", "__rmul__", "__rtruediv__", "__rfloordiv__",
        "__rmatmul__", "__rpow__", "__rmod__", "__rand__", "__ror__", "__rxor__", "__iand__",
        "__ior__", "__ixor__", "__ipow__", "__imod__", "__ifloordiv__", "__ilshift__",
        "__irshift__", "__rlshift__", "__rrshift__",
    )
}  # fmt: skip
_NUMBERS = {
    "__bool__": "A condition", "__int__": "int()", "__float__": "float()",
    "__complex__": "complex()", "__index__": "An index", "__contains__": "`in`",
    "__array__": "numpy",
}  # fmt: skip


def _operator(op: str) -> Any:
    def operate(self: Proxy, *args: Any) -> Any:
        return _record(self.recorder, f"Tensor.{op}", (self, *args), {})

    return operate


def _number(what: str) -> Any:
    def refuse(self: Proxy, *args: Any, **kwargs: Any) -> Any:
        raise _needs_number(what)

    return refuse


for _name, _op in _OPERATORS.items():
    setattr(Proxy, _name, _operator(_op))
for _name, _what in _NUMBERS.items():
    setattr(Proxy, _name, _number(_what))
