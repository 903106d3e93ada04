"""Saved values to bytes: the one place of the server where a tensor is touched.

The way back is `nnsight_lab.executors.remote_values`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from nnsight_lab.errors import NotSupported
from nnsight_lab.ir import DictArg, ListArg, Ref, Special, TensorData
from nnsight_lab.ir.literals import Arg
from nnsight_lab.kernels.tensors import tensor_to_data
from nnsight_lab.wire import Value

__all__ = ["to_wire"]

_BIGGEST_INT = 2**63


def to_wire(name: str, value: Any) -> Value:
    """A saved value as structure and bytes.

    Raises:
        NotSupported: it holds something that does not travel.
    """
    tensors: list[TensorData] = []
    return Value(_structure(name, value, tensors), tuple(tensors))


def _structure(name: str, value: Any, tensors: list[TensorData]) -> Arg:
    match value:
        case torch.Tensor():
            try:
                tensors.append(tensor_to_data(value))
            except ValueError as exc:
                raise NotSupported(f"{name!r} cannot be sent: {exc}.") from exc
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
