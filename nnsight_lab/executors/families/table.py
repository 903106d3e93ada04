"""The families we know, as data. To add one, add a row and a test with a random-weight model.

What a row cannot say is measured: shapes, tuples and order are found by running the model, and
every name is checked when a model loads (`executors/certify.py`), so a row that does not fit a
model costs a line in its report, never a wrong value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch

__all__ = [
    "FAMILIES",
    "Attention",
    "Family",
    "FusedProjection",
    "InterfaceCall",
    "MethodCall",
    "TorchCall",
    "family_of",
    "model_type_of",
]


@dataclass(frozen=True, slots=True)
class InterfaceCall:
    """Attention goes through the interface of `transformers`, where ours can stand in."""


@dataclass(frozen=True, slots=True)
class TorchCall:
    """The module calls torch's `scaled_dot_product_attention` by itself."""


@dataclass(frozen=True, slots=True)
class MethodCall:
    """The module attends in a method of its own, which takes q, k and v.

    pattern: the part (a dropout) that is given the pattern and hands it on.
    """

    name: str
    pattern: str


@dataclass(frozen=True, slots=True)
class FusedProjection:
    """q, k and v enter as one projection makes them: `[batch, pos, head * (q, k, v) * d_head]`.

    path: that projection. pattern: the part (a dropout) that is given the pattern.
    """

    path: str
    pattern: str


Attention: TypeAlias = InterfaceCall | TorchCall | MethodCall | FusedProjection
"""Where q, k, v and the pattern of a family can be met."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Where the parts of one architecture are, as module paths.

    model_types: values of `config.model_type` this row serves.
    embed, layers, norm, head: from the model; attn and mlp: from a block.
    attn_out: the output projection, whose input is `z`. attention: how q, k, v are met.
    mlp_down: from the mlp; its input is the neurons.
    flat_mlp: for blocks without an mlp module, the block's own two projections (up, down), which
        it gives all positions of all prompts as rows.
    """

    name: str
    model_types: tuple[str, ...]
    embed: str = "model.embed_tokens"
    layers: str = "model.layers"
    norm: str = "model.norm"
    head: str = "lm_head"
    attn: str = "self_attn"
    attn_out: str = "o_proj"
    attention: Attention = InterfaceCall()
    mlp: str = "mlp"
    mlp_down: str = "down_proj"
    flat_mlp: tuple[str, str] | None = None


FAMILIES: tuple[Family, ...] = (
    Family(name="llama", model_types=("llama",)),
    Family(name="mistral", model_types=("mistral",)),
    Family(name="qwen2", model_types=("qwen2",)),
    Family(name="qwen3", model_types=("qwen3",)),
    Family(name="gemma2", model_types=("gemma2",)),
    Family(name="gemma3", model_types=("gemma3_text",)),
    Family(
        name="gemma3 with vision",
        model_types=("gemma3",),
        embed="model.language_model.embed_tokens",
        layers="model.language_model.layers",
        norm="model.language_model.norm",
    ),
    Family(name="phi3", model_types=("phi3",)),
    Family(name="olmo2", model_types=("olmo2",)),
    Family(name="granite", model_types=("granite",)),
    Family(name="stablelm", model_types=("stablelm",)),
    Family(name="mixtral", model_types=("mixtral",)),
    Family(name="qwen2_moe", model_types=("qwen2_moe",)),
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
    Family(
        name="gpt_neox",
        model_types=("gpt_neox",),
        embed="gpt_neox.embed_in",
        layers="gpt_neox.layers",
        norm="gpt_neox.final_layer_norm",
        attn="attention",
        attn_out="dense",
        mlp_down="dense_4h_to_h",
    ),
    Family(
        name="opt",
        model_types=("opt",),
        embed="model.decoder.embed_tokens",
        layers="model.decoder.layers",
        norm="model.decoder.final_layer_norm",
        attn_out="out_proj",
        flat_mlp=("fc1", "fc2"),
    ),
    Family(
        name="falcon",
        model_types=("falcon",),
        embed="transformer.word_embeddings",
        layers="transformer.h",
        norm="transformer.ln_f",
        attn="self_attention",
        attn_out="dense",
        attention=TorchCall(),
        mlp_down="dense_4h_to_h",
    ),
    Family(
        name="bloom",
        model_types=("bloom",),
        embed="transformer.word_embeddings",
        layers="transformer.h",
        norm="transformer.ln_f",
        attn="self_attention",
        attn_out="dense",
        attention=FusedProjection("query_key_value", pattern="attention_dropout"),
        mlp_down="dense_4h_to_h",
    ),
    Family(
        name="gptj",
        model_types=("gptj",),
        embed="transformer.wte",
        layers="transformer.h",
        norm="transformer.ln_f",
        attn="attn",
        attn_out="out_proj",
        attention=MethodCall("_attn", pattern="attn_dropout"),
        mlp_down="fc_out",
    ),
)


def model_type_of(module: torch.nn.Module) -> str:
    """What `transformers` calls this architecture; empty for any other module."""
    return str(getattr(getattr(module, "config", None), "model_type", None) or "")


def family_of(module: torch.nn.Module) -> Family | None:
    """The family a loaded model belongs to, or None when it is not listed."""
    kind = model_type_of(module)
    return next((family for family in FAMILIES if kind in family.model_types), None)
