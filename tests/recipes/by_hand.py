"""What recipes are compared with: the plain bundled model, run with hooks of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.support.hooks import forward, hooked, inputs_seen, outputs_seen, tensor_of

__all__ = [
    "CLEAN",
    "CORRUPT",
    "D_HEAD",
    "HEADS",
    "JOHN",
    "LAYERS",
    "MARY",
    "change_output",
    "close",
    "difference",
    "ids_of",
    "part_of",
    "patched",
    "plain",
    "stream",
]

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Mary and John went to the store, Mary gave a drink to"
LAYERS, HEADS, D_HEAD = 6, 4, 32
MARY, JOHN = " Mary", " John"

_PATHS = {
    "resid": "model.layers.{}",
    "attn": "model.layers.{}.self_attn",
    "mlp": "model.layers.{}.mlp",
}
_PROJECTION = "model.layers.{}.self_attn.o_proj"


def ids_of(tiny: Any, text: str) -> list[int]:
    """The token ids of a text, by its tokenizer."""
    found: list[int] = tiny.tokenizer(text)["input_ids"]
    return found


def difference(tiny: Any, logits: torch.Tensor) -> float:
    """The logit of Mary minus that of John, at the last position of one prompt."""
    mary, john = (ids_of(tiny, name)[-1] for name in (MARY, JOHN))
    return float(logits[0, -1, mary] - logits[0, -1, john])


def part_of(module: Any, ids: list[int], part: str, layer: int) -> torch.Tensor:
    """What a part of a block holds: `[pos, d_model]`; heads side by side."""
    if part == "heads":
        path = _PROJECTION.format(layer)
        return inputs_seen(module, [ids], path)[path][0]
    path = _PATHS[part].format(layer)
    found: torch.Tensor = tensor_of(outputs_seen(module, [ids], path)[path])[0]
    return found


def patched(
    module: Any, ids: list[int], part: str, layer: int, where: Any, value: torch.Tensor
) -> torch.Tensor:
    """Logits of a run in which `part[0][where]` is `value`."""

    def put(held: torch.Tensor) -> torch.Tensor:
        new = held.clone()
        new[0][where] = value
        return new

    if part == "heads":
        return _logits(hooked(module, [ids], before={_PROJECTION.format(layer): put}))
    return _logits(hooked(module, [ids], after={_PATHS[part].format(layer): put}))


def _logits(found: dict[str, Any]) -> torch.Tensor:
    logits: torch.Tensor = found["logits"]
    return logits


def stream(module: Any, ids: list[int]) -> torch.Tensor:
    """The residual stream before block 0 and after each block: `[row, pos, d_model]`."""
    first = inputs_seen(module, [ids], "model.layers.0")["model.layers.0"][0]
    return torch.stack([first, *(part_of(module, ids, "resid", n) for n in range(LAYERS))])


def change_output(
    module: Any, ids: list[int], layer: int, change: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Logits of a run in which a block's output goes through `change`."""
    return _logits(hooked(module, [ids], after={_PATHS["resid"].format(layer): change}))


def plain(module: Any, ids: list[int]) -> torch.Tensor:
    """Logits of the model as it is."""
    return forward(module, [ids])


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """The same numbers, up to the rounding of a batch and of sums in another order."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
