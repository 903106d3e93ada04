"""Read and write the residual stream of the plain transformers model, with hooks and nothing else.

The card is measured without the rest of the package, so that one cannot hide a fault of the other.
Layer `n` means the stream after block `n`, before the final norm.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["Edit", "edited", "last_positions", "resid_posts", "tokens"]

Edit = Callable[[Tensor], Tensor]


def tokens(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], padding_side: str = "right"
) -> dict[str, Tensor]:
    """Encode `texts` as one padded batch: input_ids and attention_mask, [batch, pos]."""
    encoded = tokenizer(texts, padding=True, padding_side=padding_side, return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def last_positions(batch: dict[str, Tensor]) -> Tensor:
    """Position of the last real token of each text, [batch]."""
    return batch["attention_mask"].sum(1) - 1


@contextmanager
def edited(model: LlamaForCausalLM, layer: int, edit: Edit) -> Iterator[None]:
    """Inside the block, resid_post [batch, pos, d_model] of `layer` is what `edit` returns."""

    def on_output(_module: Any, _args: Any, output: Any) -> Any:
        # transformers 4 gives a tuple here, transformers 5 the tensor itself.
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        return edit(output)

    handle = model.model.layers[layer].register_forward_hook(on_output)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def resid_posts(model: LlamaForCausalLM, batch: dict[str, Tensor]) -> Tensor:
    """Run the batch and give resid_post of every layer, [layer, batch, pos, d_model]."""
    seen: list[Tensor] = []

    def on_output(_module: Any, _args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(on_output) for block in model.model.layers]
    try:
        model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(seen)
