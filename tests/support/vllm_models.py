"""The family models of `family_models.py` in a size that vLLM's attention takes: heads of 32.

`saved(name, folder)` writes one where vLLM can load it. The weights are seeded and every one
matters, as there; they are smaller here, so that three layers stay in the range of real models.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

__all__ = ["FAMILIES", "HEADS", "LAYERS", "VOCAB", "saved", "vllm_family"]

VOCAB = 96
LAYERS = 3
HEADS, D_HEAD = 4, 32
D_MODEL, D_MLP = HEADS * D_HEAD, 192
_KINDS = ["sliding_attention", "full_attention", "sliding_attention"]


def _common(**options: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB,
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        **options,
    }


def _made(config: Any, *, gains_around: float = 1.0) -> Any:
    """A model of this configuration with seeded weights; `gains_around` is a neutral norm's."""
    module = transformers.AutoModelForCausalLM.from_config(config)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=draw)
            gain = name.endswith("weight") and weight.dim() == 1
            weight.copy_(noise * 0.1 + gains_around if gain else noise * 0.1)
    return module.float().eval()


def _llama() -> Any:
    rope = {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    }  # fmt: skip
    return _made(transformers.LlamaConfig(**_common(rope_parameters=rope)))


def _mistral() -> Any:
    return _made(transformers.MistralConfig(**_common(sliding_window=4, head_dim=D_HEAD)))


def _qwen3() -> Any:
    return _made(transformers.Qwen3Config(**_common(head_dim=64)))


def _gemma2() -> Any:
    options = _common(
        head_dim=64, sliding_window=4, query_pre_attn_scalar=24, tie_word_embeddings=True
    )
    config = transformers.Gemma2Config(
        **options,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=8.0,
        layer_types=_KINDS,
    )
    return _made(config, gains_around=0.0)


def _gemma3() -> Any:
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    }
    config = transformers.Gemma3TextConfig(
        **_common(
            head_dim=64, sliding_window=4, query_pre_attn_scalar=24, tie_word_embeddings=True,
            layer_types=_KINDS, rope_parameters=rope,
        )
    )  # fmt: skip
    return _made(config, gains_around=0.0)


def _gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=D_MODEL, n_inner=D_MLP, n_layer=LAYERS, n_head=HEADS,
        n_positions=128, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return _made(config)


def _gpt_neox(*, parallel: bool = True) -> Any:
    options = _common(use_parallel_residual=parallel)
    del options["num_key_value_heads"]
    return _made(transformers.GPTNeoXConfig(**options))


def _opt(*, post_norm: bool = False) -> Any:
    config = transformers.OPTConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, ffn_dim=D_MLP, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=128, bos_token_id=0, eos_token_id=0,
        pad_token_id=0, do_layer_norm_before=not post_norm,
        word_embed_proj_dim=64 if post_norm else D_MODEL,
    )  # fmt: skip
    return _made(config)


def _falcon(**options: Any) -> Any:
    config = transformers.FalconConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, ffn_hidden_size=D_MLP, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=128, bos_token_id=0, eos_token_id=0,
        **options,
    )  # fmt: skip
    return _made(config)


def _bloom() -> Any:
    config = transformers.BloomConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, n_layer=LAYERS, n_head=HEADS,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return _made(config)


def _mixtral() -> Any:
    return _made(
        transformers.MixtralConfig(
            **_common(num_local_experts=4, num_experts_per_tok=2, head_dim=D_HEAD)
        )
    )


def _qwen2_moe() -> Any:
    config = transformers.Qwen2MoeConfig(
        **_common(num_experts=4, num_experts_per_tok=2, mlp_only_layers=[0]),
        moe_intermediate_size=64,
        shared_expert_intermediate_size=96,
    )
    return _made(config)


def _stablelm() -> Any:
    return _made(transformers.StableLmConfig(**_common(use_qkv_bias=True)))


def _granite() -> Any:
    config = transformers.GraniteConfig(
        **_common(),
        embedding_multiplier=3.0,
        residual_multiplier=0.4,
        attention_multiplier=0.2,
        logits_scaling=2.0,
    )
    return _made(config)


def _cohere2() -> Any:
    """vLLM's window is one position longer than Hugging Face's."""
    options = _common(sliding_window=3, layer_types=_KINDS, head_dim=D_HEAD)
    return _made(transformers.Cohere2Config(**options))


_MODELS: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": lambda: _made(transformers.Qwen2Config(**_common())),
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "gpt_neox-sequential": lambda: _gpt_neox(parallel=False),
    "opt": _opt,
    "opt-350m": lambda: _opt(post_norm=True),
    "phi3": lambda: _made(transformers.Phi3Config(**_common())),
    "olmo2": lambda: _made(transformers.Olmo2Config(**_common())),
    "falcon-40b": lambda: _falcon(new_decoder_architecture=True, num_kv_heads=2),
    "falcon-7b": lambda: _falcon(),
    "mixtral": _mixtral,
    "qwen2_moe": _qwen2_moe,
    "stablelm": _stablelm,
    "granite": _granite,
    # Here vLLM itself says something else than Hugging Face.
    "bloom": _bloom,
    "cohere2": _cohere2,
}

FAMILIES = tuple(_MODELS)


def vllm_family(name: str) -> Any:
    """One of `FAMILIES`, made anew."""
    return _MODELS[name]()


def saved(name: str, folder: Path) -> Any:
    """The same, also written to a folder that vLLM loads."""
    module = vllm_family(name)
    module.save_pretrained(folder)
    return module
