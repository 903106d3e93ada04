"""Between rows and axes: what a graph is handed has the axes of its place on Hugging Face.

A sheet holds `[batch, width, …]`, row after row. A place may have rows and positions in one axis,
heads before positions, or a tuple around its tensor.
"""

from __future__ import annotations

from typing import Any

import torch

from nnsight_lab.ir import SizeForm, Spec, TensorSpec
from nnsight_lab_server.vllm.forms import packed, tensor_spec_of

__all__ = ["as_rows", "held_there"]


def held_there(value: torch.Tensor, spec: Spec) -> Any:
    """What an address holds, e.g. `(tensor, None)`, from the tensor in it: `[batch, width, …]`."""
    tensor = tensor_spec_of(spec)
    assert tensor is not None, "forms are of addresses with one tensor"
    if not value.is_floating_point():  # vLLM's ids are int32
        value = value.to(getattr(torch, tensor.dtype))
    return packed(_as_spec(value, tensor), spec)


def _as_spec(value: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """`[batch, width, …]` with the axes that the site has."""
    forms = [dim.form for dim in spec.dims]
    if forms == [SizeForm.BATCH]:
        return value[:, 0]
    if forms[0] is SizeForm.BATCH_POS:
        return value.flatten(0, 1)
    return value.transpose(1, 2) if _is_pattern(spec) else value


def _is_pattern(spec: TensorSpec) -> bool:
    """Whether the axes are `[batch, head, query, key]`; rows are queries."""
    return len(spec.dims) == 4 and spec.dims[3].form is SizeForm.POS


def as_rows(value: torch.Tensor, like: torch.Tensor, spec: Spec) -> torch.Tensor:
    """The way back."""
    tensor = tensor_spec_of(spec)
    if tensor is not None and _is_pattern(tensor):
        # By what it is, not by its sizes: as many heads as queries would look alike.
        value = value.transpose(1, 2)
    return value.reshape(like.shape).to(like.dtype)
