"""What may stand in an argument place of a node: references and plain literals, all frozen.

Tensors are dtype, shape and raw bytes. Torch objects that are only names (dtypes, devices,
layouts) are `Name`s. Nothing here can hold a callable.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from math import prod
from types import EllipsisType
from typing import TypeAlias

__all__ = [
    "DTYPE_SIZES",
    "Arg",
    "DictArg",
    "ListArg",
    "Name",
    "Ref",
    "SliceArg",
    "Special",
    "TensorData",
    "digest_begun",
]

DTYPE_SIZES: dict[str, int] = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
}
"""Bytes per element of every dtype that may travel: dense, native, no object, no quantised."""


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of an earlier node."""

    id: int

    def __str__(self) -> str:
        return f"%{self.id}"


@dataclass(frozen=True, slots=True)
class Name:
    """A torch object that is only a name: `torch.float32`, `cpu`, `torch.strided`."""

    kind: str
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Special:
    """A float that JSON cannot write and `==` cannot compare: `nan`, `inf`, `-inf`."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class SliceArg:
    """A slice whose bounds may themselves be references."""

    start: Arg
    stop: Arg
    step: Arg


@dataclass(frozen=True, slots=True)
class ListArg:
    """A list, kept apart from a tuple because torch tells them apart."""

    items: tuple[Arg, ...]


@dataclass(frozen=True, slots=True)
class DictArg:
    """A dict with string keys."""

    items: tuple[tuple[str, Arg], ...]


@dataclass(frozen=True, slots=True)
class TensorData:
    """A dense tensor as data: dtype name, shape, and its elements row by row."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes = field(repr=False)
    _digest: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_SIZES:
            raise ValueError(f"a tensor of dtype {self.dtype} cannot be part of a graph")
        expected = prod(self.shape) * DTYPE_SIZES[self.dtype]
        if any(size < 0 for size in self.shape) or expected != len(self.data):
            raise ValueError(f"{self.dtype}{list(self.shape)} needs {expected} bytes")

    @property
    def digest(self) -> str:
        """SHA-256 of dtype, shape and elements, as hex. Computed once."""
        if not self._digest:
            running = digest_begun(self.dtype, self.shape)
            running.update(self.data)
            object.__setattr__(self, "_digest", running.hexdigest())
        return self._digest

    @staticmethod
    def checked(dtype: str, shape: tuple[int, ...], data: bytes, digest: str) -> TensorData:
        """A tensor whose digest was computed while its elements came in."""
        tensor = TensorData(dtype, shape, data)
        object.__setattr__(tensor, "_digest", digest)
        return tensor


def digest_begun(dtype: str, shape: tuple[int, ...]) -> hashlib._Hash:
    """The digest of a tensor of which the elements are still to be added, in order."""
    return hashlib.sha256(f"{dtype}{shape}".encode())


Arg: TypeAlias = (
    "Ref | Name | Special | SliceArg | ListArg | DictArg | tuple[Arg, ...] "
    "| bool | int | float | complex | str | EllipsisType | None"
)
"""Anything that may stand in an argument place."""
