"""What is seen of the Attention tab without a kernel: the chosen head, and all heads small."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from nnsight_lab.jupyter.explorer.attention import SCORES
from nnsight_lab.jupyter.explorer.still_parts import Piece, image, line, svg_image, visible
from nnsight_lab.jupyter.explorer.subject import Subject
from nnsight_lab.jupyter.explorer.view import Sheet, Wanted
from nnsight_lab.jupyter.reprs.pictures import palette, png
from nnsight_lab.jupyter.static import RAMP, panels_svg

__all__ = ["attention_piece"]

Array: TypeAlias = np.ndarray[Any, Any]

_STEPS = 16
_COLOURS = [*palette(RAMP, _STEPS + 1), (128, 128, 128)]
_GAP = _STEPS + 1
_LABELLED = 48
"""Up to so many tokens the picture of a head has them at its sides."""
_WIDE = 900
"""A row of heads is no wider in pixels, unless there are very many."""
_TILE = 60
"""A small picture is no wider."""
_SPARE = 3000
"""Bytes that a whole pattern leaves to the small pictures."""
_MOST_CELLS = 120_000
"""More cells of small pictures would not go into the bytes there are."""


def attention_piece(
    subject: Subject, wanted: Wanted, sheets: Sequence[Sheet], token: int, room: int
) -> Piece | None:
    """The head that was looked at, then those of all layers as far as they have come."""
    heads = {sheet.plain["layer"]: sheet.arrays for sheet in sheets if "tiles" in sheet.arrays}
    full = next((sheet for sheet in sheets if "pattern" in sheet.arrays), None)
    piece = Piece() if full is None else _head(subject, full, heads, room - _SPARE)
    chosen = full.plain["layer"] if full is not None else int(wanted.get("layer", 0))
    own = {layer: arrays for layer, arrays in heads.items() if layer == chosen}
    for layers, side in ((heads, 48), (heads, 24), (heads, 16), (own, 48), (own, 24)):
        if _cells(layers, side) > _MOST_CELLS:
            continue
        small = _small(layers, side)
        if piece.size + small.size <= room:
            return piece + small
    return piece if full is not None else None


def _cells(heads: Mapping[int, Mapping[str, Array]], side: int) -> int:
    """How many cells there are to be drawn."""
    tiles = [arrays["tiles"] for arrays in heads.values()]
    return sum(len(found) * min(side, found.shape[-1]) ** 2 for found in tiles)


def _head(
    subject: Subject, sheet: Sheet, heads: Mapping[int, Mapping[str, Array]], room: int
) -> Piece:
    """A whole pattern: with its tokens where there is room for them."""
    layer, head, start = (sheet.plain[name] for name in ("layer", "head", "start"))
    shades = _shades(sheet.arrays["pattern"])
    count, title = len(shades), f"Layer {layer}, head {head}: query down, key across"
    said = f"Attention, layer {layer}, head {head}; colour: the square root of the weight."
    if layer in heads:
        scores = zip(SCORES, heads[layer]["scores"][:, head].tolist(), strict=True)
        said += f" Scores: {', '.join(f'{name} {value:.3f}' for name, value in scores)}."
    if count <= _LABELLED:
        labels = [visible(text) for text in subject.tokens[start : start + count]]
        svg = panels_svg([shades.tolist()], names=[""], labels=labels, title=title)
        piece = line(said) + svg_image(svg, title)
        if piece.size <= room:
            return piece
    said += f" Query down, key across, positions {start:,} to {start + count - 1:,}"
    said += f" of {len(subject.tokens):,}."
    for side in (256, 128, 64):
        pooled = _pooled(shades, side)
        times = max(512 // len(pooled), 1)
        found = line(said) + Piece(f"<div>{_png(_levels(pooled), times, title)}</div>")
        if found.size <= room:
            break
    return found


def _shades(pattern: Array) -> Array:
    """The square root of each weight, 0 to 1, as the tab shows it."""
    if pattern.dtype == np.uint8:
        shades: Array = pattern / 255.0
        return shades
    return np.asarray(np.sqrt(np.maximum(pattern, 0.0)))


def _small(heads: Mapping[int, Mapping[str, Array]], side: int) -> Piece:
    """A row of small pictures for each layer, each picture of so many cells at most."""
    if not heads:
        return Piece()
    said = "All heads, a row for each layer," if len(heads) > 1 else "All heads of a layer,"
    widest = max(arrays["tiles"].shape[-1] for arrays in heads.values())
    mean = "; of several cells, their mean" if widest > side else ""
    piece = line(f"{said} head 0 first; colour: the square root of the weight{mean}.")
    digits = len(str(max(heads)))
    for layer in sorted(heads):
        tiles = np.stack([_averaged(tile / 255.0, side) for tile in heads[layer]["tiles"]])
        count, cells = tiles.shape[:2]
        times = max(min(_TILE, _WIDE // count) // cells, 1)
        large = _levels(tiles).repeat(times, 1).repeat(times, 2)
        row = np.pad(large, ((0, 0), (1, 1), (1, 1)), constant_values=_GAP)
        alt = f"layer {layer}: {count} heads"
        picture = _png(np.concatenate(list(row), axis=1), 1, alt, f"layer {layer:>{digits}}")
        piece += Piece(picture)
    return Piece(f'<div style="white-space:pre;overflow-x:auto;line-height:1">{piece.html}</div>')


def _pooled(values: Array, side: int) -> Array:
    """The largest value of each square, at most so many on a side."""
    found: Array = _squares(values, side).max((1, 3))
    return found


def _averaged(values: Array, side: int) -> Array:
    """The mean of each square: of few and large ones, the largest values are all alike."""
    found: Array = _squares(values, side).mean((1, 3))
    return found


def _squares(values: Array, side: int) -> Array:
    """`[row, within, column, within]`."""
    block = -(-len(values) // side)
    more = -len(values) % block
    whole = np.pad(values, ((0, more), (0, more)))
    cells = len(whole) // block
    return whole.reshape(cells, block, cells, block)


def _levels(values: Array) -> Array:
    return np.asarray(np.rint(values * _STEPS), dtype=np.uint8)


def _png(levels: Array, times: int, alt: str, label: str = "") -> str:
    large = torch.from_numpy(np.ascontiguousarray(levels.repeat(times, 0).repeat(times, 1)))
    uri = "data:image/png;base64," + base64.b64encode(png(large, _COLOURS)).decode()
    return image(uri, alt, label=label)
