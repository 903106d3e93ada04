"""Saved values from the wire to torch: the client's half of `nnsight_lab_server.values`.

Each tensor owns its memory and has the dtype it had on the server.
"""

from __future__ import annotations

from typing import Any

from nnsight_lab.ir import DictArg, ListArg, Ref, Special
from nnsight_lab.ir.literals import Arg
from nnsight_lab.kernels.tensors import tensor_from_data
from nnsight_lab.wire import Value

__all__ = ["from_wire"]


def from_wire(value: Value) -> Any:
    """Tensors, tuples, lists and dicts, as they were saved."""
    return _python(value.structure, value)


def _python(arg: Arg, value: Value) -> Any:
    match arg:
        case Ref(id=index):
            return tensor_from_data(value.tensors[index])
        case Special(name=name):
            return float(name)
        case ListArg(items=items):
            return [_python(item, value) for item in items]
        case DictArg(items=pairs):
            return {key: _python(item, value) for key, item in pairs}
        case tuple() as items:
            return tuple(_python(item, value) for item in items)
        case _:
            return arg
