"""A recorded value. It looks like a tensor without data: shapes are concrete, values are not.

Operators, methods, indexing and torch functions record nodes. Edits (`h[:, -1] += v`, `h.mul_(2)`)
go to the cell the proxy views, so that every other view and the model see them. What needs a
number at once (`if h > 0:`, `float(h)`, `print(h)`) is a peek: see `peeks.py`. `repr` never is.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from nnsight_lab.errors import LabError, NotSaved, OpNotAllowed, ValueNotKnown
from nnsight_lab.ir import NodeId
from nnsight_lab.ir.ops import is_op
from nnsight_lab.kernels.table import (
    op_name,
)
from nnsight_lab.passes.shapes import describe
from nnsight_lab.tracing.calls import cast, nameless
from nnsight_lab.tracing.cells import Cell, Step, Value, same_key
from nnsight_lab.tracing.conversions import contains, converted, shape_of, text_of
from nnsight_lab.tracing.fields import field_named
from nnsight_lab.tracing.numpy_values import numpy_function
from nnsight_lab.tracing.operators import (
    CONCRETE,
    METHODS_OF_NUMBERS,
    NO_LENGTH,
    TRANSPOSED,
    give_operators,
    no_attribute,
)
from nnsight_lab.tracing.source import one_frame, user_line

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = ["Proxy", "after", "did_not_happen"]


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
        old = self._value is None or self.recorder.is_gone(self._value.node)
        if self._value is None or old or self._seen != self._cell.version:
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

    def is_from_before(self, moved: Container[NodeId]) -> bool:
        """Whether what this views is a place outside a region whose nodes are `moved`."""
        return self._cell.value.node not in moved

    def views(self, base: Proxy, key: Any) -> bool:
        """Whether this is `base[key]`, up to date."""
        if self._cell is not base._cell or self._pin is not None or not self._steps:
            return False
        op, args, _ = self._steps[-1]
        same = op == "operator.getitem" and (args[0] is key or same_key(args[0], key))
        return same and self._steps[:-1] == base._steps

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
    def came_back(self) -> bool:
        """Whether the block has ended and this value was saved: from then on it is its tensor."""
        return self._saved is not None and self._saved.node in self.recorder.results

    @property
    @one_frame
    def value(self) -> Any:
        """After the block: the saved tensor.

        Raises:
            NotSaved: it was not saved, or the block has not ended.
        """
        results = self.recorder.results
        if self._saved is not None and self._saved.node in self.recorder.missing:
            raise did_not_happen()
        if self._saved is not None and self._saved.node not in results:
            raise self._did_not_run()
        if self._saved is None:
            raise _not_saved("This value was not saved, so it did not come back.")
        return results[self._saved.node]

    def save(self) -> Proxy:
        """Ask for this value back, as it is at this line. Later edits do not change what is saved.

        Returns a recorded value that reads as it is now; after the block the name it is bound to
        holds a real tensor, and so does the name of the value it was called on.
        """
        if not self.recorder.open:
            raise _not_saved(_ENDED)
        value = self.now()
        self.recorder.check_saving(value)
        pinned = Proxy(self.recorder, self._cell, self._steps)
        pinned._pin = value
        self._saved = pinned._saved = value
        self.recorder.note_saved(value)
        return pinned

    def _call(self, op: str, *args: Any, **kwargs: Any) -> Any:
        return self.recorder.record(op, args, kwargs)

    def backward(self, gradient: Any = None, **options: Any) -> AbstractContextManager[None]:
        """Go back from this number: from here on `.grad` is its gradient, in a `with` or not.

        gradient: what to go back with, for a value of many numbers; it has the value's shape.
        The weights' own `.grad` stays as it is. A second call starts anew, and adds nothing up.
        """
        return self.recorder.backwards.begin(self, gradient, options)

    @property
    @one_frame
    def grad(self) -> Any:
        """The gradient at this value, of the number last gone back from.

        It may be edited (`h.grad[:] = 0`) and replaced: what lies further back gets the new one.
        """
        return self.value.grad if self.came_back else self.recorder.backwards.gradient(self.now())

    @grad.setter
    @one_frame
    def grad(self, value: Any) -> None:
        self.recorder.backwards.replace(self.now(), value)

    def unpin(self) -> None:
        """An edit through a saved value goes to the place itself, as it is now."""
        self._pin = None

    def edit_in_place(self, new: Any) -> None:
        """Put `new` (a recorded result) in place of what this proxy views."""
        if self._steps:
            base, given = (Proxy(self.recorder, cell) for cell in (self._cell, Cell(new)))
            new = self.recorder.call("lab.assign", (base, self._steps, given), {})
        self.recorder.places.edit(self._cell, new)

    @one_frame
    def __array_ufunc__(self, function: Any, method: str, *args: Any, **options: Any) -> Any:
        args = args if self.recorder.open else after(args)
        return numpy_function(function, method, args, options)

    @classmethod
    @one_frame
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        recorder = _recorder_in((*args, *(kwargs or {}).values()))
        if not recorder.open:
            return function(*after(args), **after(kwargs or {}))
        op = op_name(function)
        if op is None:
            raise nameless(function).at(user_line())
        if op == "Tensor.__setitem__":
            raise OpNotAllowed(
                "A real tensor cannot be written to with a value that is not there yet.",
                hint="Record the copy: use torch.index_put, or write into a recorded value.",
            ).at(user_line())
        if op == "Tensor.__getitem__":
            op = "operator.getitem"
        return recorder.record(op, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        if self.came_back:
            return getattr(self.value, name)
        meta = self.now().meta
        if isinstance(meta, dict) and name in meta:
            return self[name]
        if isinstance(meta, dict) and name in ("keys", "values", "items"):
            return getattr({key: self[key] for key in meta}, name)
        fields: tuple[str, ...] = getattr(meta, "_fields", ())
        if name in fields:
            return self[fields.index(name)]
        if name in _ON_MODEL_DEVICE:
            return _ON_MODEL_DEVICE[name](self)
        if name in CONCRETE:
            return self.recorder.known(name, self.now(), getattr(self._known(name), name))
        if name in TRANSPOSED:
            return self._call(f"Tensor.{name}", self)
        needs_number = name in METHODS_OF_NUMBERS and self.recorder.peeks is not None
        if not is_op(f"Tensor.{name}") and not needs_number:
            raise no_attribute(name) if self.recorder.open else self._why_not_here()
        return one_frame(partial(self._call, f"Tensor.{name}", self))

    def _state(self) -> str:
        missing = self._saved is not None and self._saved.node in self.recorder.missing
        return ", its step did not happen" if missing else ", not saved"

    def _why_not_here(self) -> LabError:
        missing = self._saved is not None and self._saved.node in self.recorder.missing
        return did_not_happen() if missing else _not_saved(_ENDED)

    def _did_not_run(self) -> LabError:
        if self.recorder.open:
            return NotSaved(
                "A saved value has no tensor before its block ends.",
                hint="Look at it after the block; print(value) and float(value) look at once.",
            ).at(user_line())
        return NotSaved(
            "This value was saved, but its block did not run to its end.",
            hint="See the error of that block; one with execute=False runs by lm.run(graph, …).",
        ).at(user_line())

    def _known(self, asked: str) -> torch.Tensor:
        meta = shape_of(self)
        if isinstance(meta, torch.Tensor):
            return meta
        raise ValueNotKnown(
            f"{asked} of this value depends on what the model computes ({describe(meta)}).",
            hint="Use operations that keep a known shape, such as torch.where or topk.",
        ).at(user_line())

    def __getitem__(self, key: Any) -> Any:
        return self._call("operator.getitem", self, field_named(self.now().meta, key))

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.came_back:
            self.value[key] = after(value)
            return
        self.unpin()
        if isinstance(value, Proxy) and value.views(self, key):
            return  # `h[k] += v` has already edited h through its view
        self.recorder.modes.note_write()
        key = field_named(self.now().meta, key)
        base = Proxy(self.recorder, self._cell)
        new = self.recorder.call("lab.set_item", (base, self._steps, key, value), {})
        self.recorder.places.edit(self._cell, new)

    def __iter__(self) -> Iterator[Any]:
        meta = self.now().meta
        keys = meta if isinstance(meta, dict) else [self[index] for index in range(len(self))]
        return iter(keys)

    def __contains__(self, item: object) -> bool:
        meta = self.now().meta
        if self.came_back or isinstance(meta, dict):
            return item in (self.value if self.came_back else meta)
        return contains(self, item)

    def __deepcopy__(self, memo: Any) -> Any:
        return self.clone()

    def __copy__(self) -> Proxy:
        return self

    def __format__(self, spec: str) -> str:
        if self.came_back:
            return format(self.value, spec)
        if self.recorder.peeks is None and not spec:
            return repr(self)
        return str(converted(self, "__format__", "A format", spec))

    def __str__(self) -> str:
        return str(self.value) if self.came_back else text_of(self)

    def __len__(self) -> int:
        if self.came_back:
            return len(self.value)
        meta = self.now().meta
        if isinstance(meta, tuple | list | dict):
            return len(meta)
        shape = self.recorder.known("shape", self.now(), self._known("The length").shape)
        if not shape:
            raise TypeError(NO_LENGTH)
        return int(shape[0])

    def __repr__(self) -> str:
        if self.came_back:
            return repr(self.value)
        where = f" at {self._cell.address}" if self._cell.address is not None else ""
        state = "" if self.recorder.open else self._state()
        return f"<recorded {describe(self.now().meta)}{where}{state}>"


_ENDED = "This value belongs to a block that has ended, and was not saved."


def _not_saved(message: str) -> LabError:
    return NotSaved(message, hint="Call .save() on it inside the block.").at(user_line())


def did_not_happen() -> LabError:
    """The error for a value of a step that a generation did not come to."""
    return NotSaved(
        "The step of this value did not happen: the text ended before it.",
        hint="tracer.run.steps says how many steps ran; lists hold those only.",
    ).at(user_line())


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


def after(value: Any) -> Any:
    """What a value is once its block has ended: its tensor, wherever it stands in containers.

    Raises:
        NotSaved: it was not saved.
    """
    if isinstance(value, Proxy):
        return value.value
    if isinstance(value, tuple | list):
        return type(value)(map(after, value))
    if isinstance(value, dict):
        return {key: after(item) for key, item in value.items()}
    return value


def _moved(proxy: Proxy, *args: Any, **kwargs: Any) -> Any:
    """`.to(...)`: values stay on the model's device, so only a dtype is recorded."""
    if args and isinstance(args[0], Proxy):
        return proxy.type_as(args[0])
    kept = [arg for arg in args if not isinstance(arg, torch.device | str | bool)]
    named = {k: v for k, v in kwargs.items() if k in ("dtype", "copy", "memory_format")}
    if not kept and not named:
        return proxy
    return proxy.recorder.record("Tensor.to", (proxy, *kept), named)


_ON_MODEL_DEVICE: dict[str, Any] = {
    "device": lambda proxy: torch.device("cpu"),
    "to": lambda proxy: partial(_moved, proxy),
    "cpu": lambda proxy: lambda *args, **kwargs: proxy,
    "cuda": lambda proxy: lambda *args, **kwargs: proxy,
    "type": lambda proxy: partial(cast, proxy),
}
"""Values live where the model is; constants from here are taken there. Moves change nothing."""

give_operators(Proxy, converted)
