"""What a call means before it is recorded: its spelling, writes in place, and whether it is a view.

PyTorch lets one write the same thing in several ways: `torch.relu(input=h)`, `F.relu(h, True)`,
`F.dropout(h, training=False)`. Each becomes the one form that a graph holds.
"""

from __future__ import annotations

from typing import Any

import torch

from nnsight_lab.errors import OpNotAllowed
from nnsight_lab.kernels import Unknown
from nnsight_lab.kernels.infer import is_alias
from nnsight_lab.kernels.table import refused
from nnsight_lab.tracing.cells import Step
from nnsight_lab.tracing.source import user_line

__all__ = ["cast", "is_dropout_off", "is_view", "nameless", "not_an_op", "plainly"]

_DROPOUTS = {
    f"torch.nn.functional.{name}": training
    for name, training in (
        ("dropout", True), ("dropout1d", True), ("dropout2d", True), ("dropout3d", True),
        ("alpha_dropout", False), ("feature_alpha_dropout", False),
    )
}  # fmt: skip
"""Whether each drops values when it is not told `training`, its third parameter."""

_VIEWS = frozenset(
    "T mT H mH real imag transpose t adjoint swapaxes swapdims permute movedim moveaxis squeeze "
    "unsqueeze flatten unflatten ravel reshape reshape_as view view_as select narrow diagonal "
    "expand expand_as broadcast_to chunk split tensor_split hsplit vsplit dsplit unbind unfold "
    "detach view_as_real view_as_complex".split()
)
"""Operations whose result is a view. Shapes tell, where they are known; names, where they are not.

Where one of them must copy (a `reshape` of a turned value), a write through it is an error of the
run, never lost.
"""


def plainly(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """Arguments with the first in its place, and without a device: values stay with the model."""
    if not args and "input" in kwargs:  # torch.relu(input=h)
        args, kwargs = (kwargs["input"],), {k: v for k, v in kwargs.items() if k != "input"}
    if kwargs.get("device") is not None:
        kwargs = {key: value for key, value in kwargs.items() if key != "device"}
    return args, kwargs


def is_dropout_off(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether this is a dropout that drops nothing, as in a module after `.eval()`."""
    if op not in _DROPOUTS or not args:
        return False
    training = kwargs.get("training", args[2] if len(args) > 2 else _DROPOUTS[op])
    return training is False


def not_an_op(op: str) -> OpNotAllowed:
    """The refusal of an operation that a graph may not hold."""
    if op not in _DROPOUTS:
        return refused(op)
    return OpNotAllowed(
        f"{op} would drop values at random.", hint="Call .eval() on the module that does it."
    )


def is_view(step: Step, meta: Any, whole: Any) -> bool:
    """Whether the result of a step, of shape `meta`, is a view of a value of shape `whole`."""
    op, args, _ = step
    known = isinstance(whole, torch.Tensor) and not isinstance(meta, Unknown)
    if known:
        return is_alias(meta, whole)
    if op == "operator.getitem":
        return _is_basic(args[0])
    return op.rsplit(".", 1)[-1] in _VIEWS


def _is_basic(key: Any) -> bool:
    """Whether an index takes a view: numbers and slices do, lists and tensors copy."""
    if isinstance(key, tuple):
        return all(map(_is_basic, key))
    plain = isinstance(key, int | str | slice | None) or key is Ellipsis
    return plain and not isinstance(key, bool)


def cast(proxy: Any, dtype: Any = None) -> Any:
    """`h.type(torch.float64)`; the names of old tensor classes say a device too, and are refused."""
    if not isinstance(dtype, torch.dtype):
        raise refused("Tensor.type").at(user_line())
    return proxy.to(dtype)


def nameless(function: Any) -> OpNotAllowed:
    """The refusal of a function that PyTorch lets us see, but that is none of its operations."""
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"
    return refused(name.strip("."))
