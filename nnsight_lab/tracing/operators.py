"""What Python's operators, conversions and attributes mean on a recorded value: tables, refusals.

`give_operators` turns the tables into methods of the recorded value. What is not here and not in the op table is
refused, with the nearest thing that is allowed.
"""

from __future__ import annotations

from typing import Any

import torch

from nnsight_lab.errors import AddressNotFound, LabError, ValueNotKnown
from nnsight_lab.ir.ops import nearest_ops
from nnsight_lab.kernels.table import refused
from nnsight_lab.tracing.source import one_frame, user_line

__all__ = [
    "CONCRETE",
    "METHODS_OF_NUMBERS",
    "NO_LENGTH",
    "NUMBERS",
    "OPERATORS",
    "TRANSPOSED",
    "give_operators",
    "needs_number",
    "no_attribute",
]

CONCRETE = frozenset({
    "shape", "dtype", "ndim", "itemsize", "nbytes", "layout",
    "is_sparse", "is_nested", "is_quantized", "is_cuda",
})  # fmt: skip
"""Attributes that are known while recording."""

TRANSPOSED = frozenset({"T", "mT", "H", "mH", "real", "imag"})
"""Attributes that are operations."""

OPERATORS = {
    "__add__": "add", "__sub__": "sub", "__mul__": "mul", "__truediv__": "div",
    "__matmul__": "matmul", "__pow__": "pow", "__neg__": "neg", "__pos__": "positive",
    "__abs__": "abs", "__lt__": "lt", "__le__": "le", "__gt__": "gt", "__ge__": "ge",
    "__eq__": "eq", "__ne__": "ne", "__iadd__": "add_", "__isub__": "sub_",
    "__imul__": "mul_", "__itruediv__": "div_", "__rdiv__": "__rtruediv__",
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
"""Python's operators, and the tensor method each is."""

NUMBERS = {
    "__bool__": "A condition", "__int__": "int()", "__float__": "float()",
    "__complex__": "complex()", "__index__": "An index", "__array__": "numpy",
    "__round__": "round()", "__reduce_ex__": "Pickling",
}  # fmt: skip
"""Conversions that need the number itself, in the words of the refusal."""

METHODS_OF_NUMBERS = frozenset({"item", "tolist", "numpy", "allclose", "equal", "is_nonzero"})
"""Methods that need the number itself."""


def needs_number(what: str) -> ValueNotKnown:
    """The refusal of something that needs the value at once."""
    hint = "Choose between values with torch.where or nl.cond, or save it and look after the block."
    if what == NUMBERS["__reduce_ex__"]:
        hint = "Save it: after the block it is a tensor, which can be pickled."
    error = ValueNotKnown(
        f"{what} needs the value itself, which is only there when the model runs.", hint=hint
    )
    error.at(user_line())
    return error


def no_attribute(name: str) -> LabError:
    """The refusal of an attribute that a recorded value does not have."""
    if name in METHODS_OF_NUMBERS:
        return needs_number(f".{name}()")
    if hasattr(torch.Tensor, name):
        return refused(f"Tensor.{name}").at(user_line())
    near = nearest_ops(f"Tensor.{name}", 1)
    return AddressNotFound(
        f"A recorded value has no {name!r}.", hint=f"Nearest: {near[0]}." if near else ""
    ).at(user_line())


NO_LENGTH = (
    "len() of a 0-d tensor. (Where other code needs the number, give it int(value) or value.item():"
    " tokenizer.decode(int(id)). Where torch.tensor would make one value of several, use"
    " torch.stack.)"
)
"""What Python is told of a value without axes; a tokenizer and `torch.tensor` ask for its length."""


_WAYS_IN = (
    "__getattr__", "__getitem__", "__setitem__", "__iter__", "__contains__", "__format__",
    "__len__", "__str__", "save", "backward",
)  # fmt: skip


def give_operators(recorded: type, converted: Any) -> None:
    """Give a class Python's operators, which record, and conversions, which need the number.

    converted: what a conversion gives while the block is recorded (`conversions.py`).
    These and the other ways into it let an error out at the user's line, in one frame.
    """
    for name, op in OPERATORS.items():
        setattr(recorded, name, one_frame(_operator(op)))
    for name, what in NUMBERS.items():
        setattr(recorded, name, one_frame(_number(name, what, converted)))
    for name in _WAYS_IN:
        setattr(recorded, name, one_frame(getattr(recorded, name)))


def _operator(op: str) -> Any:
    def operate(self: Any, *args: Any) -> Any:
        return self.recorder.record(f"Tensor.{op}", (self, *args), {})

    return operate


def _number(name: str, what: str, converted: Any) -> Any:
    def convert(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.came_back or not self.recorder.open:
            return getattr(self.value, name)(*args, **kwargs)
        return converted(self, name, what, *args, **kwargs)

    return convert
