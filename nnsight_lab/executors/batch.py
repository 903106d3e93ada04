"""Prompts as the model takes them: padded on the left, with positions of their own.

A batch then gives what single runs give. `Padded` also says what the model is given for each
further position of a generation.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from nnsight_lab.contract import TokenRows

__all__ = ["Padded"]


class Padded:
    """Rows of ids in one tensor, of which the model sees the prompts only.

    pad: the id that fills up. more: how many positions may follow. positions: whether the model
    takes `position_ids`.
    """

    def __init__(
        self, inputs: TokenRows, pad: int, device: torch.device, *, positions: bool, more: int = 0
    ) -> None:
        self.width = inputs.pos
        self._lengths = [len(row) for row in inputs.rows]
        self._positions = positions
        self._device = device
        self._more = more
        ids = [[pad] * (self.width - len(row)) + list(row) for row in inputs.rows]
        self.ids = torch.tensor(ids, device=device)
        self._even = len(set(self._lengths)) == 1

    @cached_property
    def _mask(self) -> torch.Tensor:
        end = self.width + self._more
        rows = [
            [0] * (self.width - len_) + [1] * (end - self.width + len_) for len_ in self._lengths
        ]
        return torch.tensor(rows, device=self._device)

    @cached_property
    def _places(self) -> torch.Tensor:
        """The position of every id, counted from its own prompt's first."""
        if self._even:
            count = torch.arange(self.width + self._more, device=self._device)
            return count[None] if len(self._lengths) == 1 else count.repeat(len(self._lengths), 1)
        return (self._mask.cumsum(-1) - 1).clamp(min=0)

    def prompt(self) -> dict[str, torch.Tensor]:
        """What the model is given for the prompts."""
        return self._given(self.ids, slice(0, self.width))

    def further(self, step: int, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """What it is given for the token that follows `step - 1` others."""
        end = self.width + step
        return self._given(ids[:, None], slice(end - 1, end))

    def _given(self, ids: torch.Tensor, at: slice) -> dict[str, torch.Tensor]:
        given: dict[str, Any] = {"input_ids": ids}
        if self._device.type == "meta":
            # Without weights there are no values to make a mask from: here is a made one.
            shape = (len(self._lengths), 1, ids.shape[1], at.stop)
            given["attention_mask"] = torch.zeros(shape, device=self._device)
        elif not self._even:
            given["attention_mask"] = self._mask[:, : at.stop]
        if self._positions:
            # Always given, so that what follows from them is [batch, pos, …] padded or not.
            given["position_ids"] = self._places[:, at]
        return given
