"""`RunHost`: the model's side of one run in a worker, for what is no moment of the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

__all__ = ["Calls", "RunHost"]


class Calls(Protocol):
    """Modules and parameters of the Hugging Face model, as the worker has them."""

    def apply(self, path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call one module of the Hugging Face model."""
        ...

    def weight(self, path: str, name: str) -> torch.Tensor:
        """A parameter as Hugging Face has it."""
        ...


class RunHost:
    """Implements `runtime.Host`. module_of: the module behind each standard name."""

    def __init__(
        self,
        device: torch.device,
        calls: Calls,
        module_of: Mapping[str, str],
        check: Callable[[], None],
    ) -> None:
        self.device = device
        self._calls = calls
        self._module_of = module_of
        self._check = check

    def apply(self, path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a module out of its order; no moment comes of it."""
        return self._calls.apply(self._module_of.get(path, path), args, kwargs)

    def aside(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Never called: functions of a user's do not come here."""
        raise AssertionError("local functions do not travel")

    def weight(self, path: str, name: str) -> torch.Tensor:
        """A parameter or buffer of a module."""
        return self._calls.weight(self._module_of.get(path, path), name).to(self.device)

    def go_on(self) -> None:
        """Raise when the run has had its time."""
        self._check()
