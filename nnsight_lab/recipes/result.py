"""What every recipe gives: data with documented shapes, that draws itself.

How is said in the settings (`Settings.figures`), as for the views of a run, so a recipe can be used
where no plotting library is installed.
"""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import Any

import torch

from nnsight_lab.settings import Settings

__all__ = ["Result"]


class Result:
    """The result of a recipe: a frozen dataclass with a figure. Each recipe has its own."""

    def figure(self, **options: Any) -> Any:
        """A Plotly figure of it. Options are those of its kind, listed with the recipe.

        Raises:
            BadInput: there is no such option, or it has no such value.
        """
        module, _, attribute = Settings().figures.partition(":")
        return getattr(import_module(module), attribute)(self, **options)

    def __repr__(self) -> str:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]  # each is one
        parts = [f"  {name}: {_described(getattr(self, name))}" for name in names]
        return "\n".join([f"<{type(self).__name__}>", *parts])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        data, metadata = self.figure()._repr_mimebundle_(include, exclude)
        return data | {"text/plain": repr(self)}, metadata


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        text = f"{kind}{list(value.shape)}"
        if value.numel() and value.is_floating_point():
            text += f"  min {value.min():.3g}, mean {value.mean():.3g}, max {value.max():.3g}"
        return text
    if isinstance(value, float):
        return f"{value:.4g}"
    text = repr(value)
    return text if len(text) <= 100 else f"{type(value).__name__} of {len(value)}"
