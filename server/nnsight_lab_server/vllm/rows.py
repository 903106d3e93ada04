"""Which of the flat rows of one engine step are whose: which run, prompt and position.

vLLM's scheduler gives each request some tokens of a step: a chunk of its prompt, one new token, or
all it had after it was set aside. Where its first token stands in its own text says which forward
pass of the run a row belongs to: positions below the prompt's length are the prompt's pass, each
one after it is a pass of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Piece", "Segment", "pieces_of"]


@dataclass(frozen=True, slots=True)
class Segment:
    """`count` rows of a step from `start` on: those of a prompt's positions from `position` on.

    row: which prompt of its part. sampled: its place among the rows the step's logits are made of.
    """

    part: int
    row: int
    attempt: int
    start: int
    count: int
    position: int
    sampled: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a segment that belong to one forward pass of the run.

    column: where its first row stands among that pass's positions, padding included. position: the
    same in the row's own text. pad: columns of padding before the text. seen: how many positions
    a pass's patterns have, padding included.
    """

    row: int
    start: int
    count: int
    column: int
    position: int = 0
    pad: int = 0
    seen: int = 1

    @property
    def stop(self) -> int:
        """The flat row after its last."""
        return self.start + self.count


def pieces_of(
    segments: Iterable[Segment], lengths: tuple[int, ...], width: int
) -> dict[int, list[Piece]]:
    """The pieces of each forward pass. lengths: of the prompts. width: the longest, to pad to."""
    found: dict[int, list[Piece]] = {}
    for segment in segments:
        for step, piece in _cut(segment, lengths[segment.row], width):
            found.setdefault(step, []).append(piece)
    return dict(sorted(found.items()))


def _cut(segment: Segment, length: int, width: int) -> Iterator[tuple[int, Piece]]:
    first, end = segment.position, segment.position + segment.count
    row, pad = segment.row, width - length
    if first < length:
        count = min(end, length) - first
        yield 0, Piece(row, segment.start, count, pad + first, first, pad, width)
    for position in range(max(first, length), end):
        start, step = segment.start + position - first, position - length + 1
        yield step, Piece(row, start, 1, 0, position, pad, width + step)
