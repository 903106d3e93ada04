"""Where the boxes of a drawn graph stand: rows by data flow, few crossings, no box on another.

A box stands below all it depends on. What depends on nothing stands just above its first reader,
so that a read of a late layer is not at the very top. Arrows over several rows keep a lane free.
Parts that do not depend on each other stand side by side, and below one another on a narrow page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

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
        for one, other in pairwise(way):
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


def _parts(boxes: Sequence[Box]) -> list[list[int]]:
    """The places of boxes that hang together."""
    root = list(range(len(boxes)))

    def found(place: int) -> int:
        while root[place] != place:
            root[place] = root[root[place]]
            place = root[place]
        return place

    for place, box in enumerate(boxes):
        for need in box.needs:
            one, other = sorted((found(place), found(need)))
            root[other] = one
    parts: dict[int, list[int]] = {}
    for place in range(len(boxes)):
        parts.setdefault(found(place), []).append(place)
    # Single boxes come last, so that they do not tear apart what flows.
    return sorted(parts.values(), key=lambda places: len(places) == 1)


def laid_out(boxes: Sequence[Box], *, page: float = 1000) -> Layout:
    """Give boxes their places. Boxes depend on earlier ones; other arrows are left out.

    page: how wide parts may stand side by side; one part by itself may be wider.
    """
    whole = Layout(boxes)
    x, y, low = 8.0, 8.0, 8.0
    for places in _parts(boxes):
        new = {old: place for place, old in enumerate(places)}
        part = [boxes[place] for place in places]
        for box in part:
            box.needs = tuple(new[need] for need in box.needs)
        found = _one_part(part)
        if x > 8 and x + found.width > page:
            x, y = 8.0, low + _ROW
        for box in part:
            box.x, box.y = box.x + x, box.y + y
        whole.arrows += [[(a + x, b + y) for a, b in way] for way in found.arrows]
        x += found.width + 2 * _GAP
        low = max(low, y + found.height)
        whole.width = max(whole.width, x - 2 * _GAP + 8)
        whole.widest = max(whole.widest, found.widest)
    whole.height = low + 8
    return whole


def _one_part(boxes: Sequence[Box]) -> Layout:
    _ranked(boxes)
    rows, ways = _with_lanes(boxes)
    rows = [row for row in rows if row]
    _ordered(rows, ways)
    left = min(box.x for row in rows for box in row)
    y = 0.0
    for row in rows:
        tall = max(box.height for box in row)
        for box in row:
            box.x -= left
            box.y, box.height = y, box.height or tall
        y += tall + _ROW
    width = max(box.x + box.width for row in rows for box in row)
    arrows = [[point for box in way for point in _through(box, way)] for way in ways]
    return Layout(boxes, arrows, width, y - _ROW, max(map(len, rows)))


def _through(box: Box, way: list[Box]) -> list[tuple[float, float]]:
    points = [(box.middle, box.y), (box.middle, box.y + box.height)]
    return points[1:] if box is way[0] else points[:1] if box is way[-1] else points
