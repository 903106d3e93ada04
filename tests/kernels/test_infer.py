"""Shapes found without data are the shapes of the data, or plainly unknown, or a refusal."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nnsight_lab import errors
from nnsight_lab.kernels import Unknown, infer_call, kernel
from nnsight_lab.kernels.infer import is_alias, map_tensors, meta_like

X = torch.rand(2, 3, 4) + 0.1
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("Tensor.softmax", (-1,), {}), ("torch.topk", (2,), {"dim": 1}), ("Tensor.mT", (), {}),
    ("torch.einsum", (), {}), ("Tensor.sum", (), {"dim": (0, 2), "keepdim": True}),
    ("operator.getitem", ((0, slice(1, None), [0, 3]),), {}), ("torch.where", (), {}),
    ("Tensor.to", (torch.float16,), {}), ("Tensor.double", (), {}), ("Tensor.add_", (1,), {}),
    ("lab.set_item", ((), (0, 1), 2.0), {}), ("torch.std_mean", (), {}), ("Tensor.size", (), {}),
    ("torch.nn.functional.layer_norm", ((4,),), {}), ("Tensor.unbind", (1,), {}),
]  # fmt: skip


def _call(op: str, first: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if op == "torch.einsum":
        return ("abc,abd->acd", first, first)
    if op == "torch.where":
        return (first > 0.5, first, 0.0)
    return (first, *args)


@pytest.mark.parametrize(("op", "args", "kwargs"), CALLS, ids=[call[0] for call in CALLS])
def test_inferred_shapes_are_those_of_the_computation(
    op: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    real = kernel(op)(*_call(op, X, args), **kwargs)
    found = infer_call(op, _call(op, X.to("meta"), args), kwargs)

    def facts(value: Any) -> Any:
        return map_tensors(value, lambda tensor: (tuple(tensor.shape), tensor.dtype))

    assert facts(found) == facts(real)


@pytest.mark.parametrize(("op", "args"), [
    ("Tensor.nonzero", ()), ("Tensor.unique", ()), ("torch.masked_select", ()),
    ("operator.getitem", (torch.ones(2, 3, 4, dtype=torch.bool, device="meta"),)),
    ("Tensor.add", (Unknown(),)), ("torch.stack", ([Unknown()],)),
    ("operator.getitem", (slice(Unknown(), None),)),
])  # fmt: skip
def test_what_depends_on_values_is_unknown(op: str, args: tuple[Any, ...]) -> None:
    if op == "torch.masked_select":
        args = (torch.ones(2, 3, 4, dtype=torch.bool, device="meta"),)
    assert isinstance(infer_call(op, (X.to("meta"), *args), {}), Unknown)


def test_an_edit_keeps_the_shape_of_what_it_edits() -> None:
    """Also where the places, or the value put there, are known to the run alone."""
    meta, mask = X.to("meta"), torch.ones(2, 3, 4, dtype=torch.bool, device="meta")
    for op, args in (
        ("lab.set_item", ((), mask, 0.0)), ("lab.set_item", ((), 0, Unknown())),
        ("lab.assign", ((), Unknown())), ("Tensor.add_", (Unknown(),)),
        ("Tensor.masked_fill_", (mask, 0.0)),
    ):  # fmt: skip
        found = infer_call(op, (meta, *args), {})
        assert tuple(found.shape) == (2, 3, 4)


def test_items_of_a_container_are_known_beside_unknown_ones() -> None:
    pair = (X.to("meta"), Unknown())
    assert infer_call("operator.getitem", (pair, 0), {}) is pair[0]
    assert infer_call("operator.getitem", (pair, slice(1, None)), {}) == (pair[1],)
    with pytest.raises(errors.ShapeMismatch):
        infer_call("operator.getitem", (pair, 5), {})


@pytest.mark.parametrize(("op", "args", "kwargs"), [
    ("Tensor.add", (torch.ones(5),), {}), ("Tensor.matmul", (torch.ones(5, 2),), {}),
    ("Tensor.matmul", (torch.ones(4, 2, dtype=torch.float64),), {}), ("Tensor.softmax", (3,), {}),
    ("Tensor.sort", (-4,), {}), ("Tensor.view", (5, 5), {}), ("Tensor.softmax", ("last",), {}),
    ("Tensor.mean", (), {"no_such": 1}), ("operator.getitem", ((0, 9),), {}),
    ("operator.getitem", (slice(None, None, -1),), {}), ("Tensor.sum", (), {"dim": 7}),
    ("torch.stack", (), {}), ("Tensor.__pow__", ("two",), {}), ("Tensor.T", (1,), {}),
])  # fmt: skip
def test_what_torch_refuses_is_a_shape_mismatch_with_the_shapes(
    op: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(errors.ShapeMismatch, match=op.replace(".", r"\.")) as caught:
        infer_call(op, (X.to("meta"), *(meta_like(arg) for arg in args)), kwargs)
    assert "[2, 3, 4]" in caught.value.message


@pytest.mark.parametrize("op", ["Tensor.unbind", "torch.chunk", "Tensor.split", "Tensor.dsplit"])
def test_a_tensor_is_not_taken_into_a_million_parts(op: str) -> None:
    """A graph of a few bytes cannot ask for the memory of a large one."""
    wide = torch.ones(1, device="meta").expand(10**9)
    with pytest.raises(errors.LimitExceeded):
        infer_call(op, (wide,) if op == "Tensor.unbind" else (wide, 1), {})


def test_views_are_known_from_copies() -> None:
    meta = X.to("meta")
    for op, args, view in (
        ("operator.getitem", (0,), True), ("operator.getitem", ([0],), False),
        ("Tensor.transpose", (0, 1), True), ("Tensor.clone", (), False),
        ("Tensor.reshape", (-1,), True), ("Tensor.float", (), True), ("Tensor.half", (), False),
        ("Tensor.expand", (2, 3, 4), True), ("Tensor.repeat", (1, 1, 1), False),
    ):  # fmt: skip
        assert is_alias(infer_call(op, (meta, *args), {}), meta) is view, op
    assert not is_alias(Unknown(), meta)
