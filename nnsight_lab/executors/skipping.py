"""Modules that do not run: for one run, their forward gives a value of the graph instead.

Hooks of the module still stand: its input may be read, and its output edited. A call that the graph
makes itself, or another thread, gets the module as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from nnsight_lab.executors.inside import replaced
from nnsight_lab.ir import Skip

__all__ = ["skipping"]


@contextmanager
def skipping(
    model: torch.nn.Module,
    skips: Sequence[Skip],
    instead: Callable[[Skip], Any],
    deaf: Callable[[], bool],
) -> Iterator[None]:
    """These calls of modules are skipped while the block runs.

    instead: what a skipped call gives. deaf: whether a call now is none of this run's.
    """
    by_path: dict[str, dict[int, Skip]] = {}
    for skip in skips:
        by_path.setdefault(skip.address.path, {})[skip.address.call] = skip
    with ExitStack() as stack:
        for path, calls in by_path.items():
            replacing = _Replacing(calls, instead, deaf)
            stack.enter_context(replaced(model.get_submodule(path), "forward", replacing))
        yield


class _Replacing:
    """From a module's forward to one that skips some of its calls."""

    def __init__(
        self, calls: dict[int, Skip], instead: Callable[[Skip], Any], deaf: Callable[[], bool]
    ) -> None:
        self._calls = calls
        self._instead = instead
        self._deaf = deaf

    def __call__(self, original: Callable[..., Any]) -> Callable[..., Any]:
        seen: Counter[str] = Counter()

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._deaf():
                return original(*args, **kwargs)
            skip = self._calls.get(seen["calls"])
            seen["calls"] += 1
            return original(*args, **kwargs) if skip is None else self._instead(skip)

        return forward
