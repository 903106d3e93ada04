"""The families we know, as data. To add one, add a row and a test with a random-weight model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["FAMILIES", "Family", "family_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Where the parts of one architecture are, as module paths.

    model_types: values of `config.model_type` this row serves.
    embed, layers, norm, head: from the model; attn and mlp: from a block.
    attn_out: the output projection, whose input is `z`. mlp_down: its input is the neurons.
    """

    name: str
    model_types: tuple[str, ...]
    embed: str
    layers: str
    norm: str
    head: str = "lm_head"
    attn: str = "self_attn"
    attn_out: str = "o_proj"
    mlp: str = "mlp"
    mlp_down: str = "down_proj"


FAMILIES: tuple[Family, ...] = (
    Family(
        name="llama",
        model_types=("llama",),
        embed="model.embed_tokens",
        layers="model.layers",
        norm="model.norm",
    ),
    Family(
        name="gpt2",
        model_types=("gpt2",),
        embed="transformer.wte",
        layers="transformer.h",
        norm="transformer.ln_f",
        attn="attn",
        attn_out="c_proj",
        mlp_down="c_proj",
    ),
)


def family_of(module: torch.nn.Module) -> Family | None:
    """The family a loaded model belongs to, or None when it is not listed."""
    config = getattr(module, "config", None)
    kind = getattr(config, "model_type", None)
    return next((family for family in FAMILIES if kind in family.model_types), None)
