"""Torch tensors to raw bytes and back: dense, native dtype, no pickle.

`TensorData` is how a constant travels in a graph; the wire uses the same two functions for
saved values. A tensor that came from bytes owns its memory.
"""

from __future__ import annotations

from typing import Any

import torch

from nnsight_lab.ir.literals import DTYPE_SIZES, TensorData

__all__ = ["dtype_name", "tensor_bytes", "tensor_from_bytes", "tensor_from_data", "tensor_to_data"]


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.float32` as `float32`."""
    return str(dtype).removeprefix("torch.")


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """The elements of a tensor row by row, in its own dtype.

    Raises:
        ValueError: the tensor is sparse, quantised, or of a dtype that does not travel.
    """
    name = dtype_name(tensor.dtype)
    if name not in DTYPE_SIZES or tensor.layout is not torch.strided:
        raise ValueError(f"a {tensor.layout} tensor of dtype {name} does not travel")
    plain = tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous()
    if plain.numel() == 0:
        return b""
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def tensor_to_data(tensor: torch.Tensor) -> TensorData:
    """A tensor as data of a graph."""
    return TensorData(dtype_name(tensor.dtype), tuple(tensor.shape), tensor_bytes(tensor))


def tensor_from_bytes(dtype: str, shape: tuple[int, ...], data: Any) -> torch.Tensor:
    """The tensor behind raw bytes; `data` may be any buffer and is copied once."""
    kind = getattr(torch, dtype)
    if len(data) == 0:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(bytearray(data), dtype=kind).reshape(shape)


def tensor_from_data(data: TensorData) -> torch.Tensor:
    """The tensor a graph's constant stands for."""
    return tensor_from_bytes(data.dtype, data.shape, data.data)
