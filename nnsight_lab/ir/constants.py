"""The tensors a graph holds: written behind its nodes, or kept apart and named by their digest.

A file holds everything. On the wire large constants are left out: the header names each by its
digest, and who reads it has the tensor already or asks for it (docs/reference/wire.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from nnsight_lab.ir.literals import TensorData
from nnsight_lab.ir.nodes import Constant, Node, nodes_within

__all__ = ["LARGE", "ConstantWriter", "constants_of"]

LARGE = 64 * 1024
"""From this many bytes on a constant travels by itself, once, instead of in every graph."""


class ConstantWriter:
    """Writes constants as plain data and gathers the elements that follow the header.

    without: digests of the constants whose elements are left out.
    """

    def __init__(self, without: Collection[str] = ()) -> None:
        self.parts: list[bytes] = []
        self._without = without

    def plain(self, value: TensorData) -> dict[str, Any]:
        """The constant in the header; its elements are added to `parts` unless left out."""
        plain = {"kind": "constant", "dtype": value.dtype, "shape": list(value.shape)}
        if self._without and value.digest in self._without:
            return {**plain, "digest": value.digest}
        self.parts.append(value.data)
        return plain


def constants_of(nodes: Iterable[Node]) -> Iterator[TensorData]:
    """The tensors of all constants, those in blocks too."""
    for node in nodes:
        for found in nodes_within(node):
            if isinstance(found, Constant):
                yield found.value
