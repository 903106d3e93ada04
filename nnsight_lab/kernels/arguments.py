"""Graph arguments to Python objects and back.

Torch's named objects (dtypes, devices, layouts, memory formats) are names in a graph and objects
in Python; references become values through a lookup the caller gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import EllipsisType
from typing import Any

import numpy as np
import torch

from nnsight_lab.errors import OpNotAllowed
from nnsight_lab.ir.literals import Arg, DictArg, ListArg, Name, Ref, SliceArg, Special

__all__ = ["from_python", "to_python", "without_numpy"]

_NAMED: dict[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}

_ITSELF = frozenset({type(None), bool, int, str, complex, EllipsisType})
"""Types of arguments that are the same in Python and in a graph. Most are, so they are asked first."""


def to_python(arg: Arg, value_of: Callable[[int], Any]) -> Any:
    """The Python object behind an argument; `value_of` gives the value of a node."""
    if type(arg) in _ITSELF:
        return arg
    match arg:
        case Ref(id=id):
            return value_of(id)
        case Name(kind=kind, name=name):
            return _object(kind, name)
        case Special(name=name):
            return float(name)
        case SliceArg(start=start, stop=stop, step=step):
            return slice(*(to_python(part, value_of) for part in (start, stop, step)))
        case ListArg(items=items):
            return [to_python(item, value_of) for item in items]
        case DictArg(items=pairs):
            return {key: to_python(item, value_of) for key, item in pairs}
        case tuple() as items:
            return tuple(to_python(item, value_of) for item in items)
        case _:
            return arg


def _object(kind: str, name: str) -> Any:
    found = vars(torch).get(name.removeprefix("torch."))
    if not isinstance(found, _NAMED.get(kind, ())):
        raise OpNotAllowed(f"torch has no {kind} called {name!r}.")
    return found


def from_python(value: Any, ref: Callable[[Any], Ref | None]) -> Arg:
    """A Python object as an argument. `ref` names what is a recorded value or a tensor.

    Raises:
        OpNotAllowed: the object cannot be part of a graph.
    """
    if type(value) in _ITSELF:
        return value  # type: ignore[no-any-return]
    if isinstance(value, np.generic):
        value = value.item()
    found = ref(value)
    if found is not None:
        return found
    match value:
        case bool() | int() | str() | complex():
            return value
        case float():
            return value if math.isfinite(value) else Special(str(value))
        case slice():
            parts = (value.start, value.stop, value.step)
            return SliceArg(*(from_python(part, ref) for part in parts))
        case list():
            return ListArg(tuple(from_python(item, ref) for item in value))
        case tuple():
            return tuple(from_python(item, ref) for item in value)
        case dict():
            pairs = ((str(key), from_python(item, ref)) for key, item in value.items())
            return DictArg(tuple(pairs))
        case range():
            return ListArg(tuple(value))
    for kind, cls in _NAMED.items():
        if isinstance(value, cls):
            return Name(kind, str(value))
    raise OpNotAllowed(
        f"A {type(value).__name__} cannot be part of a graph.",
        hint="Pass tensors, numbers, strings, slices, or recorded values.",
    )


def without_numpy(value: Any) -> Any:
    """Numpy's numbers as Python's and its arrays as tensors, wherever they stand."""
    if type(value) in _ITSELF:
        return value
    match value:
        case np.generic():
            return value.item()
        case np.ndarray() if value.dtype.kind in "biufc":
            return torch.tensor(value)
        case slice():
            return slice(*map(without_numpy, (value.start, value.stop, value.step)))
        case list():
            return [without_numpy(item) for item in value]
        case tuple() if type(value) is tuple:
            return tuple(without_numpy(item) for item in value)
        case dict():
            return {key: without_numpy(item) for key, item in value.items()}
        case _:
            return value
