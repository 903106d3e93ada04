"""Which activations patching moves: a part of a block, some positions, in two prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from nnsight_lab.contract import TokenRows
from nnsight_lab.errors import BadInput
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.recipes.prompt import layers_of, one_prompt, tokens_of

__all__ = ["PARTS", "Part", "Places", "Positions", "places_of"]

Part: TypeAlias = Literal["resid", "attn", "mlp", "heads"]
"""The residual stream after a block, what its attention or MLP returns, or each head's `z`."""

PARTS: tuple[Part, ...] = ("resid", "attn", "mlp", "heads")

Positions: TypeAlias = Sequence[int | tuple[int, int]]
"""Positions of both prompts; where they differ, pairs `(clean, corrupt)`."""


@dataclass(frozen=True)
class Places:
    """Where to patch, checked: two prompts, a part, layers, and positions in both prompts."""

    model: LanguageModel
    clean: TokenRows
    corrupt: TokenRows
    part: Part
    layers: list[int]
    clean_pos: list[int]
    corrupt_pos: list[int]

    @property
    def columns(self) -> list[str]:
        """What the columns of a map are: heads, or tokens of the corrupt prompt."""
        if self.part == "heads":
            return [f"head {head}" for head in range(self._heads)]
        tokens = tokens_of(self.model, self.corrupt, 0)
        return [tokens[pos] for pos in self.corrupt_pos]

    @property
    def _heads(self) -> int:
        with self.model.trace(self.clean, execute=False):
            return int(self.model.layers[0].attn.z.shape[2])

    def read(self, layer: int) -> Any:
        """The part in one layer, in the open block: `[batch, pos, …]`."""
        block = self.model.layers[layer]
        match self.part:
            case "resid":
                return block.output
            case "attn":
                return block.attn.output
            case "mlp":
                return block.mlp.output
            case "heads":
                return block.attn.z

    def taken(self, value: Any, positions: list[int]) -> Any:
        """Column by column what a part holds in the first row: `[column, …]`.

        A column is a position, or a head at all positions.
        """
        chosen = value[0][torch.tensor(positions)]
        return chosen.transpose(0, 1) if self.part == "heads" else chosen

    def put(self, into: Any, columns: list[int], source: Any) -> None:
        """Write `source[i]` into column `columns[i]`, in row `1 + i`; row 0 stays as it is."""
        which = torch.tensor(columns)
        rows = torch.arange(1, len(columns) + 1)
        if self.part == "heads":
            pos = torch.tensor(self.corrupt_pos)
            into[rows[:, None], pos[None, :], which[:, None]] = source[which]
        else:
            into[rows, torch.tensor(self.corrupt_pos)[which]] = source[which]


def places_of(
    model: LanguageModel,
    prompts: tuple[Any, Any],
    part: Part,
    layers: Sequence[int] | None,
    positions: Positions | None,
) -> Places:
    """Where to patch.

    Raises:
        BadInput: there is no such part or position, or the prompts differ in length.
        AddressNotFound: there is no such layer.
    """
    if part not in PARTS:
        raise BadInput(f"There is no part {part!r}.", hint=f"One of {', '.join(PARTS)}.")
    clean, corrupt = (one_prompt(model, prompt) for prompt in prompts)
    pairs = _pairs(clean.pos, corrupt.pos, positions)
    return Places(
        model, clean, corrupt, part, layers_of(model, layers),
        [pair[0] for pair in pairs], [pair[1] for pair in pairs],
    )  # fmt: skip


def _pairs(clean: int, corrupt: int, positions: Positions | None) -> list[tuple[int, int]]:
    if positions is None:
        if clean != corrupt:
            raise BadInput(
                f"The clean prompt has {clean} tokens, the corrupt one {corrupt}.",
                hint="Say which belong together: positions=[(clean, corrupt), …], such as (-1, -1).",
            )
        return [(pos, pos) for pos in range(clean)]
    pairs = [pair if isinstance(pair, tuple) else (pair, pair) for pair in positions]
    for one, other in pairs:
        if one not in range(-clean, clean) or other not in range(-corrupt, corrupt):
            raise BadInput(
                f"There is no position {(one, other)} in both prompts.",
                hint=f"The clean one has {clean} tokens, the corrupt one {corrupt}, from 0.",
            )
    if not pairs:
        raise BadInput("There are no positions to patch.", hint="Leave positions out for all.")
    return [(one % clean, other % corrupt) for one, other in pairs]
