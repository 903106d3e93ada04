"""Functions of torch that take a number on trust, with the check that torch leaves out.

A graph may come from anybody. What these are given decides how long they run, or how far past a
tensor they read, so it is looked at first. Tensors without data have nothing to look at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nnsight_lab.errors import LimitExceeded

__all__ = ["guarded"]

_HIGHEST_DEGREE = 1_000
"""Of a polynomial that is computed one degree at a time; the time it takes grows with it."""


def guarded(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of this name, checking what torch does not."""
    if "_polynomial_" in op:
        return _of_bounded_degree(function)
    if op.endswith(".ctc_loss"):
        return _on_labels_there_are(function)
    return function


def _of_bounded_degree(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(input: Any, n: Any, **kwargs: Any) -> Any:
        highest = n.max() if _has_data(n) else 0 if isinstance(n, torch.Tensor) else n
        if not highest <= _HIGHEST_DEGREE:
            raise LimitExceeded(
                f"A polynomial of a degree above {_HIGHEST_DEGREE:,}.",
                hint="Its time grows with the degree, whatever the size of the tensor.",
            )
        return function(input, n, **kwargs)

    return run


def _on_labels_there_are(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(log_probs: Any, targets: Any, *args: Any, **kwargs: Any) -> Any:
        if _has_data(targets):
            low, high = targets.min(), targets.max()
            if low < 0 or high >= log_probs.shape[-1]:
                raise IndexError(
                    f"there are {log_probs.shape[-1]} labels; a target is none of them"
                )
        return function(log_probs, targets, *args, **kwargs)

    return run


def _has_data(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_meta and value.numel() > 0
