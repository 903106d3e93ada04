"""The oracle: plain PyTorch hooks on the plain model, written by hand. Nothing of ours is used.

Each function attaches hooks, runs the model, and removes them. What our code reads or edits is
compared with what these see.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch

__all__ = ["eager_patterns", "forward", "hooked", "inputs_seen", "outputs_seen", "tensor_of"]

Change = Callable[[Any], torch.Tensor | None]


def tensor_of(output: Any) -> Any:
    """The tensor a module returned, alone or as the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output


def _kept(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, tuple | list):
        return type(value)(_kept(item) for item in value)
    return value


def forward(model: Any, ids: list[list[int]], **more: Any) -> torch.Tensor:
    """The logits of the plain model."""
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor(ids), use_cache=False, **more).logits
    return logits


def outputs_seen(model: Any, ids: list[list[int]], *paths: str) -> dict[str, Any]:
    """What each module returned, copied as it was at that moment."""
    seen: dict[str, Any] = {}

    def watch(path: str) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            seen[path] = _kept(output)

        return model.get_submodule(path).register_forward_hook(hook)

    with ExitStack() as stack:
        for path in paths:
            stack.callback(watch(path).remove)
        forward(model, ids)
    return seen


def inputs_seen(model: Any, ids: list[list[int]], *paths: str) -> dict[str, torch.Tensor]:
    """The first tensor each module was given."""
    seen: dict[str, torch.Tensor] = {}

    def watch(path: str) -> Any:
        def hook(_: Any, args: Any, kwargs: Any) -> None:
            tensors = (item for item in (*args, *kwargs.values()) if torch.is_tensor(item))
            seen[path] = _kept(next(tensors))

        return model.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True)

    with ExitStack() as stack:
        for path in paths:
            stack.callback(watch(path).remove)
        forward(model, ids)
    return seen


def hooked(
    model: Any,
    ids: list[list[int]],
    *,
    after: Mapping[str, Change] | None = None,
    before: Mapping[str, Change] | None = None,
    see: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Run with edits: `after[path]` changes a module's output tensor, `before[path]` its input.

    A change returns the new tensor, or edits in place and returns None. Gives the outputs of the
    modules in `see`, and `logits`.
    """
    seen: dict[str, Any] = {}

    def edit_output(change: Change) -> Any:
        def hook(_: Any, __: Any, output: Any) -> Any:
            new = change(tensor_of(output))
            new = tensor_of(output) if new is None else new
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return hook

    def edit_input(change: Change) -> Any:
        def hook(_: Any, args: Any, kwargs: Any) -> Any:
            if args:
                new = change(args[0])
                return (args[0] if new is None else new, *args[1:]), kwargs
            name = next(key for key, item in kwargs.items() if torch.is_tensor(item))
            new = change(kwargs[name])
            return args, {**kwargs, name: kwargs[name] if new is None else new}

        return hook

    def look(path: str) -> Any:
        return lambda _, __, output: seen.update({path: _kept(output)})

    with ExitStack() as stack:
        for path, change in (before or {}).items():
            part = model.get_submodule(path)
            handle = part.register_forward_pre_hook(edit_input(change), with_kwargs=True)
            stack.callback(handle.remove)
        for path, change in (after or {}).items():
            handle = model.get_submodule(path).register_forward_hook(edit_output(change))
            stack.callback(handle.remove)
        for path in see:
            stack.callback(model.get_submodule(path).register_forward_hook(look(path)).remove)
        seen["logits"] = forward(model, ids)
    return seen


def eager_patterns(model: Any, ids: list[list[int]], **more: Any) -> list[torch.Tensor]:
    """Post-softmax attention of every layer, from a copy of the model with eager attention."""
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        output = eager(torch.tensor(ids), output_attentions=True, use_cache=False, **more)
    return list(output.attentions)
