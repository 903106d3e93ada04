"""What a method of the grid is: a program in the public language, and the same by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from tests.parity.case import Case

__all__ = ["Expected", "Method", "Values"]

Values: TypeAlias = dict[str, torch.Tensor]
"""What a program saved. Where a name ends in `logits`, the likeliest tokens must be the same."""


@dataclass(frozen=True)
class Expected:
    """values: what hooks give. before: some of them without the edit, which must have changed."""

    values: Values
    before: Values = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """program: on any model of ours. by_hand: on the plain module, with nothing of ours."""

    name: str
    program: Callable[[Any, Case], Values]
    by_hand: Callable[[Case], Expected]
