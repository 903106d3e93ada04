"""The final norm and the unembedding as numbers, asked of the model itself.

Norms differ between families: with a mean taken out or not, with a bias or not, with gains stored
as `g` or as `1 + g`. A few chosen vectors put through the model's own norm tell all of it, the same
way on every engine, so nothing here knows a family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nnsight_lab.models.language_model import LanguageModel

__all__ = ["Readout", "recorded_gain", "recorded_readout"]

_LARGE, _SMALL = 1e4, 1e-3
"""Sizes of vectors beside which a norm's epsilon is nothing, and beside which it is much."""


@dataclass(frozen=True, eq=False)
class Readout:
    """From the last residual stream to logits.

    gain, bias: `[d_model]`, of the final norm. centred: whether it takes the mean out.
    epsilon: below its root. unembed: `[d_vocab, d_model]`. unembed_bias: `[d_vocab]`.
    """

    gain: torch.Tensor
    bias: torch.Tensor
    centred: bool
    epsilon: float
    unembed: torch.Tensor
    unembed_bias: torch.Tensor

    def logits(self, resid: torch.Tensor) -> torch.Tensor:
        """`[…, d_model]` to `[…, d_vocab]`."""
        if self.centred:
            resid = resid - resid.mean(-1, keepdim=True)
        size = (resid.square().mean(-1, keepdim=True) + self.epsilon).sqrt()
        normed = resid / size * self.gain + self.bias
        return normed @ self.unembed.T + self.unembed_bias


def _alternating(width: int) -> torch.Tensor:
    """±1 in turn: mean 0 and size 1, whether or not the mean is taken out."""
    signs = torch.ones(width)
    signs[1::2] = -1.0
    if width % 2:  # the odd one out would have a mean
        signs[-1] = 0.0
    return signs


def recorded_gain(model: LanguageModel, width: int) -> dict[str, Any]:
    """In the open block: the norm's `gain`, `bias`, and `centred` (1 or 0), as recorded values."""
    signs = _alternating(width)
    size = signs.square().mean().sqrt()
    bias = model.norm(torch.zeros(width)).float()
    gain = (model.norm(_LARGE * signs).float() - bias) * signs * size
    if width % 2:
        turned = signs.roll(1)
        other = (model.norm(_LARGE * turned).float() - bias) * turned * size
        gain = torch.where(signs == 0, other, gain)
    level = (model.norm(torch.full((width,), _LARGE)).float() - bias).abs().mean()
    centred = (level < 0.5 * gain.abs().mean()).float()
    return {"gain": gain, "bias": bias, "centred": centred}


def recorded_readout(model: LanguageModel, width: int) -> dict[str, Any]:
    """In the open block: everything of a `Readout`, to be saved under these names."""
    found = recorded_gain(model, width)
    signs = _alternating(width)
    small = model.norm(_SMALL * signs).float() - found["bias"]
    share = small.square().sum() / (found["gain"] * signs).square().sum()
    found["epsilon"] = _SMALL**2 * (1 / share - signs.square().mean())
    found["unembed"] = model.lm_head.weight
    found["unembed_bias"] = model.lm_head(torch.zeros(width))
    return found
