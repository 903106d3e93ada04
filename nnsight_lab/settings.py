"""Frozen settings: what has a default, in one place, read once and passed on.

Nothing here is changed at run time; a caller that wants another value makes another `Settings`.
Environment: `NNSIGHT_LAB_SERVER`, `NNSIGHT_LAB_TOKEN` (where `nl.connect()` goes by default),
`NNSIGHT_LAB_PROGRESS=0` (no progress bars).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

__all__ = ["Settings"]


def _bundled() -> Mapping[str, Path]:
    weights = Path(__file__).parent / "models" / "tiny" / "weights"
    return MappingProxyType({"tiny": weights})


def _views() -> Mapping[str, str]:
    room = "nnsight_lab.jupyter"
    return MappingProxyType(
        {
            "fig": f"{room}.figures:RunFigures",
            "explore": f"{room}.explorer:explorer_of",
            "live": f"{room}.live.moving:RunLive",
        }
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """What the rooms share without importing each other.

    bundled: models that ship in the wheel, by name.
    progress: whether to show how far a run is that takes long: under a cell, or on a terminal.
    run_views: attributes a `Run` grows, as `module:attribute`, imported when first used.
    figures: what draws the result of a recipe, as `module:attribute`.
    """

    server: str = "http://127.0.0.1:8765"
    token: str | None = None
    port: int = 8765
    message_bytes: int = 256 * 2**20
    chunk_bytes: int = 1 * 2**20
    connect_timeout_s: float = 10.0
    progress: bool = True
    bundled: Mapping[str, Path] = field(default_factory=_bundled)
    run_views: Mapping[str, str] = field(default_factory=_views)
    figures: str = "nnsight_lab.jupyter.figures_recipes:figure_of"

    @staticmethod
    def from_environment() -> Settings:
        """The defaults, with what the environment says laid over them."""
        base = Settings()
        return Settings(
            server=os.environ.get("NNSIGHT_LAB_SERVER", base.server),
            token=os.environ.get("NNSIGHT_LAB_TOKEN"),
            progress=os.environ.get("NNSIGHT_LAB_PROGRESS", "1") != "0",
        )
