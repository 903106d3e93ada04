"""What a model is given: which inputs are alike, and what is said of a model that refuses tokens."""

from __future__ import annotations

from typing import Any

import torch

from nnsight_lab.contract import ModuleInputs, TokenRows
from nnsight_lab.errors import BadInput
from nnsight_lab.kernels.infer import map_tensors

__all__ = ["not_a_language_model", "shape_key"]


def not_a_language_model(module: torch.nn.Module, exc: Exception) -> BadInput:
    """The error for a module that does not take token ids."""
    kind, said = type(module).__name__, [*str(exc).splitlines(), ""][0]
    return BadInput(
        f"{kind} does not run as a causal language model: {said}",
        hint="nl.wrap(module) traces any torch module.",
    )


def shape_key(inputs: TokenRows | ModuleInputs, *, each_row: bool = False) -> Any:
    """Inputs of the same key reach the same sites with the same shapes.

    each_row: so do the rows of each prompt, told apart from the others.
    """
    if isinstance(inputs, TokenRows):
        sizes = tuple(map(len, inputs.rows)) if each_row else (inputs.batch, inputs.pos)
        return sizes, inputs.passes, inputs.generation is not None

    if not inputs.kwargs and all(type(arg) is torch.Tensor for arg in inputs.args):
        return tuple((arg.dtype, arg.shape) for arg in inputs.args)

    def shape(tensor: torch.Tensor) -> str:
        return f"{tensor.dtype}{tuple(tensor.shape)}"

    return repr(map_tensors((inputs.args, dict(inputs.kwargs)), shape))
