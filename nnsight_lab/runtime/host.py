"""What the interleaver needs from whoever runs the model. A host is local PyTorch or a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

__all__ = ["Host"]


class Host(Protocol):
    """The side of the model. It tells the interleaver when a moment comes; these are the rest."""

    @property
    def device(self) -> torch.device:
        """Where the graph's constants belong."""
        ...

    def apply(self, path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call one module out of its order; no moment comes of it."""
        ...

    def aside(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Call a function of the user's; should it call the model, no moment comes of it."""
        ...

    def weight(self, path: str, name: str) -> torch.Tensor:
        """A parameter or buffer of a module."""
        ...

    def go_on(self) -> None:
        """Called at each turn of a loop of the graph; raises when the run is to stop."""
        ...
