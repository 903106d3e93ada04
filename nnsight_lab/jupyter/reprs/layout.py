"""Where the boxes of a drawn graph stand: rows by data flow, few crossings, no box on another.

A box stands below all it depends on. What depends on nothing stands just above its first reader,
so that a read of a late layer is not at the very top. Arrows over several rows keep a lane free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Box", "Layout", "laid_out"]

_GAP = 18
_ROW = 38
_LANE = 10.0
_SWEEPS = 6


@dataclass(eq=False)
class Box:
    """One box: how large, and the boxes it depends on, by their place in the list.

    x, y: its upper left corner, once laid out. rank: its row from above.
    """

    width: float
    height: float
    needs: tuple[int, ...] = ()
    rank: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def middle(self) -> float:
        """Where arrows meet it."""
        return self.x + self.width / 2


@dataclass
class Layout:
    """Boxes with their places, and arrows as points to go through."""

    boxes: Sequence[Box]
    arrows: list[list[tuple[float, float]]] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0
    widest: int = 0


def _ranked(boxes: Sequence[Box]) -> None:
    for place, box in enumerate(boxes):
        box.rank = 1 + max((boxes[need].rank for need in box.needs if need < place), default=-1)
    readers: dict[int, int] = {}
    for box in boxes:
        for need in box.needs:
            readers[need] = min(readers.get(need, box.rank), box.rank)
    for place, box in enumerate(boxes):
        if not box.needs and place in readers:
            box.rank = max(readers[place] - 1, 0)


def _with_lanes(boxes: Sequence[Box]) -> tuple[list[list[Box]], list[list[Box]]]:
    """Rows of boxes and lanes; and each arrow as the boxes and lanes it goes through."""
    rows: list[list[Box]] = [[] for _ in range(max((box.rank for box in boxes), default=0) + 1)]
    for box in boxes:
        rows[box.rank].append(box)
    ways = []
    for place, box in enumerate(boxes):
        for need in dict.fromkeys(box.needs):
            if need >= place:
                continue  # a loop of the user's, drawn by line, goes back up: its line says so
            way = [boxes[need]]
            for rank in range(boxes[need].rank + 1, box.rank):
                way.append(Box(_LANE, 0.0, rank=rank))
                rows[rank].append(way[-1])
            ways.append([*way, box])
    return rows, ways


def _neighbours(ways: list[list[Box]], *, above: bool) -> dict[int, list[Box]]:
    found: dict[int, list[Box]] = {}
    for way in ways:
        for one, other in zip(way, way[1:], strict=False):
            box, near = (other, one) if above else (one, other)
            found.setdefault(id(box), []).append(near)
    return found


def _placed(row: list[Box]) -> None:
    """Side by side in their order, each as near to where it wants to be as the others allow."""
    right = float("-inf")
    for box in row:
        box.x = max(box.x, right)
        right = box.x + box.width + _GAP


def _ordered(rows: list[list[Box]], ways: list[list[Box]]) -> None:
    for row in rows:
        _placed(row)
    both = _neighbours(ways, above=True), _neighbours(ways, above=False)
    for sweep in range(_SWEEPS):
        near = both[sweep % 2]
        for row in rows if sweep % 2 == 0 else reversed(rows):
            for box in row:
                others = near.get(id(box), [])
                if others:
                    box.x = sum(other.middle for other in others) / len(others) - box.width / 2
            row.sort(key=lambda box: box.middle)
            _placed(row)


def laid_out(boxes: Sequence[Box]) -> Layout:
    """Give boxes their places. Boxes depend on earlier ones; other arrows are left out."""
    _ranked(boxes)
    rows, ways = _with_lanes(boxes)
    _ordered(rows, ways)
    left = min((box.x for row in rows for box in row), default=0.0)
    y = 8.0
    for row in rows:
        tall = max((box.height for box in row), default=0.0)
        for box in row:
            box.x += 8 - left
            box.y, box.height = y, box.height or tall
        y += tall + _ROW
    width = max((box.x + box.width for row in rows for box in row), default=0.0) + 8
    arrows = [[point for box in way for point in _through(box, way)] for way in ways]
    return Layout(boxes, arrows, width, y - _ROW + 8, max(map(len, rows)))


def _through(box: Box, way: list[Box]) -> list[tuple[float, float]]:
    points = [(box.middle, box.y), (box.middle, box.y + box.height)]
    return points[1:] if box is way[0] else points[:1] if box is way[-1] else points
