"""Saved values to bytes: the one place of the server where a tensor is touched.

The way back is `nnsight_lab.executors.remote_values`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from nnsight_lab.errors import NotSupported
from nnsight_lab.ir import DictArg, ListArg, Ref, Special
from nnsight_lab.ir.literals import Arg
from nnsight_lab.kernels.tensors import tensor_to_data
from nnsight_lab.wire import Value

__all__ = ["taken_apart", "to_wire"]

_BIGGEST_INT = 2**63


def to_wire(name: str, value: Any) -> Value:
    """A saved value as structure and bytes.

    Raises:
        NotSupported: it holds something that does not travel.
    """
    structure, tensors = taken_apart(name, value)
    try:
        return Value(structure, tuple(map(tensor_to_data, tensors)))
    except ValueError as exc:
        raise NotSupported(f"{name!r} cannot be sent: {exc}.") from exc


def taken_apart(name: str, value: Any) -> tuple[Arg, list[torch.Tensor]]:
    """A saved value as structure, and the tensors it refers to as they are.

    Raises:
        NotSupported: it holds something that does not travel.
    """
    tensors: list[torch.Tensor] = []
    return _structure(name, value, tensors), tensors


def _structure(name: str, value: Any, tensors: list[torch.Tensor]) -> Arg:
    match value:
        case torch.Tensor():
            tensors.append(value)
            return Ref(len(tensors) - 1)
        case float() if not math.isfinite(value):
            return Special("nan" if math.isnan(value) else "inf" if value > 0 else "-inf")
        case int() if -_BIGGEST_INT <= value < _BIGGEST_INT:
            return value
        case None | bool() | float() | str() | complex():
            return value
        case tuple():
            return tuple(_structure(name, item, tensors) for item in value)
        case list():
            return ListArg(tuple(_structure(name, item, tensors) for item in value))
        case Mapping():
            pairs = ((str(key), _structure(name, item, tensors)) for key, item in value.items())
            return DictArg(tuple(pairs))
    raise NotSupported(
        f"{name!r} holds a {type(value).__name__}, which does not travel.",
        hint="Save tensors, or tuples, lists and dicts of them.",
    )
