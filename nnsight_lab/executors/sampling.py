"""The next token of each row: the likeliest, or one drawn with the row's own random numbers.

The ways to cut a distribution are those of `transformers`, in its order: temperature, top_k, top_p.
Each row draws from a generator of its own, so a row of a batch draws what it draws alone.
"""

from __future__ import annotations

from typing import Any

import torch

from nnsight_lab.contract import Generation

__all__ = ["Sampler"]


class Sampler:
    """Chooses tokens, and knows which rows have ended.

    stop_ids: ids that end a row. pad: what an ended row goes on with.
    """

    def __init__(
        self,
        options: Generation,
        rows: int,
        device: torch.device,
        *,
        stop_ids: tuple[int, ...],
        pad: int,
    ) -> None:
        self._stop_ids = stop_ids
        self._pad = pad
        self.lengths = [0] * rows
        self.ended = [False] * rows
        self._cuts = _cuts(options)
        self._random: list[torch.Generator] = []
        if options.temperature > 0:
            self._random = [torch.Generator(device) for _ in range(rows)]
            for generator in self._random:
                generator.seed() if options.seed is None else generator.manual_seed(options.seed)

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """The next id of each row, `[batch]`, from its logits `[batch, vocab]`."""
        scores = logits.to(torch.float32)
        if not self._random:
            return self.padded(scores.argmax(-1))
        for cut in self._cuts:
            scores = cut(None, scores)
        shares = scores.softmax(-1)
        drawn = [
            torch.multinomial(share, 1, generator=random)
            for share, random in zip(shares, self._random, strict=True)
        ]
        return self.padded(torch.cat(drawn))

    def padded(self, ids: torch.Tensor) -> torch.Tensor:
        """The ids, with padding in rows that have ended."""
        if not any(self.ended):
            return ids
        return ids.masked_fill(torch.tensor(self.ended, device=ids.device), self._pad)

    def take(self, ids: list[int]) -> None:
        """Go on with these ids."""
        for row, id in enumerate(ids):
            if not self.ended[row]:
                self.lengths[row] += 1
                self.ended[row] = id in self._stop_ids


def _cuts(options: Generation) -> list[Any]:
    if options.temperature == 0:
        return []
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    cuts: list[Any] = []
    if options.temperature != 1:
        cuts.append(TemperatureLogitsWarper(float(options.temperature)))
    if options.top_k is not None:
        cuts.append(TopKLogitsWarper(top_k=options.top_k))
    if options.top_p is not None and options.top_p < 1:
        cuts.append(TopPLogitsWarper(top_p=float(options.top_p)))
    return cuts
