"""A tensor in a few numbers: what is printed of it, and what a notebook shows beside its picture.

Every element counts up to `EXACT` of them. Of a larger tensor every so-many-th element is looked
at along each axis, and the summary says so. Nothing is copied but what is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from nnsight_lab.kernels.tensors import dtype_name

__all__ = ["EXACT", "TensorSummary", "as_numbers", "summary_of", "thinned"]

EXACT = 2**22
"""Up to so many elements every one of them counts."""

_SAMPLE = 2**20
"""Of a larger tensor so many are looked at, at most."""


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """What can be said of a tensor in one line.

    seen: how many elements were looked at; 0 where there are none, or none that are numbers here.
    mean, std, low, high: of those that are finite; None where there is no such number.
    nans, infs: how many of those seen are no number, or infinite.
    """

    dtype: str
    shape: tuple[int, ...]
    device: str
    seen: int = 0
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    nans: int = 0
    infs: int = 0

    @property
    def count(self) -> int:
        """How many elements there are."""
        return prod(self.shape)

    @property
    def sampled(self) -> bool:
        """Whether only some of the elements were looked at."""
        return 0 < self.seen < self.count

    @property
    def head(self) -> str:
        """Dtype and shape: `float32[1, 6, 128]`."""
        return f"{self.dtype}{list(self.shape)}"

    @property
    def numbers(self) -> str:
        """The numbers in words; empty where there are none."""
        if self.count == 1 and self.mean is not None:
            return f"{self.mean:.4g}"
        pairs = (("mean", self.mean), ("std", self.std), ("min", self.low), ("max", self.high))
        parts = [f"{name} {value:.3g}" for name, value in pairs if value is not None]
        parts += [f"{count} {what}" for what, count in self.troubles]
        if self.sampled:
            parts.append(f"of {self.seen:,} elements")
        return ", ".join(parts)

    @property
    def troubles(self) -> tuple[tuple[str, int], ...]:
        """Elements that are not finite: what they are, and how many."""
        found = (("NaN", self.nans), ("infinite", self.infs))
        return tuple((what, count) for what, count in found if count)

    def __str__(self) -> str:
        return f"{self.head}  {self.numbers}".rstrip()


def thinned(tensor: torch.Tensor, most: int) -> torch.Tensor:
    """A view of every so-many-th element along each axis, of at most `most` elements."""
    steps = [1] * tensor.dim()
    sizes = list(tensor.shape)
    while prod(sizes) > most:
        axis = max(range(len(sizes)), key=sizes.__getitem__)
        steps[axis] *= 2
        sizes[axis] = -(-tensor.shape[axis] // steps[axis])
    return tensor[tuple(slice(None, None, step) for step in steps)]


def as_numbers(tensor: torch.Tensor) -> torch.Tensor | None:
    """The elements as real numbers torch can compute with; None where there are none to see.

    Of complex numbers it is their magnitude.
    """
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
        return None
    plain = tensor.detach()
    if plain.is_complex():
        return plain.abs()
    wide = plain.dtype in (torch.float32, torch.float64)
    return plain if wide else plain.to(torch.float64 if _is_whole(plain) else torch.float32)


def _is_whole(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point()


def summary_of(value: Any) -> TensorSummary | None:
    """What can be said of a tensor; None of anything else."""
    if not isinstance(value, torch.Tensor):
        return None
    with torch.no_grad():
        return _summary(value)


def _summary(tensor: torch.Tensor) -> TensorSummary:
    head = (dtype_name(tensor.dtype), tuple(tensor.shape), str(tensor.device))
    most = EXACT if tensor.numel() <= EXACT else _SAMPLE
    few = thinned(tensor, most) if tensor.layout is torch.strided else None
    seen = None if few is None else as_numbers(few)
    if seen is None or not seen.numel():
        return TensorSummary(*head)
    finite = seen.isfinite()
    held = seen if bool(finite.all()) else seen[finite]
    nans = int(seen.isnan().sum())
    infs = seen.numel() - held.numel() - nans
    if not held.numel():
        return TensorSummary(*head, seen=seen.numel(), nans=nans, infs=infs)
    std = held.std().item() if held.numel() > 1 else None
    numbers = (held.mean().item(), std, held.min().item(), held.max().item())
    return TensorSummary(*head, seen.numel(), *numbers, nans=nans, infs=infs)
