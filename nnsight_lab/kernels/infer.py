"""Shapes and dtypes of a call, found by running it on tensors without data.

`torch`'s meta tensors know shape, dtype and which tensor they are a view of, and cost microseconds.
What depends on values (`nonzero`, a boolean mask as index) is `Unknown`, and so is all that
follows from it. What is plainly wrong raises, with torch's own words, before anything runs.
"""

from __future__ import annotations

from typing import Any

import torch

from nnsight_lab.errors import ShapeMismatch
from nnsight_lab.kernels.table import kernel

__all__ = ["Unknown", "infer_call", "is_alias", "map_tensors", "meta_like"]


class Unknown:
    """The shape of a value that only a run can tell."""

    _only: Unknown | None = None

    def __new__(cls) -> Unknown:
        if cls._only is None:
            cls._only = super().__new__(cls)
        return cls._only

    def __repr__(self) -> str:
        return "unknown shape"


_VALUE_DEPENDENT = (
    "nonzero",
    "meta tensors",
    "Meta tensor",
    "meta tensor",
    "data-dependent",
    "output shape",
    "meta device",
    "device meta",
    "FakeTensor",
    "'Meta' backend",
)
_DEVICE_MOVES = frozenset({"Tensor.cpu", "Tensor.to"})


def map_tensors(value: Any, change: Any) -> Any:
    """`value` with `change` applied to every tensor inside tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(item, change) for item in value)
    if isinstance(value, dict):
        return {key: map_tensors(item, change) for key, item in value.items()}
    return value


def meta_like(value: Any) -> Any:
    """`value` with every tensor replaced by one without data."""
    return map_tensors(value, lambda tensor: tensor.detach().to("meta"))


def _holds_unknown(value: Any) -> bool:
    if isinstance(value, Unknown):
        return True
    if isinstance(value, tuple | list):
        return any(map(_holds_unknown, value))
    if isinstance(value, dict):
        return any(map(_holds_unknown, value.values()))
    if isinstance(value, slice):
        return any(map(_holds_unknown, (value.start, value.stop, value.step)))
    return False


def _without_device(op: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """A move to a device keeps the shape; leave the device out and keep the dtype."""
    if op == "Tensor.cpu":
        return args[:1], {}
    devices = (torch.device, str)
    kept = tuple(arg for arg in args[1:] if not isinstance(arg, devices))
    named = {key: value for key, value in kwargs.items() if key != "device"}
    return (args[0], *kept), named


def infer_call(op: str, args: Any, kwargs: Any) -> Any:
    """The result of a call on meta tensors, or `Unknown`.

    Raises:
        ShapeMismatch: torch refuses these shapes or dtypes.
        OpNotAllowed: `op` is not in the op table.
    """
    function = kernel(op)
    if _holds_unknown(args) or _holds_unknown(kwargs):
        return Unknown()
    if op in _DEVICE_MOVES:
        args, kwargs = _without_device(op, args, kwargs)
        if op == "Tensor.cpu" or (len(args) == 1 and not kwargs):
            return args[0]
    try:
        return function(*args, **kwargs)
    except NotImplementedError:
        return Unknown()
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AssertionError) as exc:
        words = str(exc)
        if any(sign in words for sign in _VALUE_DEPENDENT):
            return Unknown()
        raise ShapeMismatch(_refusal(op, (*args, *kwargs.values()), words)) from exc


def _refusal(op: str, args: Any, words: str) -> str:
    """Which shapes an operation was given, and torch's own first sentence on why it cannot."""
    given = " and ".join(
        f"{str(arg.dtype).removeprefix('torch.')}{list(arg.shape)}"
        for arg in args
        if isinstance(arg, torch.Tensor)
    )
    reason = next((line.strip() for line in words.splitlines() if line.strip()), "no reason given")
    return f"{op} cannot take {given}: {reason}" if given else f"{op}: {reason}"


def is_alias(first: Any, second: Any) -> bool:
    """Whether two meta tensors share their storage, so that a write to one reaches the other."""
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        return False
    ours: int = first.untyped_storage()._cdata
    theirs: int = second.untyped_storage()._cdata
    return ours == theirs
