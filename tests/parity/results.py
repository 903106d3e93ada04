"""What was found so far, kept in a file, so that a long grid can be made in pieces."""

from __future__ import annotations

import json
import math
from pathlib import Path

from tests.parity.judge import Cell

__all__ = ["Results"]


class Results:
    """Cells by method, family and engine. The file is written after each column of a family."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cells: dict[tuple[str, str, str], Cell] = {}

    def read(self) -> None:
        """Take up what an earlier call left."""
        if self._path.exists():
            for plain in json.loads(self._path.read_text(encoding="utf-8")):
                number = plain.pop("difference")
                self.keep([Cell(**plain, difference=math.nan if number is None else number)])

    def keep(self, cells: list[Cell]) -> None:
        """These cells, instead of any there were."""
        self._cells |= {(cell.method, cell.family, cell.engine): cell for cell in cells}

    def write(self) -> None:
        """Save all of them."""
        plain = [cell.plain() for cell in self._cells.values()]
        self._path.write_text(json.dumps(plain, indent=1), encoding="utf-8")

    def of(self, methods: list[str], families: list[str], engines: list[str]) -> list[Cell]:
        """Those there are, in the order of the page."""
        keys = ((m, f, e) for e in engines for m in methods for f in families)
        return [self._cells[key] for key in keys if key in self._cells]
