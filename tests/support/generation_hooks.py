"""The oracle of a generation: hooks that count steps, over `transformers`' own `generate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.support.hooks import tensor_of

__all__ = ["Generated", "generated"]

PAD = 0


@dataclass
class Generated:
    """ids: as `generate` returns them. seen: what a module returned at each step, by path."""

    ids: Any
    seen: dict[str, list[torch.Tensor]] = field(default_factory=dict)


def generated(
    module: Any,
    prompts: list[list[int]],
    *,
    see: tuple[str, ...] = (),
    after: Mapping[str, Callable[[int, torch.Tensor], torch.Tensor]] | None = None,
    seed: int = 0,
    **options: Any,
) -> Generated:
    """Generate with edits: `after[path](step, output)` gives the new output of a module."""
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    step = [-1]
    seen: dict[str, list[torch.Tensor]] = {path: [] for path in see}

    def count(*_: Any) -> None:
        step[0] += 1

    def edit(change: Callable[[int, torch.Tensor], torch.Tensor]) -> Any:
        def hook(_: Any, __: Any, output: Any) -> Any:
            new = change(step[0], tensor_of(output))
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return hook

    def look(path: str) -> Any:
        return lambda _, __, output: seen[path].append(tensor_of(output).detach().clone())

    options = {"do_sample": False, "pad_token_id": PAD, "max_new_tokens": 5, **options}
    with ExitStack() as stack:
        stack.callback(module.register_forward_pre_hook(count).remove)
        for path, change in (after or {}).items():
            handle = module.get_submodule(path).register_forward_hook(edit(change))
            stack.callback(handle.remove)
        for path in see:
            stack.callback(module.get_submodule(path).register_forward_hook(look(path)).remove)
        torch.manual_seed(seed)
        out = module.generate(ids, attention_mask=mask, **options)
    return Generated(out, seen)
