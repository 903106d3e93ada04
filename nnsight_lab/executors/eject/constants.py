"""Tensors of a graph as Python: literals where they are short, base64 at the end where not."""

from __future__ import annotations

import base64
import math
import struct
import textwrap
from typing import Any

from nnsight_lab.ir import TensorData
from nnsight_lab.kernels import tensor_from_data

__all__ = ["Constants", "literal"]

_SHORT = 12
"""Tensors of up to so many elements are written out."""


def literal(data: TensorData, device: str = "device") -> str | None:
    """A short tensor, or one that is the same number everywhere, as an expression; else None."""
    values = tensor_from_data(data)
    numbers = values.reshape(-1).tolist() if values.numel() else []
    dtype = f"dtype=torch.{data.dtype}, device={device}"
    if not numbers:
        return f"torch.empty({_shape(data)}, {dtype})"
    if len(numbers) > 1 and all(map(_same_as(numbers[0]), numbers)):
        return f"torch.full({_shape(data)}, {_number(numbers[0], data.dtype)}, {dtype})"
    if len(numbers) > _SHORT:
        return None
    return f"torch.tensor({_nested(values.tolist(), data.dtype)}, {dtype})"


def _shape(data: TensorData) -> str:
    return f"({', '.join(map(str, data.shape))}{',' if len(data.shape) == 1 else ''})"


def _same_as(first: Any) -> Any:
    """Equal in every bit: 0.0 is not -0.0."""
    return lambda other: repr(other) == repr(first)


def _nested(value: Any, dtype: str) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_nested(item, dtype) for item in value)}]"
    return _number(value, dtype)


def _number(value: Any, dtype: str) -> str:
    if not isinstance(value, float):
        return repr(value)
    if not math.isfinite(value):
        return f'float("{value}")'
    if dtype == "float32":
        for digits in range(1, 10):
            short = float(f"{value:.{digits}g}")
            if abs(short) < 3e38 and struct.pack("<f", short) == struct.pack("<f", value):
                return repr(short)
    return repr(value)


class Constants:
    """The constants of one program; long ones are gathered for its end."""

    def __init__(self) -> None:
        self._long: dict[str, TensorData] = {}

    @property
    def any_long(self) -> bool:
        """Whether any stands at the end, so that the program needs to read it."""
        return bool(self._long)

    def expression(self, name: str, data: TensorData) -> str:
        """The expression for a constant that is called `name`."""
        short = literal(data)
        if short is not None:
            return short
        self._long[name] = data
        return f'constant("{name}").to(device)'

    def at_the_end(self) -> list[str]:
        """The long ones, as one table of the module."""
        if not self._long:
            return []
        lines = [
            "# Tensors of the experiment: dtype, shape, and their bytes in base64.",
            "DATA = {",
        ]
        for name, data in self._long.items():
            lines.append(f'    "{name}": (torch.{data.dtype}, {_shape(data)},')
            text = base64.b64encode(data.data).decode("ascii")
            lines += [f'        "{part}"' for part in textwrap.wrap(text, 86)]
            lines.append("    ),")
        return [*lines, "}"]
