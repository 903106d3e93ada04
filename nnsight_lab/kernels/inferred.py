"""Shapes that were inferred before: the same call on the same shapes gives the same again.

A loop over the steps of a generation asks the same of torch at every step. Kept are only calls
whose result is one tensor with memory of its own: views are told by the memory they share, so
each is inferred anew, and so is what was refused.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch

__all__ = ["Inferred"]

_MOST = 2048
_PLAIN = frozenset({type(None), bool, int, float, str, torch.dtype})


class Inferred:
    """Results by what was asked."""

    def __init__(self) -> None:
        self._results: dict[Hashable, tuple[torch.Size, tuple[int, ...], torch.dtype]] = {}

    def known(self, asked: Hashable) -> torch.Tensor | None:
        """The result, in new memory; None where it is not known."""
        found = self._results.get(asked)
        if found is None:
            return None
        size, stride, dtype = found
        return torch.empty_strided(size, stride, dtype=dtype, device="meta")

    def keep(self, asked: Hashable, args: Any, result: Any) -> None:
        """Note a result, if it is a tensor with memory of its own."""
        if type(result) is not torch.Tensor or not _is_simple(result):
            return
        memory = result.untyped_storage()._cdata
        if any(tensor.untyped_storage()._cdata == memory for tensor in _tensors(args)):
            return
        if len(self._results) >= _MOST:
            self._results.clear()
        self._results[asked] = result.shape, result.stride(), result.dtype

    def question(self, op: str, args: Any) -> Hashable | None:
        """What a call asks: the operation, and all of its arguments that the answer depends on.

        None for one that cannot be kept.
        """
        asked = _asked(args)
        return None if asked is None else (op, asked, torch.get_default_dtype())


def _is_simple(tensor: torch.Tensor) -> bool:
    """Whether a tensor without data is told by its sizes, strides and dtype."""
    special = tensor.requires_grad or tensor.is_conj() or tensor.is_neg()
    return tensor.is_meta and tensor.layout is torch.strided and not special


def _asked(arg: Any) -> Hashable | None:
    """An argument as something to compare by; None where it cannot be."""
    kind = type(arg)
    if kind in _PLAIN:
        return kind, arg  # 1, 1.0 and True are equal
    if kind is torch.Tensor:
        return (arg.shape, arg.stride(), arg.dtype) if _is_simple(arg) else None
    if kind is slice:
        arg = (arg.start, arg.stop, arg.step)
    elif kind is dict:
        arg = tuple(arg.items())
    elif kind is not tuple and kind is not list:
        return None
    parts = [_asked(part) for part in arg]
    return None if None in parts else (kind, *parts)


def _tensors(arg: Any) -> list[torch.Tensor]:
    if isinstance(arg, torch.Tensor):
        return [arg]
    if isinstance(arg, tuple | list):
        return [tensor for part in arg for tensor in _tensors(part)]
    return _tensors(list(arg.values())) if isinstance(arg, dict) else []
