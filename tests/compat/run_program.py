"""Runs one program, and prints nothing: `python run_program.py PROGRAM RESULTS [lab]`.

With `lab`, the program's `nnsight` is `nnsight_lab.compat`; else it is nnsight itself.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import torch

__all__ = ["results_of"]


def results_of(program: Path) -> dict[str, Any]:
    """What a program puts in `results`; its `nnsight` is what Python imports by that name."""
    found: dict[str, Any] = runpy.run_path(str(program))["results"]
    return found


if __name__ == "__main__":
    if sys.argv[3:] == ["lab"]:
        import nnsight_lab.compat

        sys.modules["nnsight"] = nnsight_lab.compat
    torch.save(results_of(Path(sys.argv[1])), sys.argv[2])
