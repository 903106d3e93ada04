"""`nnsight-lab version`: ours, and those a bug report needs. Imports none of them."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

from nnsight_lab import __version__

__all__ = ["run"]

_TOLD = ("torch", "transformers", "websockets", "starlette", "uvicorn")


def run(_: argparse.Namespace) -> int:
    """Print the versions."""
    print(f"nnsight-lab {__version__} (Python {platform.python_version()})")
    for name in _TOLD:
        try:
            print(f"  {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"  {name} is not installed")
    return 0
