"""The notebook's variables, as far as a tab may choose from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

__all__ = ["as_vector", "notebook_variables", "vectors_of_width"]


def notebook_variables() -> dict[str, Any]:
    """The variables of the notebook; nothing outside of one."""
    from IPython.core.getipython import get_ipython

    shell: Any = get_ipython()
    return shell.user_ns if shell is not None else {}


def as_vector(value: Any) -> torch.Tensor | None:
    """A vector of floats, or None."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        value = torch.from_numpy(value)
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.ndim != 1:
        return None
    return value.detach().float().cpu()


def vectors_of_width(width: int) -> dict[str, torch.Tensor]:
    """The vectors of that many numbers among the notebook's variables, by name."""
    found = {}
    for name, value in list(notebook_variables().items()):
        vector = as_vector(value) if not name.startswith("_") else None
        if vector is not None and vector.shape == (width,):
            found[name] = vector
    return found
