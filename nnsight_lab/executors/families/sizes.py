"""The sizes a model's configuration promises: what every standard name's shape is checked against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Sizes", "sizes_of"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Axes of a language model: `kv_heads` of k and v, `d_vocab` of the logits."""

    d_model: int
    heads: int
    kv_heads: int
    d_head: int
    d_vocab: int


def sizes_of(config: Any) -> Sizes:
    """The sizes in a configuration of `transformers`; 0 for what it does not say."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config

    def number(*names: str) -> int:
        found = (getattr(text, name, None) for name in names)
        return next((value for value in found if isinstance(value, int) and value), 0)

    d_model, heads = number("hidden_size"), number("num_attention_heads")
    return Sizes(
        d_model=d_model,
        heads=heads,
        kv_heads=_kv_heads(text, number("num_key_value_heads", "num_kv_heads") or heads),
        d_head=number("head_dim") or (d_model // heads if heads else 0),
        d_vocab=number("vocab_size"),
    )


def _kv_heads(text: Any, told: int) -> int:
    """Falcon says twice how many there are; its older models share one key among all heads."""
    if not hasattr(text, "new_decoder_architecture") or text.new_decoder_architecture:
        return told
    return 1 if text.multi_query else int(text.num_attention_heads)
