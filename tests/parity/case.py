"""One family in the grid: its model, where its parts are, and the numbers every program is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import torch

from tests.support.family_models import FamilyModel, family_model
from tests.support.vllm_models import D_HEAD, D_MODEL, VOCAB, vllm_model

__all__ = ["FAMILIES", "Case", "Ids", "case"]

Ids = list[list[int]]

FAMILIES: dict[str, str] = {
    "Llama": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3", "Mistral": "mistral",
    "Gemma 2": "gemma2", "Gemma 3": "gemma3", "GPT-2": "gpt2", "GPT-NeoX": "gpt_neox",
    "OPT": "opt", "Phi-3": "phi3", "OLMo 2": "olmo2", "Falcon": "falcon-40b",
    "Granite": "granite", "StableLM": "stablelm", "Mixtral": "mixtral", "Qwen2-MoE": "qwen2_moe",
}  # fmt: skip
"""The families of the grid, and what the models of the tests are called."""

SAE_WIDTH = 192


@dataclass(frozen=True)
class Case:
    """A family and the numbers of its cells, the same for every engine.

    small: the plain model, and its module paths as written down by hand. folder: its checkpoint.
    """

    name: str
    small: FamilyModel
    folder: Path

    @cached_property
    def _draw(self) -> torch.Generator:
        return torch.Generator().manual_seed(11)

    def _prompt(self, length: int) -> list[int]:
        # Without 0, which pads.
        return torch.randint(1, VOCAB, (length,), generator=self._draw).tolist()

    @cached_property
    def clean(self) -> Ids:
        """A prompt longer than the sliding windows."""
        return [self._prompt(12)]

    @cached_property
    def corrupted(self) -> Ids:
        """As `clean`, with other tokens in the middle."""
        (row,) = self.clean
        return [[*row[:4], *self._prompt(3), *row[7:]]]

    @cached_property
    def other(self) -> Ids:
        """A prompt of another length."""
        return [self._prompt(7)]

    @cached_property
    def reference(self) -> Ids:
        """Prompts of one length, to take a mean over."""
        return [self._prompt(10) for _ in range(3)]

    @cached_property
    def many(self) -> Ids:
        """Prompts of unequal length."""
        return [self._prompt(length) for length in (5, 13, 9, 3)]

    @cached_property
    def direction(self) -> torch.Tensor:
        """A direction of the residual stream."""
        return torch.randn(D_MODEL, generator=self._draw)

    @cached_property
    def sae(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """A sparse autoencoder with random weights: encoder, its bias, decoder, its bias."""

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=self._draw)

        encoder = drawn(D_MODEL, SAE_WIDTH) * D_MODEL**-0.5
        return encoder, drawn(SAE_WIDTH) * 0.1, drawn(SAE_WIDTH, D_MODEL) * 0.1, drawn(D_MODEL)

    @cached_property
    def probe(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A linear probe of three classes."""
        weight = torch.randn(D_MODEL, 3, generator=self._draw) * D_MODEL**-0.5
        return weight, torch.randn(3, generator=self._draw)


@cache
def case(name: str) -> Case:
    """The case of a family, by its name in `FAMILIES`."""
    short = FAMILIES[name]
    module, folder = vllm_model(short)
    made = Case(name, replace(family_model(short), module=module, d_head=D_HEAD), folder)
    # Drawn in this order whatever runs first.
    for what in ("clean", "corrupted", "other", "reference", "many", "direction", "sae", "probe"):
        getattr(made, what)
    return made
