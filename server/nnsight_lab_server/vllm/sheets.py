"""`Sheet`: what has come by of one moment of a run, until every row of it is there.

A forward pass of a run may be spread over several steps of the engine: a long prompt comes in
chunks, and prompts of one batch come at different times. The graph knows nothing of that. Rows are
written down where they belong, and the moment is handed over when it is whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from nnsight_lab.ir import Address
from nnsight_lab_server.vllm.rows import Piece

__all__ = ["Layout", "Sheet"]


@dataclass(frozen=True, slots=True)
class Layout:
    """The rows and positions of one forward pass: `pads[row]` columns before a row's first."""

    pads: tuple[int, ...]
    width: int

    @property
    def batch(self) -> int:
        """How many rows."""
        return len(self.pads)


@dataclass(slots=True)
class Sheet:
    """The values of one moment by address, `[batch, width, …]`, and which rows are there."""

    layout: Layout
    values: dict[Address, torch.Tensor] = field(default_factory=dict)
    _whole: bool = False
    _seen: torch.Tensor | None = None

    def add(self, pieces: list[Piece], rows: Mapping[Address, torch.Tensor]) -> None:
        """Write rows down. rows: of each address, those of the pieces one after another."""
        layout = self.layout
        if self._seen is None and self._is_whole(pieces):
            for address, found in rows.items():
                self.values[address] = found.reshape(layout.batch, layout.width, *found.shape[1:])
            self._whole = True
            return
        if self._seen is None:
            self._seen = torch.zeros(layout.batch, layout.width, dtype=torch.bool)
            for row, pad in enumerate(layout.pads):
                self._seen[row, :pad] = True
        for address, found in rows.items():
            if address not in self.values:
                shape = (layout.batch, layout.width, *found.shape[1:])
                self.values[address] = found.new_zeros(shape)
            begin = 0
            for piece in pieces:
                columns = slice(piece.column, piece.column + piece.count)
                self.values[address][piece.row, columns] = found[begin : begin + piece.count]
                begin += piece.count
        for piece in pieces:
            self._seen[piece.row, piece.column : piece.column + piece.count] = True

    def _is_whole(self, pieces: list[Piece]) -> bool:
        """Whether these are all rows of a pass without padding, in order."""
        layout = self.layout
        return len(pieces) == layout.batch and all(
            piece.row == row and piece.count == layout.width for row, piece in enumerate(pieces)
        )

    def has(self, rows: Iterable[int]) -> bool:
        """Whether everything of these rows is there."""
        if self._whole:
            return True
        wanted = list(rows)
        if not wanted:
            return True
        return self._seen is not None and bool(self._seen[wanted].all())
