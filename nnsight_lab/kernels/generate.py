"""Writes the op table, `ir/ops.txt`: PyTorch's overridable functions minus the deny-list.

    python -m nnsight_lab.kernels.generate

A test regenerates it in memory and compares, so the table and the pinned PyTorch stay together.
"""

from __future__ import annotations

from pathlib import Path

import torch

from nnsight_lab import ir
from nnsight_lab.kernels.deny import denied_because
from nnsight_lab.kernels.table import torch_op_names

__all__ = ["EXTRA_METHODS", "main", "op_table_text"]

EXTRA_METHODS = ("Tensor.unflatten", "Tensor.new_zeros", "Tensor.new_ones", "Tensor.new_full")
"""Pure methods that PyTorch forwards to an overridable function, and so does not list."""


def op_table_text() -> str:
    """The text of `ir/ops.txt` for the PyTorch that is installed."""
    names = sorted({*torch_op_names(), *EXTRA_METHODS})
    allowed = [name for name in names if denied_because(name) is None]
    head = (
        "# Every operation a graph may call, one a line. Generated; do not edit.\n"
        "# python -m nnsight_lab.kernels.generate\n"
        f"# torch {torch.__version__.split('+')[0]}\n"
    )
    return head + "\n".join(allowed) + "\n"


def main() -> None:
    """Write the table beside the package that reads it."""
    folder = Path(str(ir.__file__)).parent
    (folder / "ops.txt").write_text(op_table_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
