"""`stand`: a function before or after a module of vLLM's, whichever way vLLM calls it.

Most modules are called, and torch's hooks stand there. vLLM's Transformers backend calls the
`forward` of an attention layer itself, which wakes no hook; there the layer's own `forward` is
replaced as long as somebody listens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from nnsight_lab_server.vllm.forms import Point

__all__ = ["is_attention", "is_here", "stand"]

Listener = Callable[[Any], Any]
"""Given what is held at a point; returns what shall be held there."""


def stand(model: torch.nn.Module, point: Point, listener: Listener) -> Callable[[], None]:
    """Listen at a point of a model; gives what ends it.

    What is held before a module is `(args, kwargs)`; before an attention layer, `((q, k, v), {})`
    with q, k and v as flat rows, however they were given.
    """
    module = model.get_submodule(point.path)
    if is_attention(module):
        return _beside_attention(module, point.stage, listener)
    if point.stage == "before":
        handle = module.register_forward_pre_hook(
            lambda _, args, kwargs: listener((args, kwargs)), with_kwargs=True
        )
    else:
        handle = module.register_forward_hook(lambda _, args, output: listener(output))
    return handle.remove


def is_here(model: torch.nn.Module, path: str) -> bool:
    """Whether a module is in this stage of a pipeline; the others stand in for it emptily."""
    try:
        return type(model.get_submodule(path)).__name__ != "PPMissingLayer"
    except AttributeError:
        return False


def is_attention(module: Any) -> bool:
    """Whether a module is one of vLLM's attention layers."""
    return hasattr(module, "impl") and hasattr(module, "kv_cache_dtype")


@dataclass
class _Heard:
    """An attention layer's forward with listeners before and after it."""

    forward: Callable[..., torch.Tensor]
    listeners: dict[str, list[Listener]] = field(
        default_factory=lambda: {"before": [], "after": []}
    )

    def __call__(self, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        rows = query.shape[0]
        held: Any = ((query.reshape(rows, -1), key.reshape(rows, -1), value.reshape(rows, -1)), {})
        for listener in self.listeners["before"]:
            held = _or(listener(held), held)
        output: Any = self.forward(*held[0], *args, **kwargs)
        shape = output.shape
        for listener in self.listeners["after"]:
            output = _or(listener(output), output)
        return output.reshape(shape)


def _or(changed: Any, held: Any) -> Any:
    return held if changed is None else changed


def _beside_attention(module: Any, stage: str, listener: Listener) -> Callable[[], None]:
    heard = module.__dict__.get("forward")
    if not isinstance(heard, _Heard):
        heard = module.forward = _Heard(module.forward)
    side = "before" if stage == "before" else "after"
    heard.listeners[side].append(listener)

    def leave() -> None:
        heard.listeners[side].remove(listener)
        if not any(heard.listeners.values()):
            del module.forward  # the class's own shows again

    return leave
