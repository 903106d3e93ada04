"""Tensors to raw bytes and back: every dtype that travels, every layout, no sharing."""

from __future__ import annotations

import pytest
import torch

from nnsight_lab.ir.literals import DTYPE_SIZES, TensorData
from nnsight_lab.kernels import tensor_from_data, tensor_to_data
from nnsight_lab.kernels.tensors import tensor_bytes


@pytest.mark.parametrize("name", DTYPE_SIZES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4), (2, 0, 3)])
def test_every_dtype_and_shape_comes_back_in_every_bit(name: str, shape: tuple[int, ...]) -> None:
    dtype = getattr(torch, name)
    tensor = (torch.randn(shape) * 5).to(dtype)
    data = tensor_to_data(tensor)
    back = tensor_from_data(data)
    assert (data.dtype, data.shape) == (name, shape)
    assert back.dtype is dtype
    assert torch.equal(back, tensor)
    assert len(data.data) == tensor.numel() * DTYPE_SIZES[name] == tensor.nbytes


def test_memory_order_and_special_numbers_survive() -> None:
    wide = torch.randn(4, 6)
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45])
    for tensor in (wide.T, wide[::2, 1::3], wide.expand(3, 4, 6), odd, wide.T.conj()):
        back = tensor_from_data(tensor_to_data(tensor))
        assert torch.equal(back.nan_to_num(7.0), tensor.nan_to_num(7.0))
        assert torch.equal(back.signbit(), tensor.signbit())
    turned = torch.view_as_complex(torch.randn(3, 2)).conj()
    assert torch.equal(tensor_from_data(tensor_to_data(turned)), turned)


def test_nothing_is_shared_with_the_original() -> None:
    tensor = torch.zeros(3)
    data = tensor_to_data(tensor)
    tensor += 1
    back = tensor_from_data(data)
    back += 2
    assert tensor_from_data(data).tolist() == [0, 0, 0]


def test_the_digest_tells_dtype_and_shape_apart() -> None:
    zeros = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32)]
    assert len({tensor_to_data(tensor).digest for tensor in zeros}) == 3


@pytest.mark.parametrize("tensor", [
    torch.eye(3).to_sparse(), torch.zeros(2, dtype=torch.float8_e4m3fn),
])  # fmt: skip
def test_what_does_not_travel_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="does not travel"):
        tensor_bytes(tensor)


def test_data_must_have_as_many_bytes_as_its_shape_says() -> None:
    for dtype, shape, size in (("float32", (2,), 4), ("float32", (-1,), 4), ("object", (1,), 8)):
        with pytest.raises(ValueError, match=r"bytes|dtype"):
            TensorData(dtype, shape, bytes(size))
