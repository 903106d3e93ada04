"""Records an edit block for prompts of any size, by keeping all shapes for two sizes at once.

What is the same for both sizes is told to Python as it is. A size that differs follows the prompt:
it may be computed with, and is worked out again for each prompt the edit is replayed on. Where Python
needs it at once (`range(pos)`, `list(h)`) it is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partialmethod
from typing import Any

import torch

from nnsight_lab.errors import BadInput, GraphError, LabError, NotSupported
from nnsight_lab.ir import Apply, Call, Constant, ModuleTree, Node, Read, Ref, Weight, Write
from nnsight_lab.kernels import infer_call
from nnsight_lab.passes.check import infer_node
from nnsight_lab.tracing import Proxy, Recorder
from nnsight_lab.tracing.cells import Cell, MadeLate, Value
from nnsight_lab.tracing.source import for_the_user, user_line

__all__ = ["ON_SIZES", "EditRecorder", "PromptSize", "not_storable"]

_SIZE = (61, 1009)
_OTHER_SIZE = (67, 1013)
"""Two (batch, pos) that no model has an axis of. What differs between them follows the prompt."""

_ARITHMETIC = "add sub mul floordiv truediv mod pow"
_COMPARED = "lt le gt ge eq ne"
ON_SIZES: dict[str, Callable[..., Any]] = {
    f"operator.{name}": getattr(operator, name) for name in (*_ARITHMETIC.split(), "neg")
}
"""Operations on sizes. They are carried out when an edit is replayed, and are in no other graph."""


class EditRecorder(Recorder):
    """The recorder of an edit block."""

    def __init__(self, tree: ModuleTree) -> None:
        super().__init__(tree, *_SIZE)
        self._others: list[Any] = []

    def add(self, node: Node, meta: Any, moment: int, read: MadeLate = None) -> Value:
        """Add a node.

        Raises:
            BadInput: its value fits prompts of one size only.
            NotSupported: it is of a kind that edits do not hold.
        """
        if not isinstance(node, Read | Write | Constant | Weight | Call | Apply):
            raise not_storable(node)
        value = super().add(node, meta, moment, read)
        try:
            other = infer_node(node, self._others, self.tree, *_OTHER_SIZE)
        except LabError as exc:
            raise _one_size(exc.message).at(user_line()) from None
        if _form(other) != _form(value.meta):
            raise _one_size("The number of parts follows the size of the prompt.").at(user_line())
        self._others.append(other)
        return value

    def call(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value | Any:
        """Record an operation. A size that follows the prompt is given as a `PromptSize`."""
        found = super().call(op, args, kwargs)
        if isinstance(found, Value):
            return found
        named = {key: self._at_other_size(value) for key, value in kwargs.items()}
        other = infer_call(op, [self._at_other_size(arg) for arg in args], named)
        if isinstance(found, torch.Size) and len(found) == len(other):
            return self._shape(self.value_of(args[0]), found, other)
        if found == other:
            return found
        if type(found) is not int:
            raise _one_size("It depends on the size of the prompt.").at(user_line())
        plain, _, needs = self._prepared(args, kwargs)
        return self._size(op, plain, found, other, needs)

    def known(self, name: str, value: Value, found: Any) -> Any:
        """What is the same for every prompt, and sizes that are not as `PromptSize`s."""
        other = getattr(self._others[value.node], name)
        if name == "shape":
            return self._shape(value, found, other)
        if found != other:
            raise _one_size("It depends on the size of the prompt.").at(user_line())
        return found

    def note_saved(self, value: Value) -> None:
        """There is no run to save from."""
        raise GraphError(
            "Nothing is saved in an edit block: it does not run by itself.",
            hint="Save in a trace of the edited model; it sees the edits.",
        ).at(user_line())

    def on_sizes(self, op: str, *args: Any) -> Any:
        """Compute with sizes; what comes out the same for every prompt is a plain number."""
        both = (
            [arg.now().meta if isinstance(arg, PromptSize) else arg for arg in args],
            [self._at_other_size(arg) for arg in args],
        )
        found, other = (ON_SIZES[op](*values) for values in both)
        if found == other:
            return found
        needs = [arg.now() for arg in args if isinstance(arg, PromptSize)]
        plain = tuple(Ref(arg.now().node) if isinstance(arg, PromptSize) else arg for arg in args)
        return self._size(op, plain, found, other, needs)

    def compared(self, name: str, one: PromptSize, two: Any) -> bool:
        """A comparison of sizes that has one answer for every prompt."""
        compare: Callable[..., bool] = getattr(operator, name)
        here = two.now().meta if isinstance(two, PromptSize) else two
        found = compare(one.now().meta, here)
        if found != compare(self._at_other_size(one), self._at_other_size(two)):
            raise _one_size("The answer depends on the size of the prompt.").at(user_line())
        return found

    def _shape(self, value: Value, found: Any, other: Any) -> Any:
        if tuple(found) == tuple(other):
            return found
        sizes = enumerate(zip(found, other, strict=True))
        return tuple(
            a if a == b else self._size("Tensor.size", (Ref(value.node), axis), a, b, [value])
            for axis, (a, b) in sizes
        )

    def _size(self, op: str, args: Any, found: Any, other: Any, needs: list[Value]) -> PromptSize:
        node = Call(id=self.next_id, op=op, args=args, where=user_line())
        value = super().add(node, found, *self._latest(needs))
        self._others.append(other)
        return PromptSize(self, Cell(value))

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


class PromptSize(Proxy):
    """A size that follows the prompt, to compute with. Python cannot have it as a number."""

    __slots__ = ()
    __hash__ = object.__hash__
    recorder: EditRecorder

    def __neg__(self) -> Any:
        return self.recorder.on_sizes("operator.neg", self)

    def __repr__(self) -> str:
        return "<size of the prompt>"


def _computed(self: PromptSize, name: str, turned: bool, other: Any) -> Any:
    if not isinstance(other, int | float | PromptSize):
        return NotImplemented
    args = (other, self) if turned else (self, other)
    return self.recorder.on_sizes(f"operator.{name}", *args)


def _answered(self: PromptSize, name: str, other: Any) -> Any:
    if not isinstance(other, int | float | PromptSize):
        return NotImplemented
    try:
        return self.recorder.compared(name, self, other)
    except LabError as exc:
        failure = for_the_user(exc)
    raise failure


def _refused(self: PromptSize, *_: Any) -> Any:
    raise for_the_user(_one_size("Python needs a size of the prompt at once."))


for _name in _ARITHMETIC.split():
    setattr(PromptSize, f"__{_name}__", partialmethod(_computed, _name, False))
    setattr(PromptSize, f"__r{_name}__", partialmethod(_computed, _name, True))
for _name in _COMPARED.split():
    setattr(PromptSize, f"__{_name}__", partialmethod(_answered, _name))
for _name in ("int", "index", "float", "bool", "len", "iter", "getitem"):
    setattr(PromptSize, f"__{_name}__", _refused)


def not_storable(node: Node) -> NotSupported:
    """The refusal of a node that an edit cannot hold."""
    what = type(node).__name__.lower()
    return NotSupported(
        f"A {what} cannot be part of a stored edit.",
        hint="Reads, operations and edits can; write the rest in the trace itself.",
    ).at(node.where)


def _form(meta: Any) -> Any:
    if isinstance(meta, tuple | list):
        return tuple(map(_form, meta))
    if isinstance(meta, dict):
        return {key: _form(item) for key, item in meta.items()}
    return (meta.dim(), meta.dtype) if isinstance(meta, torch.Tensor) else repr(meta)


def _one_size(what: str) -> BadInput:
    return BadInput(
        f"An edit block holds for prompts of any size. {what}",
        hint="Use operations that fit every prompt: slices, flatten, zeros_like, negative positions.",
    )
