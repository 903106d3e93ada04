"""Modules that `torch.compile` has wrapped."""

from __future__ import annotations

import torch

__all__ = ["uncompiled"]


def uncompiled(module: torch.nn.Module) -> torch.nn.Module:
    """The module inside a compiled one, with the same weights; any other module as it is.

    A compiled module would compile every set of hooks anew, and its paths begin with `_orig_mod`.
    """
    inside = getattr(module, "_orig_mod", None)
    return inside if isinstance(inside, torch.nn.Module) else module
