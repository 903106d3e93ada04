"""Two prompts side by side: which token of one belongs to which of the other."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["aligned"]

_GAP = -1.0
_SAME, _OTHER = 1.0, -0.25


def aligned(source: Sequence[int], target: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of positions in order, each token once; -1 where the other prompt has none.

    The alignment of Needleman and Wunsch (1970): as many equal tokens as can be, few gaps. Where
    tokens differ in number, the last of them belong together: a name's last token tells it.
    """
    best = _scores(source, target)
    pairs = []
    one, other = len(source), len(target)
    while one or other:
        here = best[one][other]
        if one and other and here == best[one - 1][other - 1] + _worth(source, target, one, other):
            one, other = one - 1, other - 1
            pairs.append((one, other))
        elif one and here == best[one - 1][other] + _GAP:
            one -= 1
            pairs.append((one, -1))
        else:
            other -= 1
            pairs.append((-1, other))
    return pairs[::-1]


def _worth(source: Sequence[int], target: Sequence[int], one: int, other: int) -> float:
    return _SAME if source[one - 1] == target[other - 1] else _OTHER


def _scores(source: Sequence[int], target: Sequence[int]) -> list[list[float]]:
    """The best score of each pair of beginnings."""
    best = [[_GAP * place for place in range(len(target) + 1)]]
    for one in range(1, len(source) + 1):
        row = [_GAP * one]
        for other in range(1, len(target) + 1):
            both = best[one - 1][other - 1] + _worth(source, target, one, other)
            row.append(max(both, best[one - 1][other] + _GAP, row[-1] + _GAP))
        best.append(row)
    return best
