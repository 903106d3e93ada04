"""A saved value on its way: a structure of plain data, and the tensors it refers to.

The structure is an argument of the graph's own language (`ir.literals.Arg`) in which `Ref(i)`
stands for the i-th tensor. Torch stays outside: `executors/remote_values.py` makes tensors of
this on the client, `nnsight_lab_server.values` makes this of tensors on the server.
"""

from __future__ import annotations

from dataclasses import dataclass

from nnsight_lab.ir import TensorData
from nnsight_lab.ir.literals import Arg
from nnsight_lab.ir.nodes import argument_refs

__all__ = ["Value"]


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor, or tuples, lists and dicts of tensors and plain values."""

    structure: Arg
    tensors: tuple[TensorData, ...]

    def __post_init__(self) -> None:
        if any(not 0 <= index < len(self.tensors) for index in argument_refs(self.structure)):
            raise ValueError("the structure refers to a tensor that is not there")

    @property
    def sent_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(len(tensor.data) for tensor in self.tensors)
