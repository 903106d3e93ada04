"""Where a value lives in a model: a path, a port, and which call of the module.

A path is either the model's own module path (`model.layers.0.self_attn`) or a standard name
(`layers.0.attn`); both are resolved by the host that runs the graph, never here.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Address"]


class Address(NamedTuple):
    """A place in a model. A named tuple, because tables of places are asked all the time.

    path: module path or standard name; `""` is the model itself.
    port: `input`, `output`, or a standard port such as `q`, `z`, `pattern`, `neurons`.
    call: which call of the module within one forward pass, from 0.
    """

    path: str
    port: str = "output"
    call: int = 0

    def __str__(self) -> str:
        name = f"{self.path}.{self.port}" if self.path else self.port
        return f"{name}#{self.call}" if self.call else name
