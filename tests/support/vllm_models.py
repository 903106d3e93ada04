"""Small random models that vLLM can hold, each saved in a folder as a checkpoint is.

As `family_models.py`, but with the head sizes vLLM's kernels know (32 and more), and with a
vocabulary that vLLM has to pad. What a family has, its model here has: windows shorter than the
prompts, soft-caps, multipliers, and no weight that a wrong path could drop unseen.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

__all__ = [
    "D_HEAD",
    "D_MODEL",
    "HEADS",
    "LAYERS",
    "TESTED_NAMES",
    "VLLM_NAMES",
    "VOCAB",
    "vllm_model",
]

VOCAB = 97
LAYERS = 3
D_MODEL, D_MLP, HEADS, D_HEAD = 128, 160, 4, 32
POSITIONS = 256
WINDOW = 8
WINDOWS_AND_FULL = ["sliding_attention", "full_attention", "sliding_attention"]


def _common(**options: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB,
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        **options,
    }


def _llama(**options: Any) -> Any:
    rope = {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
    }  # fmt: skip
    return transformers.LlamaConfig(**_common(rope_parameters=rope, **options))


def _gemma2(**options: Any) -> Any:
    return transformers.Gemma2Config(
        **_common(
            head_dim=D_HEAD, sliding_window=WINDOW, query_pre_attn_scalar=48,
            tie_word_embeddings=True, **{"layer_types": WINDOWS_AND_FULL, **options},
        ),
        attn_logit_softcapping=5.0,
        final_logit_softcapping=8.0,
    )  # fmt: skip


def _gemma3() -> Any:
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    }
    return transformers.Gemma3TextConfig(
        **_common(
            head_dim=D_HEAD, sliding_window=WINDOW, query_pre_attn_scalar=48,
            tie_word_embeddings=True, layer_types=WINDOWS_AND_FULL, rope_parameters=rope,
        )
    )  # fmt: skip


def _qwen2_moe(**options: Any) -> Any:
    return transformers.Qwen2MoeConfig(
        **_common(num_experts=4, num_experts_per_tok=2, mlp_only_layers=[0], **options),
        moe_intermediate_size=64,
        shared_expert_intermediate_size=96,
    )


def _granite() -> Any:
    return transformers.GraniteConfig(
        **_common(), embedding_multiplier=6.0, residual_multiplier=0.4, logits_scaling=2.0,
        attention_multiplier=0.1,
    )  # fmt: skip


def _gpt2(**options: Any) -> Any:
    return transformers.GPT2Config(
        **{
            "vocab_size": VOCAB, "n_embd": D_MODEL, "n_inner": D_MLP, "n_layer": LAYERS,
            "n_head": HEADS, "n_positions": POSITIONS, "bos_token_id": 0, "eos_token_id": 0,
            **options,
        }
    )  # fmt: skip


def _gpt_neox(*, parallel: bool = True) -> Any:
    options = _common(use_parallel_residual=parallel)
    del options["num_key_value_heads"]
    return transformers.GPTNeoXConfig(**options)


def _opt(*, post_norm: bool = False) -> Any:
    """`post_norm`: as OPT-350m, with norms on the stream and an embedding narrower than it."""
    return transformers.OPTConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, ffn_dim=D_MLP, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=POSITIONS, bos_token_id=0,
        eos_token_id=0, pad_token_id=0, do_layer_norm_before=not post_norm,
        word_embed_proj_dim=64 if post_norm else D_MODEL,
    )  # fmt: skip


def _falcon(**options: Any) -> Any:
    return transformers.FalconConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, ffn_hidden_size=4 * D_MODEL,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, max_position_embeddings=POSITIONS,
        bos_token_id=0, eos_token_id=0, **options,
    )  # fmt: skip


def _bloom() -> Any:
    return transformers.BloomConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, n_layer=LAYERS, n_head=HEADS,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip


def _cohere2() -> Any:
    """In vLLM its window is one position longer than in Hugging Face."""
    return transformers.Cohere2Config(
        **_common(sliding_window=WINDOW, layer_types=WINDOWS_AND_FULL)
    )


_CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "llama-tied": lambda: _llama(tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "mistral": lambda: transformers.MistralConfig(**_common(sliding_window=WINDOW)),
    "qwen2": lambda: transformers.Qwen2Config(**_common()),
    "qwen3": lambda: transformers.Qwen3Config(**_common(head_dim=D_HEAD)),
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": lambda: transformers.Phi3Config(**_common(sliding_window=WINDOW)),
    "olmo2": lambda: transformers.Olmo2Config(**_common()),
    "granite": _granite,
    "stablelm": lambda: transformers.StableLmConfig(**_common(use_qkv_bias=True)),
    "mixtral": lambda: transformers.MixtralConfig(
        **_common(num_local_experts=4, num_experts_per_tok=2)
    ),
    "qwen2_moe": _qwen2_moe,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "gpt_neox-sequential": lambda: _gpt_neox(parallel=False),
    "opt": _opt,
    "opt-350m": lambda: _opt(post_norm=True),
    "falcon-40b": lambda: _falcon(new_decoder_architecture=True, num_kv_heads=2),
    "falcon-7b": _falcon,
    "falcon-rw": lambda: _falcon(alibi=True, multi_query=False, parallel_attn=False, bias=True),
    "bloom": _bloom,
}

VLLM_NAMES = tuple(_CONFIGS)

_OF_EACH_KIND = (
    "llama", "gemma2", "gpt2", "gpt_neox", "opt-350m", "falcon-7b", "mixtral", "stablelm",
)  # fmt: skip
TESTED_NAMES = VLLM_NAMES if os.environ.get("NNSIGHT_LAB_FAMILIES") == "all" else _OF_EACH_KIND
"""Whose model each takes seconds to start: one of each kind, or all with `make test FAMILIES=all`."""

_MORE: dict[str, Callable[[], Any]] = {
    "llama-deep": lambda: _llama(num_hidden_layers=6),
    "llama-big": lambda: _llama(num_hidden_layers=6, vocab_size=1000),
    "gemma2-big": lambda: _gemma2(
        num_hidden_layers=6, vocab_size=1000, layer_types=WINDOWS_AND_FULL[:2] * 3
    ),
    "gpt2-big": lambda: _gpt2(n_layer=6, vocab_size=1000),
    "qwen2_moe-big": lambda: _qwen2_moe(num_hidden_layers=6, vocab_size=1000),
    "cohere2": _cohere2,
}
"""For what only some tests are about."""


def _made(config: Any, *, gains_around: float) -> Any:
    """A model of this configuration with seeded weights; `gains_around` is a neutral norm's."""
    module = transformers.AutoModelForCausalLM.from_config(config)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=draw)
            gain = name.endswith("weight") and weight.dim() == 1
            weight.copy_(noise * 0.2 + gains_around if gain else noise * 0.1)
    if getattr(config, "attn_logit_softcapping", None):
        module.set_attn_implementation("eager")  # `sdpa` leaves the soft-cap out
    return module.float().eval()


@cache
def vllm_model(name: str) -> tuple[Any, Path]:
    """One of `VLLM_NAMES`, made once: the Hugging Face module, and the folder it is saved in."""
    config = {**_CONFIGS, **_MORE}[name]()
    module = _made(config, gains_around=0.0 if name.startswith("gemma") else 1.0)
    folder = Path(_scratch().name) / name
    module.save_pretrained(folder)
    return module, folder


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Kept until the process ends: an engine reads the checkpoint when it starts."""
    return tempfile.TemporaryDirectory(prefix="vllm-models-")
