"""What one attention layer of vLLM computes, written out: from q and k the pattern, from it z.

vLLM's kernels never hold a pattern. It is made anew from the queries and keys that go into the
kernel, in float32, with what the layer itself knows of its mask: its window, its soft-cap, its
slopes. An edited pattern takes effect by writing the z it gives over the kernel's own rows.

`KeyStore` keeps the keys and values of a traced request, because a later step brings only its new
ones. `around` puts a function around a layer's own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from nnsight_lab.errors import EngineFailed, NotSupported

__all__ = ["AttentionMath", "KeyStore", "around", "attention_layers"]

Heads = tuple[torch.Tensor, torch.Tensor]
"""Keys and values, `[pos, kv_heads, d_head]` each."""

_ANOTHER = "Run it on the transformers engine (`--engine auto`), which has every layer's pattern."


@dataclass(frozen=True, slots=True)
class AttentionMath:
    """One layer's attention: the heads of this worker, and what masks and scales its scores.

    window: how many keys a query sees, itself among them; None for all before it.
    soft_cap: scores are bent so that none exceeds it. slopes: ALiBi's, one for each head.
    sinks: for each head a score that takes its share of the softmax and is then dropped.
    """

    heads: int
    kv_heads: int
    d_head: int
    d_value: int
    scale: float
    window: int | None = None
    soft_cap: float | None = None
    slopes: torch.Tensor | None = field(default=None, compare=False)
    sinks: torch.Tensor | None = field(default=None, compare=False)

    @classmethod
    def of(cls, layer: Any) -> AttentionMath:
        """The mathematics of one of vLLM's `Attention` modules.

        Raises:
            NotSupported: the layer computes something else, and this says what.
        """
        reason = _why_not(layer)
        if reason:
            name = getattr(layer, "layer_name", type(layer).__name__)
            raise NotSupported(
                f"The attention pattern of {name} cannot be made anew: {reason}.", hint=_ANOTHER
            )
        impl = layer.impl
        return cls(
            heads=int(layer.num_heads),
            kv_heads=int(layer.num_kv_heads),
            d_head=int(layer.head_size),
            d_value=int(layer.head_size_v),
            scale=float(impl.scale),
            window=layer.sliding_window or None,
            soft_cap=getattr(impl, "logits_soft_cap", None) or None,
            slopes=_per_head(getattr(impl, "alibi_slopes", None)),
            sinks=_per_head(getattr(impl, "sinks", None)),
        )

    def pattern(self, q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The post-softmax pattern `[heads, rows, keys]`, in the dtype of `q`.

        q: `[rows, heads, d_head]`, after rotary. k: `[keys, kv_heads, d_head]`, those of positions
        0, 1, … positions: `[rows]`, where in its prompt each row is.
        """
        rows, keys = q.shape[0], k.shape[0]
        away = positions.to(q.device)[:, None] - torch.arange(keys, device=q.device)
        scores = self._scores(q.float(), k.float())
        if self.slopes is not None:
            scores = scores - self.slopes.to(q.device)[:, None, None] * away
        hidden = away < 0 if self.window is None else (away < 0) | (away >= self.window)
        scores = scores.masked_fill(hidden, torch.finfo(torch.float32).min)
        if self.sinks is not None:
            sinks = self.sinks.to(q.device)[:, None, None].expand(self.heads, rows, 1)
            scores = torch.cat([scores, sinks], dim=-1)
        return scores.softmax(dim=-1)[..., :keys].to(q.dtype)

    def mixed(self, pattern: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """The values, each head's mixed by its pattern: z, `[rows, heads, d_value]`.

        pattern: `[heads, rows, keys]`. v: `[keys, kv_heads, d_value]`.
        """
        grouped = pattern.to(v.dtype).unflatten(0, (self.kv_heads, self._group)).flatten(1, 2)
        mixed = torch.bmm(grouped, v.transpose(0, 1))
        z: torch.Tensor = mixed.unflatten(1, (self._group, -1)).flatten(0, 1)
        return z.transpose(0, 1).contiguous()

    @property
    def _group(self) -> int:
        """How many query heads share one key and value head."""
        return self.heads // self.kv_heads

    def _scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """`[heads, rows, keys]`, scaled and capped."""
        rows = q.shape[0]
        grouped = q.unflatten(1, (self.kv_heads, self._group)).permute(1, 2, 0, 3).flatten(1, 2)
        scores = torch.bmm(grouped, k.permute(1, 2, 0)) * self.scale
        scores = scores.unflatten(1, (self._group, rows)).flatten(0, 1)
        if self.soft_cap is not None:
            scores = torch.tanh(scores / self.soft_cap) * self.soft_cap
        return scores


def _why_not(layer: Any) -> str | None:
    """What about a layer is not written out here; None when all is."""
    impl = getattr(layer, "impl", None)
    kind = type(layer).__name__
    if hasattr(layer, "kv_lora_rank") or "MLA" in kind:
        return "its keys and values are latent (MLA)"
    if kind != "Attention":
        return f"it is a {kind}, whose mask is not the plain causal one"
    if not isinstance(getattr(impl, "scale", None), float):
        return f"its backend {type(impl).__name__} does not say how scores are scaled"
    if str(getattr(layer, "attn_type", "decoder")) not in ("decoder", "AttentionType.DECODER"):
        return f"it is not a decoder's ({layer.attn_type})"
    if layer.kv_sharing_target_layer_name is not None:
        return f"it shares the keys of {layer.kv_sharing_target_layer_name}"
    if layer.query_quant is not None or not _cache_is_plain(layer.kv_cache_dtype):
        return f"its keys and values are kept quantised ({layer.kv_cache_dtype})"
    if getattr(layer, "use_alibi_sqrt", False):
        return "its ALiBi grows with the square root of the distance"
    if getattr(impl, "chunk_lookback", -1) > -1:
        return "its mask is cut into chunks"
    return None


def _cache_is_plain(dtype: str) -> bool:
    return dtype in ("auto", "float32", "float16", "bfloat16")


def _per_head(numbers: Any) -> torch.Tensor | None:
    return None if numbers is None else torch.as_tensor(numbers).detach().float().flatten()


def attention_layers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The attention modules of a model of vLLM's, by path."""
    return {
        path: module
        for path, module in model.named_modules()
        if hasattr(module, "impl") and hasattr(module, "kv_cache_dtype")
    }


@dataclass(slots=True)
class _Kept:
    """Keys and values of one layer of one request; rows past `known` are not valid."""

    keys: torch.Tensor
    values: torch.Tensor
    known: int = 0


class KeyStore:
    """Keys and values of traced requests, by request, layer and absolute position.

    A request that is computed again (after a preemption, or started anew) brings its positions
    again, and they replace what was kept. `forget` frees a request that has ended.
    """

    def __init__(self) -> None:
        self._kept: dict[Any, dict[str, _Kept]] = {}

    def add(self, request: Any, layer: str, start: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Keep the keys and values `[rows, kv_heads, d]` of positions `start`, `start + 1`, …

        Raises:
            EngineFailed: keys before `start` were never seen.
        """
        layers = self._kept.setdefault(request, {})
        kept = layers.get(layer)
        known = kept.known if kept is not None else 0
        if start > known:
            raise EngineFailed(
                f"The keys of positions {known} to {start - 1} were never computed for this run.",
                hint="Run it again; if it stays so, the engine's prefix cache is not kept apart.",
            )
        end = start + k.shape[0]
        if kept is None or end > kept.keys.shape[0]:
            kept = layers[layer] = _grown(kept, start, max(2 * end, 32), k, v)
        kept.keys[start:end] = k.detach()
        kept.values[start:end] = v.detach()
        kept.known = end

    def upto(self, request: Any, layer: str, length: int) -> Heads:
        """Keys and values of the first `length` positions; to be read, not changed.

        Raises:
            EngineFailed: they were not all seen.
        """
        kept = self._kept.get(request, {}).get(layer)
        if kept is None or kept.known < length:
            raise EngineFailed(
                f"Only {kept.known if kept else 0} of the {length} keys of {layer} are known.",
                hint="Run it again; if it stays so, report it with the graph.",
            )
        return kept.keys[:length], kept.values[:length]

    def forget(self, request: Any) -> None:
        """Free what was kept of a request; nothing if there was none."""
        self._kept.pop(request, None)

    @property
    def nbytes(self) -> int:
        """How much memory is held."""
        kept = (each for layers in self._kept.values() for each in layers.values())
        return sum(each.keys.nbytes + each.values.nbytes for each in kept)


def _grown(kept: _Kept | None, start: int, room: int, k: torch.Tensor, v: torch.Tensor) -> _Kept:
    """Twice the room, so that a long generation copies what it keeps only now and then."""
    keys, values = k.new_empty(room, *k.shape[1:]), v.new_empty(room, *v.shape[1:])
    if kept is not None:
        keys[:start], values[:start] = kept.keys[:start], kept.values[:start]
    return _Kept(keys, values, start)


def around(
    layer: torch.nn.Module,
    call: Callable[
        [Callable[..., torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor
    ],
) -> Callable[[], None]:
    """Let `call(forward, q, k, v)` stand for an attention layer's forward; gives what undoes it.

    vLLM's Transformers backend calls `forward` of the layer itself, which wakes no hook of torch's;
    this hears both ways. q, k and v come as `[rows, heads, d_head]`.
    """
    module: Any = layer
    forward: Callable[..., torch.Tensor] = module.forward

    def heard(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        def go_on(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            flat = (each.reshape(each.shape[0], -1) for each in (q, k, v))
            return forward(*flat, *args, **kwargs)

        q = query.reshape(-1, module.num_heads, module.head_size)
        k = key.reshape(-1, module.num_kv_heads, module.head_size)
        v = value.reshape(-1, module.num_kv_heads, module.head_size_v)
        return call(go_on, q, k, v)

    module.forward = heard

    def undo() -> None:
        # The class's own forward shows again.
        del module.forward

    return undo
