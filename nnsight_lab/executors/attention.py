"""Inside the attention call: q, k, v after rotary, and the post-softmax pattern.

`transformers` lets an attention implementation be registered by name. Ours hands q, k and v to
whoever listens, then goes on as the model would have. For the pattern it runs the family's own
eager attention, whose weights are the pattern, and recomputes the output from an edited one.
Registering adds a name to their table and changes no model; a run borrows the model's choice of
implementation and gives it back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from nnsight_lab.errors import NotSupported
from nnsight_lab.executors.sites import HookPoint

__all__ = ["has_attention_call", "listening"]


@dataclass(frozen=True, slots=True)
class _Listener:
    """Who wants what of the attention modules, in the run that is under way."""

    paths: dict[int, str]
    points: set[HookPoint]
    on_point: Callable[[HookPoint, Any], Any]


_listener: ContextVar[_Listener | None] = ContextVar("attention_listener", default=None)


def _attend(base: str) -> Callable[..., Any]:
    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> Any:
        listener = _listener.get()
        path = listener.paths.get(id(module)) if listener else None
        pattern_point = HookPoint("pattern", path or "")
        if listener is not None and path is not None:
            qkv_point = HookPoint("attention", path)
            if qkv_point in listener.points:
                query, key, value = listener.on_point(qkv_point, (query, key, value))
        if listener is None or path is None or pattern_point not in listener.points:
            return _plain(base, module)(module, query, key, value, attention_mask, **kwargs)
        eager = _plain("eager", module)
        output, pattern = eager(module, query, key, value, attention_mask, **kwargs)
        edited = listener.on_point(pattern_point, pattern)
        if edited is not pattern:
            groups = query.shape[1] // value.shape[1]
            heads = value.repeat_interleave(groups, dim=1) if groups > 1 else value
            output = torch.matmul(edited.to(heads.dtype), heads).transpose(1, 2).contiguous()
        # Only eager attention hands its pattern on, so only there does the module see one.
        return output, edited if base == "eager" else None

    return attention


def _plain(base: str, module: torch.nn.Module) -> Callable[..., Any]:
    """The attention function the model would have called."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if base != "eager":
        found: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS[base]
        return found
    home = sys.modules[type(module).__module__]
    eager: Callable[..., Any] | None = getattr(home, "eager_attention_forward", None)
    if eager is None:
        raise NotSupported(
            f"{type(module).__name__} has no eager attention, so its pattern cannot be read.",
            hint="Read q and k, and compute the pattern in the trace.",
        )
    return eager


@cache
def _registered(base: str, mask: str) -> str:
    """Our implementation on top of `base`, by name; registered on first use."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    name = f"nnsight_lab_{base}_{mask}"
    AttentionInterface.register(name, _attend(base))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[mask])
    return name


def has_attention_call(module: torch.nn.Module) -> bool:
    """Whether a model chooses its attention by name, so that ours can stand in."""
    config = getattr(module, "config", None)
    return getattr(config, "_attn_implementation", None) in ("sdpa", "eager")


@contextmanager
def listening(
    model: torch.nn.Module,
    points: set[HookPoint],
    on_point: Callable[[HookPoint, Any], Any],
) -> Iterator[None]:
    """Hear of attention hook points of `model` while the block runs."""
    modules = {point.path: model.get_submodule(point.path) for point in points}
    paths = {id(module): path for path, module in modules.items()}
    configs: dict[int, Any] = {id(model.config): model.config}
    for module in modules.values():
        config: Any = getattr(module, "config", model.config)
        configs[id(config)] = config
    base = str(getattr(model.config, "_attn_implementation", None))
    if base not in ("sdpa", "eager"):
        raise NotSupported(
            f"Attention implementation {base!r} cannot be listened to.",
            hint='Load the model with attn_implementation="sdpa" or "eager".',
        )
    wants_pattern = any(point.stage == "pattern" for point in points)
    name = _registered(base, "eager" if wants_pattern else base)
    before = {key: config._attn_implementation for key, config in configs.items()}
    token = _listener.set(_Listener(paths, points, on_point))
    try:
        for config in configs.values():
            config._attn_implementation_internal = name
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]
        _listener.reset(token)
