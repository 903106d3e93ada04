"""Small random models in which nothing is neutral: every norm, bias and head has its own numbers.

A dropped bias, a wrong head grouping or a skipped norm then shows in the logits. Weights are
seeded, so a failure can be looked at again. Paths are written down here by hand: the tests must
not learn them from the code they check.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

__all__ = ["LAYERS", "SmallModel", "VOCAB", "small_gpt2", "small_llama", "word_tokenizer"]

VOCAB = 61
PAD = "<pad>"
LAYERS = 3
HEADS, KV_HEADS, D_HEAD, D_MODEL, D_MLP = 4, 2, 8, 32, 48


@dataclass(frozen=True)
class SmallModel:
    """A model and where its parts are, `{i}` standing for the layer."""

    module: Any
    embed: str
    block: str
    attn: str
    attn_out: str
    mlp: str
    mlp_down: str
    norm: str
    kv_heads: int

    def at(self, template: str, layer: int) -> str:
        """The module path of a part in one layer."""
        return template.format(i=layer)


def _randomised(module: torch.nn.Module, seed: int) -> Any:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=draw)
            gain = name.endswith("weight") and weight.dim() == 1
            weight.copy_(noise * 0.1 + 1.0 if gain else noise * 0.2)
    return module.eval()


def small_llama(**options: Any) -> SmallModel:
    """Grouped-query attention: two query heads share each key-value head."""
    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "mlp_bias": True,
        **options,
    }
    return SmallModel(
        module=_randomised(LlamaForCausalLM(LlamaConfig(**settings)), seed=1),
        embed="model.embed_tokens",
        block="model.layers.{i}",
        attn="model.layers.{i}.self_attn",
        attn_out="model.layers.{i}.self_attn.o_proj",
        mlp="model.layers.{i}.mlp",
        mlp_down="model.layers.{i}.mlp.down_proj",
        norm="model.norm",
        kv_heads=KV_HEADS,
    )


def small_gpt2(**options: Any) -> SmallModel:
    """Learned absolute positions, fused q, k and v, biases everywhere."""
    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "n_embd": D_MODEL,
        "n_inner": D_MLP,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_positions": 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
        **options,
    }
    return SmallModel(
        module=_randomised(GPT2LMHeadModel(GPT2Config(**settings)), seed=2),
        embed="transformer.wte",
        block="transformer.h.{i}",
        attn="transformer.h.{i}.attn",
        attn_out="transformer.h.{i}.attn.c_proj",
        mlp="transformer.h.{i}.mlp",
        mlp_down="transformer.h.{i}.mlp.c_proj",
        norm="transformer.ln_f",
        kv_heads=HEADS,
    )


def word_tokenizer() -> Any:
    """A tokenizer of the words `w0` … `w59`, one token each, that pads with token 0."""
    words = {PAD: 0} | {f"w{number}": number + 1 for number in range(VOCAB - 1)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, unk_token=PAD)
