"""Writes the op table, `ir/ops.txt`: PyTorch's overridable functions minus the deny-list.

    python -m nnsight_lab.kernels.generate

A test regenerates it in memory and compares, so the table and the pinned PyTorch stay together.
"""

from __future__ import annotations

from pathlib import Path

import torch

from nnsight_lab import ir
from nnsight_lab.kernels.deny import denied_because
from nnsight_lab.kernels.table import is_inplace, torch_op_names

__all__ = ["EXTRA_FUNCTIONS", "EXTRA_METHODS", "main", "op_table_text"]

EXTRA_METHODS = (
    "Tensor.new_full", "Tensor.new_ones", "Tensor.new_tensor", "Tensor.new_zeros", "Tensor.stride",
    "Tensor.unflatten",
)  # fmt: skip
"""Pure methods that PyTorch forwards to an overridable function, and so does not list."""

EXTRA_FUNCTIONS = (
    "torch.fill", "torch.linspace", "torch.logspace", "torch.result_type", "torch.vander",
    "torch.nn.functional.hardsigmoid", "torch.nn.functional.hardswish",
)  # fmt: skip
"""Pure functions that can be overridden, though PyTorch's list leaves them out.

`torch.segment_reduce` is not here: it takes its offsets on trust and reads past its tensor.
"""


def _in_place_functions(methods: list[str]) -> set[str]:
    """`torch.relu_` and its kind, which PyTorch does not list either."""
    homes = {"torch": torch, "torch.nn.functional": torch.nn.functional}
    tails = {method.removeprefix("Tensor.") for method in methods if is_inplace(method)}
    tails |= {name for name in dir(torch.nn.functional) if is_inplace(name)}
    pairs = ((home, where, tail) for home, where in homes.items() for tail in tails)
    return {f"{home}.{tail}" for home, where, tail in pairs if hasattr(where, tail)}


def op_table_text() -> str:
    """The text of `ir/ops.txt` for the PyTorch that is installed."""
    listed = [name for name in torch_op_names() if denied_because(name) is None]
    names = {*listed, *EXTRA_METHODS, *EXTRA_FUNCTIONS, *_in_place_functions(listed)}
    allowed = sorted(name for name in names if denied_because(name) is None)
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
