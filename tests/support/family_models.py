"""Small random models of every family we name, configured like published checkpoints.

Grouped heads, soft-caps, sliding windows, norms of q and k, biases: what a family has, its model
here has, and every parameter has a seeded value that matters, so a dropped one shows. Module paths
are written down by hand: the tests must not learn them from the code they check.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
import transformers

__all__ = ["D_MODEL", "FAMILY_NAMES", "HEADS", "LAYERS", "VOCAB", "FamilyModel", "family_model"]

VOCAB = 61
LAYERS = 3
D_MODEL, D_MLP, HEADS = 32, 48, 4
LIST_OF_WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]


@dataclass(frozen=True, kw_only=True)
class FamilyModel:
    """A model and where its parts are, `{i}` standing for the layer.

    mlp: input and output of the mlp are those of these two modules (often the same one).
    experts: layers whose neurons live inside experts, so that nobody can hook them.
    inside: how a hand-written hook gets at q, k, v (`tests/support/family_hooks.py`).
    eager: whether the family's own eager attention can be trusted as an oracle.
    """

    module: Any
    embed: str = "model.embed_tokens"
    block: str = "model.layers.{i}"
    attn: str = "model.layers.{i}.self_attn"
    attn_out: str = "model.layers.{i}.self_attn.o_proj"
    mlp: tuple[str, str] = ("model.layers.{i}.mlp", "model.layers.{i}.mlp")
    mlp_down: str = "model.layers.{i}.mlp.down_proj"
    norm: str | None = "model.norm"
    kv_heads: int = 2
    d_head: int = 8
    experts: frozenset[int] = frozenset()
    inside: Literal["interface", "method", "fused", "torch"] = "interface"
    eager: bool = True


def _common(**options: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB,
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
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
            weight.copy_(noise * 0.2 + gains_around if gain else noise * 0.2)
    return module.float().eval()


def _llama() -> FamilyModel:
    rope = {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
    }  # fmt: skip
    return FamilyModel(module=_made(transformers.LlamaConfig(**_common(rope_parameters=rope))))


def _mistral() -> FamilyModel:
    return FamilyModel(module=_made(transformers.MistralConfig(**_common(sliding_window=4))))


def _qwen2() -> FamilyModel:
    return FamilyModel(module=_made(transformers.Qwen2Config(**_common())))


def _qwen3() -> FamilyModel:
    config = transformers.Qwen3Config(**_common(head_dim=16))
    return FamilyModel(module=_made(config), d_head=16)


def _gemma2() -> FamilyModel:
    config = transformers.Gemma2Config(
        **_common(
            head_dim=16, sliding_window=4, query_pre_attn_scalar=24, tie_word_embeddings=True
        ),
        attn_logit_softcapping=5.0,
        final_logit_softcapping=8.0,
        layer_types=LIST_OF_WINDOWS,
    )
    module = _made(config, gains_around=0.0)
    module.set_attn_implementation("eager")  # transformers 5.19 would choose one without a cap
    return FamilyModel(module=module, d_head=16)


def _gemma3_text() -> dict[str, Any]:
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    }
    return _common(
        head_dim=16, sliding_window=4, query_pre_attn_scalar=24, tie_word_embeddings=True,
        layer_types=LIST_OF_WINDOWS, rope_parameters=rope,
    )  # fmt: skip


def _gemma3() -> FamilyModel:
    config = transformers.Gemma3TextConfig(**_gemma3_text())
    return FamilyModel(module=_made(config, gains_around=0.0), d_head=16)


def _gemma3_vision() -> FamilyModel:
    vision = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 8, "patch_size": 4,
    }  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=_gemma3_text(), vision_config=vision, mm_tokens_per_image=4
    )
    layer = "model.language_model.layers.{i}"
    return FamilyModel(
        module=_made(config, gains_around=0.0),
        embed="model.language_model.embed_tokens",
        block=layer,
        attn=f"{layer}.self_attn",
        attn_out=f"{layer}.self_attn.o_proj",
        mlp=(f"{layer}.mlp", f"{layer}.mlp"),
        mlp_down=f"{layer}.mlp.down_proj",
        norm="model.language_model.norm",
        d_head=16,
    )


def _phi3() -> FamilyModel:
    return FamilyModel(module=_made(transformers.Phi3Config(**_common(sliding_window=5))))


def _olmo2() -> FamilyModel:
    return FamilyModel(module=_made(transformers.Olmo2Config(**_common())))


def _granite() -> FamilyModel:
    config = transformers.GraniteConfig(
        **_common(attention_bias=True, mlp_bias=True), attention_multiplier=0.2,
        embedding_multiplier=3.0, residual_multiplier=0.4, logits_scaling=2.0,
    )  # fmt: skip
    return FamilyModel(module=_made(config))


def _stablelm() -> FamilyModel:
    return FamilyModel(module=_made(transformers.StableLmConfig(**_common(use_qkv_bias=True))))


def _mixtral() -> FamilyModel:
    config = transformers.MixtralConfig(**_common(num_local_experts=4, num_experts_per_tok=2))
    return FamilyModel(module=_made(config), experts=frozenset(range(LAYERS)))


def _qwen2_moe() -> FamilyModel:
    config = transformers.Qwen2MoeConfig(
        **_common(num_experts=4, num_experts_per_tok=2, mlp_only_layers=[0]),
        moe_intermediate_size=16,
        shared_expert_intermediate_size=24,
    )
    return FamilyModel(module=_made(config), experts=frozenset({1, 2}))


def _gpt2() -> FamilyModel:
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=D_MODEL, n_inner=D_MLP, n_layer=LAYERS, n_head=HEADS,
        n_positions=64, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    layer = "transformer.h.{i}"
    return FamilyModel(
        module=_made(config),
        embed="transformer.wte",
        block=layer,
        attn=f"{layer}.attn",
        attn_out=f"{layer}.attn.c_proj",
        mlp=(f"{layer}.mlp", f"{layer}.mlp"),
        mlp_down=f"{layer}.mlp.c_proj",
        norm="transformer.ln_f",
        kv_heads=HEADS,
    )


def _gpt_neox(*, parallel: bool = True) -> FamilyModel:
    options = _common(use_parallel_residual=parallel)
    del options["num_key_value_heads"]
    layer = "gpt_neox.layers.{i}"
    return FamilyModel(
        module=_made(transformers.GPTNeoXConfig(**options)),
        embed="gpt_neox.embed_in",
        block=layer,
        attn=f"{layer}.attention",
        attn_out=f"{layer}.attention.dense",
        mlp=(f"{layer}.mlp", f"{layer}.mlp"),
        mlp_down=f"{layer}.mlp.dense_4h_to_h",
        norm="gpt_neox.final_layer_norm",
        kv_heads=HEADS,
    )


def _opt(*, post_norm: bool = False) -> FamilyModel:
    """`post_norm`: as OPT-350m, with norms on the stream and an embedding narrower than it."""
    config = transformers.OPTConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, ffn_dim=D_MLP, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
        pad_token_id=0, do_layer_norm_before=not post_norm,
        word_embed_proj_dim=24 if post_norm else D_MODEL,
    )  # fmt: skip
    layer = "model.decoder.layers.{i}"
    return FamilyModel(
        module=_made(config),
        embed="model.decoder.embed_tokens",
        block=layer,
        attn=f"{layer}.self_attn",
        attn_out=f"{layer}.self_attn.out_proj",
        mlp=(f"{layer}.fc1", f"{layer}.fc2"),
        mlp_down=f"{layer}.fc2",
        norm=None if post_norm else "model.decoder.final_layer_norm",
        kv_heads=HEADS,
    )


def _falcon(*, kv_heads: int, eager: bool = True, **options: Any) -> FamilyModel:
    config = transformers.FalconConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, ffn_hidden_size=D_MLP, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
        **options,
    )  # fmt: skip
    layer = "transformer.h.{i}"
    return FamilyModel(
        module=_made(config),
        embed="transformer.word_embeddings",
        block=layer,
        attn=f"{layer}.self_attention",
        attn_out=f"{layer}.self_attention.dense",
        mlp=(f"{layer}.mlp", f"{layer}.mlp"),
        mlp_down=f"{layer}.mlp.dense_4h_to_h",
        norm="transformer.ln_f",
        kv_heads=kv_heads,
        inside="torch",
        eager=eager,
    )


def _bloom() -> FamilyModel:
    config = transformers.BloomConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, n_layer=LAYERS, n_head=HEADS,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    layer = "transformer.h.{i}"
    return FamilyModel(
        module=_made(config),
        embed="transformer.word_embeddings",
        block=layer,
        attn=f"{layer}.self_attention",
        attn_out=f"{layer}.self_attention.dense",
        mlp=(f"{layer}.mlp", f"{layer}.mlp"),
        mlp_down=f"{layer}.mlp.dense_4h_to_h",
        norm="transformer.ln_f",
        kv_heads=HEADS,
        inside="fused",
    )


def _gptj() -> FamilyModel:
    config = transformers.GPTJConfig(
        vocab_size=VOCAB, n_embd=D_MODEL, n_inner=D_MLP, n_layer=LAYERS, n_head=HEADS,
        n_positions=64, rotary_dim=4, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    layer = "transformer.h.{i}"
    return FamilyModel(
        module=_made(config),
        embed="transformer.wte",
        block=layer,
        attn=f"{layer}.attn",
        attn_out=f"{layer}.attn.out_proj",
        mlp=(f"{layer}.mlp", f"{layer}.mlp"),
        mlp_down=f"{layer}.mlp.fc_out",
        norm="transformer.ln_f",
        kv_heads=HEADS,
        inside="method",
    )


_MODELS: dict[str, Callable[[], FamilyModel]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gemma3-vision": _gemma3_vision,
    "phi3": _phi3,
    "olmo2": _olmo2,
    "granite": _granite,
    "stablelm": _stablelm,
    "mixtral": _mixtral,
    "qwen2_moe": _qwen2_moe,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "gpt_neox-sequential": lambda: _gpt_neox(parallel=False),
    "opt": _opt,
    "opt-350m": lambda: _opt(post_norm=True),
    "falcon-40b": lambda: _falcon(kv_heads=2, new_decoder_architecture=True, num_kv_heads=2),
    "falcon-7b": lambda: _falcon(kv_heads=1),
    # transformers' own eager attention adds this one's ALiBi twice.
    "falcon-rw": lambda: _falcon(
        kv_heads=HEADS, eager=False, alibi=True, multi_query=False, parallel_attn=False, bias=True
    ),
    "bloom": _bloom,
    "gptj": _gptj,
}

FAMILY_NAMES = tuple(_MODELS)


@cache
def family_model(name: str) -> FamilyModel:
    """One of `FAMILY_NAMES`, made once."""
    return _MODELS[name]()
