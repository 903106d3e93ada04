"""The contrast of two colours, as WCAG 2.2 counts it."""

from __future__ import annotations

import re

__all__ = ["contrast"]


def contrast(one: str, two: str) -> float:
    """Of two opaque colours, written `#rrggbb` or `rgb(r, g, b)`: from 1 to 21."""
    low, high = sorted((_light(one), _light(two)))
    return (high + 0.05) / (low + 0.05)


def _light(colour: str) -> float:
    hexes = re.fullmatch(r"#(..)(..)(..)", colour)
    parts = [int(each, 16) for each in hexes.groups()] if hexes else _numbers(colour)
    linear = [_linear(part / 255) for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _numbers(colour: str) -> list[int]:
    found = [int(each) for each in re.findall(r"\d+", colour)]
    assert len(found) == 3, colour
    return found


def _linear(share: float) -> float:
    return share / 12.92 if share <= 0.04045 else float(((share + 0.055) / 1.055) ** 2.4)
