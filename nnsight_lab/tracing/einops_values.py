"""einops on recorded values: `rearrange(h, "b p (g d) -> b g p d", g=4)` inside a trace.

einops asks each of its backends whether a value is theirs, and finds backends by subclass. Ours is
einops's own for torch, told that a recorded value is one of its tensors. It is defined only where
the user has already imported einops.
"""

from __future__ import annotations

import sys
from typing import Any

from nnsight_lab.tracing.proxy import Proxy

__all__ = ["teach_einops"]

_taught: list[type] = []


def teach_einops() -> None:
    """Let einops, if it is loaded, take recorded values for tensors."""
    backends: Any = sys.modules.get("einops._backends")
    if backends is None or _taught:
        return
    told = {
        "framework_name": __name__,
        "is_appropriate_type": lambda _, value: isinstance(value, Proxy),
    }
    _taught.append(type("RecordedBackend", (backends.TorchBackend,), told))
