"""Small heatmaps of tensors, as PNG images that travel inside the HTML.

Red to white to blue around zero where there are both signs, else light to dark blue. What is not
finite is magenta. A cell of a large matrix is the mean of a block of it.
"""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass

import torch

from nnsight_lab.jupyter.static import DIVERGING, RAMP
from nnsight_lab.kernels.summary import as_numbers, thinned

__all__ = ["Picture", "matrix_of", "palette", "picture_of", "png"]

_LEVELS = 127
_NOT_FINITE = (214, 60, 214)
_TALLEST = 300
"""A picture is no higher than this, as long as a row can be seen."""

_MOST = 2**20
"""Elements of a matrix that are looked at for its picture."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A heatmap as a data URI, its size in pixels, and what it shows in words."""

    uri: str
    width: int
    height: int
    words: str


def png(pixels: torch.Tensor, palette: list[tuple[int, int, int]]) -> bytes:
    """A PNG with a palette. pixels: `uint8[height, width]`, each an index of `palette`."""
    high, wide = pixels.shape
    rows, before = b"", b""
    for row in map(bytes, pixels.tolist()):
        # A row like the one above it is written as no difference; most are, and take no room.
        rows += b"\x02" + bytes(wide) if row == before else b"\x00" + row
        before = row
    head = struct.pack(">IIBBBBB", wide, high, 8, 3, 0, 0, 0)
    colours = b"".join(map(bytes, palette))
    parts = ((b"IHDR", head), (b"PLTE", colours), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def palette(
    ramp: tuple[tuple[int, int, int], ...], levels: int = _LEVELS
) -> list[tuple[int, int, int]]:
    """So many colours from one end of a ramp to the other."""
    found = []
    for level in range(levels):
        at = level / (levels - 1) * (len(ramp) - 1)
        low = min(int(at), len(ramp) - 2)
        pair = zip(ramp[low], ramp[low + 1], strict=True)
        red, green, blue = (round(a + (b - a) * (at - low)) for a, b in pair)
        found.append((red, green, blue))
    return found


_SIGNED = [*palette(DIVERGING), _NOT_FINITE]
_PLAIN = [*palette(RAMP), _NOT_FINITE]


def matrix_of(tensor: torch.Tensor) -> tuple[torch.Tensor, str] | None:
    """The last two axes of a tensor, and how that part of it is written; None where it has none."""
    if not tensor.dim() or not tensor.numel() or tensor.layout is not torch.strided:
        return None
    if tensor.dim() == 1:
        return tensor[None], ""
    lead = tensor.dim() - 2
    part = tensor[(0,) * lead] if lead else tensor
    whole = all(size == 1 for size in tensor.shape[:lead])
    return part, "" if whole else f"[{', '.join(['0'] * lead + [':', ':'])}]"


def _pooled(matrix: torch.Tensor, most: tuple[int, int]) -> torch.Tensor:
    """At most so many rows and columns, each the mean of a block; NaN where a block has any."""
    block = [-(-size // limit) for size, limit in zip(matrix.shape, most, strict=True)]
    if block == [1, 1]:
        return matrix
    return torch.nn.functional.avg_pool2d(matrix[None, None], block, ceil_mode=True)[0, 0]


def _levels(cells: torch.Tensor) -> tuple[torch.Tensor, float, float]:
    """The colour of each cell, and the values at both ends of the scale."""
    finite = cells.isfinite()
    held = cells[finite]
    if not held.numel():
        return torch.full(cells.shape, _LEVELS, dtype=torch.uint8), 0.0, 0.0
    low, high = held.min().item(), held.max().item()
    if low < 0 < high:
        # One huge activation would leave all others white; the scale ends where most do.
        high = held.abs().quantile(0.99).item() or max(-low, high)
        low = -high
    apart = (high - low) or 1.0
    at = ((cells - low) / apart).nan_to_num(0).clamp(0, 1).mul(_LEVELS - 1).round()
    return torch.where(finite, at, torch.tensor(float(_LEVELS))).to(torch.uint8), low, high


def picture_of(
    tensor: torch.Tensor, *, most: tuple[int, int], width: int, cell: int = 14
) -> Picture | None:
    """A heatmap of the last two axes; None where there is nothing to picture.

    most: rows and columns at most. width: about how wide in pixels; cell: the most for one.
    """
    found = matrix_of(tensor)
    if found is None:
        return None
    whole, name = found
    with torch.no_grad():
        numbers = as_numbers(thinned(whole, _MOST))
        if numbers is None:
            return None
        cells = _pooled(numbers.to("cpu", torch.float32), most)
        levels, low, high = _levels(cells)
    rows, columns = cells.shape
    side = max(1, min(cell, width // columns, _TALLEST // rows))
    large = levels.repeat_interleave(side, 0).repeat_interleave(side, 1)
    uri = base64.b64encode(png(large, _SIGNED if low < 0 < high else _PLAIN)).decode()
    words = f"{name or 'the values'}, colour from {low:.3g} to {high:.3g}"
    if cells.shape != whole.shape:
        words += f"; {whole.shape[0]} × {whole.shape[1]} drawn as {rows} × {columns} means"
    return Picture(f"data:image/png;base64,{uri}", columns * side, rows * side, words)
