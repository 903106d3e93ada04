"""A value that the model has let go of needs no copy: nobody is left who could change it.

    held = hold(value)          # the model is at its last moment, and will stop here
    ...                         # its frames are gone, and with them what they held
    mine(held)                  # the value itself, or a copy where somebody still has it

Logits are large, and are mostly the last that is read: their copy can cost as much as a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from nnsight_lab.errors import EngineFailed
from nnsight_lab.runtime.values import snapshot

__all__ = ["Held", "hold", "mine"]


class Held(NamedTuple):
    """A value, not copied yet. tensor: another tensor object on its memory. version: of then."""

    tensor: torch.Tensor
    version: int


def hold(value: Any) -> Held | None:
    """A value whose copy may be put off; None where it must be made now.

    Put off only for a plain tensor that fills memory of torch's own, which nothing but a tensor
    can reach: not a numpy array, nor a mapped file. On a GPU a captured graph may write to it.
    """
    if type(value) is not torch.Tensor or value.device.type != "cpu" or value.is_inference():
        return None
    storage = value.untyped_storage()
    whole = storage.nbytes() == value.numel() * value.element_size()
    if not (whole and value.is_contiguous() and storage.resizable()) or storage.is_shared():
        return None
    return Held(value.detach(), value._version)


def mine(held: Held) -> torch.Tensor:
    """What was held: as it is where no other tensor shares its memory, else a copy.

    Raises:
        EngineFailed: the model wrote to it while it stopped, so what it was is lost.
    """
    tensor = held.tensor
    if tensor._version != held.version:
        raise EngineFailed(
            "The model wrote to its last value while it was being stopped.",
            hint="Save a copy of it: value.clone().save().",
        )
    copy: torch.Tensor = tensor if _holders(tensor) == _ONE else snapshot(tensor)
    return copy


def _holders(tensor: torch.Tensor) -> int:
    """How many tensors there are on this one's memory, and then some: see `_ONE`."""
    count: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)  # noqa: SLF001
    return count(tensor.untyped_storage()._cdata) if count is not None else 0


_ONE = _holders(torch.empty(1)) or -1
"""What torch counts for a tensor that is alone on its memory: itself, and our look at it."""
