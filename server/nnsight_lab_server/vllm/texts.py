"""The tokens of a part's prompts as they grow, and whose turn has ended.

The choice is the library's own (`executors/sampling.py`), row by row, so that a seed draws here what
it draws anywhere. vLLM is then told what was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from nnsight_lab.contract import Generation, TokenRows
from nnsight_lab.executors.sampling import Sampler
from nnsight_lab.passes.invokes import Span

__all__ = ["Texts"]


class Texts:
    """What each prompt of a part has been gone on with so far.

    stop_ids: the model's own, for generations that name none. pad: what ended rows go on with.
    entropy: what rows draw from where no seed is named.
    """

    def __init__(
        self,
        inputs: TokenRows,
        device: torch.device,
        *,
        stop_ids: tuple[int, ...],
        pad: int | None,
        entropy: int,
    ) -> None:
        self.inputs = inputs
        self.ids: list[list[int]] = [[] for _ in inputs.rows]
        self.ended_after: dict[int, int] = {}
        self._samplers: list[Sampler] = []
        self._padding = 0
        options = inputs.generation
        if options is not None:
            stops = stop_ids if options.stop_ids is None else options.stop_ids
            self._padding = filling = pad if pad is not None else (*stops, 0)[0]
            self._samplers = [
                Sampler(_drawing(options, entropy + row), 1, device, stop_ids=stops, pad=filling)
                for row, _ in enumerate(inputs.rows)
            ]

    def choose(self, row: int, logits: torch.Tensor) -> torch.Tensor:
        """The id a row goes on with, `[1]`, from its logits `[vocab]`."""
        return self._samplers[row].choose(logits[None])

    def take(self, row: int, id: int) -> None:
        """A row goes on with this id; with padding, once it has ended."""
        sampler = self._samplers[row]
        self.ids[row].append(int(sampler.padded(torch.tensor([id]))[0]))
        sampler.take([id])
        if sampler.ended[0] and row not in self.ended_after:
            self.ended_after[row] = len(self.ids[row]) - 1

    def so_far(self, row: int) -> tuple[int, ...]:
        """A row's prompt and what it was gone on with."""
        return (*self.inputs.rows[row], *self.ids[row])

    def ended_invokes(self, spans: Mapping[int, Span], step: int) -> frozenset[int]:
        """The invokes that have no part in a forward pass, because all their rows ended before."""
        return frozenset(
            invoke
            for invoke, span in spans.items()
            if all(
                self.ended_after.get(row, step) < step
                for row in range(span.start, span.start + span.rows)
            )
        )

    @property
    def all_ended(self) -> bool:
        """Whether every row ended by itself."""
        return len(self.ended_after) == len(self.ids)

    def at(self, row: int, step: int) -> int | None:
        """The id a row went on with after a step: padding after its end, None if not known yet."""
        ids = self.ids[row]
        if step < len(ids):
            return ids[step]
        return self._padding if row in self.ended_after else None

    def whole(self, pad: int, steps: int) -> torch.Tensor:
        """Prompts, padded on the left, and `steps` tokens of each: `[batch, pos + steps]`."""
        rows = [
            [pad] * (self.inputs.pos - len(row))
            + [*row, *(self.at(place, step) or 0 for step in range(steps))]
            for place, row in enumerate(self.inputs.rows)
        ]
        return torch.tensor(rows)

    def length(self, row: int) -> int:
        """How many ids a row was gone on with, its end included."""
        return self._samplers[row].lengths[0]


def _drawing(options: Generation, entropy: int) -> Generation:
    return options if options.seed is not None else replace(options, seed=entropy % 2**63)
