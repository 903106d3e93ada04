"""How often modules of the plain model are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tests.support.small_models import LAYERS, SmallModel

__all__ = ["blocks_of", "calls_of"]


@contextmanager
def calls_of(*modules: torch.nn.Module) -> Iterator[list[int]]:
    """How often each module is called in the block."""
    counts = [0] * len(modules)

    def count(index: int) -> Any:
        def hook(*_: Any) -> None:
            counts[index] += 1

        return modules[index].register_forward_pre_hook(hook)

    handles = [count(index) for index in range(len(modules))]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def blocks_of(family: SmallModel) -> list[torch.nn.Module]:
    """The modules of the layers, in order."""
    return [family.module.get_submodule(family.at(family.block, i)) for i in range(LAYERS)]
