"""What a graph of a few bytes could do to the machine it runs on, and what stops it."""

from __future__ import annotations

import pytest
import torch

from nnsight_lab import errors
from nnsight_lab.ir.ops import is_op, op_names
from nnsight_lab.kernels import infer_call, kernel

X = torch.rand(3)


@pytest.mark.parametrize("op", sorted(op for op in op_names() if "_polynomial_" in op))
def test_a_polynomial_of_any_degree_ends_soon(op: str) -> None:
    small = kernel(op)(X, torch.tensor([0, 1, 4]))
    assert small.shape == X.shape
    for degree in (10**9, 1e30, float("nan"), torch.tensor([1, 10**12, 2]), torch.tensor(1e9)):
        with pytest.raises(errors.LimitExceeded):
            kernel(op)(X, degree)
    with pytest.raises(errors.LimitExceeded):
        infer_call(op, (X.to("meta"), 10**9), {})
    assert infer_call(op, (X.to("meta"), X.to("meta")), {}).shape == X.shape


@pytest.mark.parametrize("op", ["torch.ctc_loss", "torch.nn.functional.ctc_loss"])
def test_a_label_that_is_not_there_is_an_error_and_no_crash(op: str) -> None:
    """Torch reads past the end of its tensor."""
    given, lengths = torch.randn(5, 1, 4).log_softmax(-1), (torch.tensor([5]), torch.tensor([2]))
    assert kernel(op)(given, torch.tensor([[1, 3]]), *lengths).isfinite()
    for wrong in (4, 10**9, -1):
        with pytest.raises(IndexError, match="4 labels"):
            kernel(op)(given, torch.tensor([[1, wrong]]), *lengths)


def test_what_reads_past_its_tensor_is_not_in_the_table() -> None:
    for name in ("torch.segment_reduce", "Tensor.as_strided", "torch.empty_like"):
        assert not is_op(name)


@pytest.mark.parametrize(("op", "args", "kwargs"), [
    ("torch.nn.functional.scaled_dot_product_attention", (None, 0.5), {}),
    ("torch.nn.functional.scaled_dot_product_attention", (), {"dropout_p": 0.1}),
    ("torch.zeros_like", (), {"pin_memory": True}),
])  # fmt: skip
def test_arguments_that_make_a_pure_function_impure_are_refused(
    op: str, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    meta = torch.ones(2, 3, 4, device="meta")
    first = (meta,) * 3 if "attention" in op else (meta,)
    with pytest.raises(errors.OpNotAllowed):
        infer_call(op, (*first, *args), kwargs)
