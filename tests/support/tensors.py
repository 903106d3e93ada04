"""What it means for two values to be the same, or to differ."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["assert_differs", "assert_exactly", "assert_same"]


def assert_same(actual: Any, expected: torch.Tensor, *, atol: float = 1e-6) -> None:
    """A real tensor of the same shape and dtype, equal up to `atol`."""
    assert type(actual) is torch.Tensor
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=atol, equal_nan=True)


def assert_exactly(actual: Any, expected: torch.Tensor) -> None:
    """A real tensor, equal in every bit."""
    assert_same(actual, expected, atol=0.0)


def assert_differs(one: torch.Tensor, other: torch.Tensor, *, by: float = 1e-3) -> None:
    """Same shape, and somewhere clearly not the same numbers."""
    assert one.shape == other.shape
    assert (one - other).abs().max().item() > by
