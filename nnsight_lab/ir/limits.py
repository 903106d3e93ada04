"""How large a graph from elsewhere may be. Checked before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a graph in bytes, nodes and depths; `nodes` counts those in blocks too."""

    bytes: int = 256 * 2**20
    header_bytes: int = 32 * 2**20
    nodes: int = 200_000
    outputs: int = 20_000
    argument_depth: int = 16
    block_depth: int = 8
    text: int = 4_096
    items: int = 8_000_000
