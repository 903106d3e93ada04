"""The oracle of `module.source`: a function mode by hand on the plain model. Nothing of ours is used.

`forward_calls` runs the model and keeps what one module's own forward calls: torch functions, by
name and in order, with what each was given and what it gave. Calls inside submodules do not count.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["Calls", "forward_calls"]

Change = Callable[[torch.Tensor], torch.Tensor]


class Calls(TorchFunctionMode):
    """What one forward calls. `given["mul_0"]`, `gave["mul_0"]`; `changes` replaces outputs."""

    def __init__(self, changes: Mapping[str, Change] | None = None) -> None:
        super().__init__()
        self.below = 0
        self.given: dict[str, Any] = {}
        self.gave: dict[str, Any] = {}
        self.result: Any = None
        self._changes = changes or {}
        self._counts: dict[str, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.below:
            return func(*args, **kwargs)
        given = _kept((args, kwargs))
        output = func(*args, **kwargs)
        gave = args[0] if func.__name__ == "__setitem__" else output
        if not _tensors(gave):
            return output
        plain = func.__name__
        if plain == "__get__":
            plain = func.__self__.__name__
        elif plain.startswith("__"):
            plain = plain.strip("_")
        count = self._counts.get(plain, 0)
        self._counts[plain] = count + 1
        name = f"{plain}_{count}"
        if name in self._changes:
            output = gave = self._changes[name](output)
        self.given[name], self.gave[name] = given, _kept(gave)
        return output


def _kept(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, tuple | list):
        return tuple(_kept(item) for item in value)
    if isinstance(value, dict):
        return {key: _kept(item) for key, item in value.items()}
    return value


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [found for item in value for found in _tensors(item)] if isinstance(value, tuple | list) else []  # fmt: skip


@contextmanager
def _listening(module: Any, calls: Calls) -> Iterator[None]:
    def enter(*_: Any) -> None:
        calls.below += 1

    def leave(*_: Any) -> None:
        calls.below -= 1

    plain = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with calls:
            return plain(*args, **kwargs)

    handles = [
        hook
        for child in module.modules()
        if child is not module
        for hook in (child.register_forward_pre_hook(enter), child.register_forward_hook(leave))
    ]
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        for handle in handles:
            handle.remove()


def forward_calls(
    model: Any, ids: list[list[int]], path: str, changes: Mapping[str, Change] | None = None
) -> Calls:
    """Run the plain model; what the forward of the module at `path` calls, and the model's output."""
    calls, more = Calls(changes), {}
    if "position_ids" in inspect.signature(model.forward).parameters:
        more["position_ids"] = torch.arange(len(ids[0])).repeat(len(ids), 1)
    with torch.no_grad(), _listening(model.get_submodule(path), calls):
        calls.result = model(torch.tensor(ids), use_cache=False, **more)
    return calls
