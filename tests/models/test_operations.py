"""What torch computes on a tensor, a trace computes on a recorded value: the same code, twice."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import nnsight_lab as nl
from tests.support.tensors import assert_same

REAL = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(11))
ROW = torch.linspace(-1, 1, 8)
MODULE = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5))
GIVEN = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(12))

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "stack": lambda h: torch.stack([h, 2 * h, REAL]),
    "cat of mixed": lambda h: torch.cat((REAL, h[:, :1]), dim=1),
    "einsum": lambda h: torch.einsum("bpd,bqd->bpq", h, REAL),
    "einsum, all recorded": lambda h: torch.einsum("bpd,d->bp", h, h[0, 0]),
    "where, three recorded": lambda h: torch.where(h > 0, h, -h),
    "where, with numbers": lambda h: torch.where(h > 0, 1.0, h),
    "softmax": lambda h: torch.softmax(h, dim=-1),
    "softmax method": lambda h: h.softmax(-1),
    "log_softmax, dtype": lambda h: h.log_softmax(-1, dtype=torch.float64),
    "topk values": lambda h: h.topk(3).values,
    "topk unpacked": lambda h: list(torch.topk(h, k=2, dim=1)),
    "max with indices": lambda h: list(h.max(dim=-1)),
    "max of all": lambda h: h.max(),
    "max of two": lambda h: torch.max(h, REAL),
    "sort": lambda h: [h.sort(descending=True)[0], h.sort(descending=True).indices],
    "std_mean": lambda h: list(torch.std_mean(h, dim=-1)),
    "svd": lambda h: torch.linalg.svd(h).S,
    "norm": lambda h: torch.linalg.vector_norm(h, dim=-1, keepdim=True),
    "matmul": lambda h: h @ REAL.mT,
    "matmul, recorded right": lambda h: REAL @ h.transpose(-1, -2),
    "batched mm": lambda h: torch.bmm(h, h.mT),
    "outer": lambda h: torch.outer(h[0, 0], ROW),
    "tensordot": lambda h: torch.tensordot(h, REAL, dims=([2], [2])),
    "gelu": lambda h: F.gelu(h, approximate="tanh"),
    "layer_norm": lambda h: F.layer_norm(h, (8,), weight=ROW),
    "linear": lambda h: F.linear(h, REAL[0], bias=ROW[:4]),
    "cosine": lambda h: F.cosine_similarity(h, REAL, dim=-1),
    "cross_entropy": lambda h: F.cross_entropy(h[:, 0], torch.tensor([1, 5])),
    "one_hot": lambda h: F.one_hot(h.argmax(-1), 8),
    "pad": lambda h: F.pad(h, (1, 2), value=-1.0),
    "a module's class": lambda h: nn.functional.silu(h) * torch.sigmoid(h),
    "keyword input": lambda h: torch.relu(input=h) + torch.transpose(input=h, dim0=0, dim1=0),
    "cumsum": lambda h: h.cumsum(1),
    "gather": lambda h: h.gather(-1, h.argsort(-1)),
    "index_select": lambda h: h.index_select(2, torch.tensor([7, 0])),
    "masked_fill": lambda h: h.masked_fill(h < 0, float("-inf")),
    "nan": lambda h: torch.where(h > 0, h, float("nan")),
    "tril": lambda h: (h @ h.mT).tril(),
    "repeat": lambda h: h.repeat(1, 2, 1),
    "repeat_interleave": lambda h: h.repeat_interleave(2, dim=0),
    "expand": lambda h: h[:1].expand(3, -1, -1),
    "roll": lambda h: h.roll(1, dims=1),
    "flip": lambda h: h.flip(-1),
    "permute": lambda h: h.permute(2, 0, 1),
    "unflatten": lambda h: h.unflatten(-1, (2, 4)).flatten(0, 1),
    "view": lambda h: h.view(h.shape[0], -1),
    "reshape as": lambda h: h.reshape_as(REAL.flatten(0, 1)),
    "chunks": lambda h: list(h.chunk(2, dim=-1)),
    "split": lambda h: list(torch.split(h, [1, 3], dim=1)),
    "unbind": lambda h: list(h.unbind(1)),
    "meshgrid": lambda h: list(torch.meshgrid(h[0, 0], ROW, indexing="ij")),
    "unique": lambda h: (h > 0).unique(),
    "nonzero": lambda h: (h > 0).nonzero(),
    "mask index": lambda h: h[h > 0],
    "complex": lambda h: torch.fft.fft(h).abs(),
    "quantile": lambda h: h.quantile(0.5, dim=-1),
    "new_zeros": lambda h: h.new_zeros(3) + h[0, 0, :3],
    "zeros_like": lambda h: torch.zeros_like(h, dtype=torch.int32) + 1,
    "like, with a device": lambda h: torch.ones_like(h, device=h.device) * h,
    "clamp": lambda h: h.clamp(-0.1, 0.2),
    "lerp": lambda h: h.lerp(REAL, 0.3),
    "addcmul": lambda h: torch.addcmul(h, REAL, h, value=0.5),
    "clone": lambda h: h.clone() + 0,
    "detach": lambda h: h.detach() * 2,
    "sum of a list": lambda h: sum([h, REAL, h]),
    "T of a matrix": lambda h: h[0].T + h[0].mT,
}

OPERATORS = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.mod,
    operator.floordiv, operator.lt, operator.le, operator.gt, operator.ge, operator.eq,
    operator.ne, operator.matmul,
]  # fmt: skip


def _both(function: Callable[[Any], Any]) -> tuple[list[Any], list[torch.Tensor]]:
    """The results in a trace, and on the tensor itself."""
    net = nl.wrap(MODULE)
    with net.trace(GIVEN):
        result: Any = function(net[0].output)
        parts: list[Any] = result if isinstance(result, list) else [result]
        saved = [part.save() for part in parts]
    with torch.no_grad():
        plain = function(MODULE[0](GIVEN))
    return saved, plain if isinstance(plain, list) else [plain]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_and_methods(name: str) -> None:
    actual, expected = _both(FUNCTIONS[name])
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("operation", OPERATORS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize(
    "other",
    [REAL.abs() + 0.5, 3, 0.5, np.float32(2.0), np.int64(2)],
    ids=lambda o: type(o).__name__,
)
def test_operators_in_both_orders(operation: Callable[[Any, Any], Any], other: Any) -> None:
    """A recorded value on the left, on the right, and on both sides."""
    if operation is operator.matmul:
        if not isinstance(other, torch.Tensor):
            return
        other = other.mT
        pairs = [lambda h: h @ other, lambda h: other @ h, lambda h: h @ h.mT]
    else:
        pairs = [
            lambda h: operation(h.abs(), other),
            lambda h: operation(other, h.abs() + 0.5),
            lambda h: operation(h, h.abs()),
        ]
    for pair in pairs:
        actual, expected = _both(pair)
        assert_same(actual[0], expected[0])


def test_logic_and_bit_operators() -> None:
    def logic(h: Any) -> list[Any]:
        one, two = h > 0, h < 0.3
        whole = (h * 10).long()
        return [
            one & two, one | two, one ^ two, ~one, True & one, whole << 1, whole >> 1, 7 & whole,
            -h, +h, abs(h), whole % 3, 2 ** h, 1 / (h.abs() + 1), 1 - h, 7 // (h.abs() + 1),
        ]  # fmt: skip

    actual, expected = _both(logic)
    for one, other in zip(actual, expected, strict=True):
        assert_same(one, other)


INDICES: dict[str, Any] = {
    "number": 1, "negative": -1, "slice": slice(1, 3), "step": (slice(None), slice(None, None, 2)),
    "ellipsis": (..., -1), "new axis": (slice(None), None, 2), "list": (slice(None), [3, 0]),
    "tensor": (slice(None), torch.tensor([1, 1, 2])), "two lists": ([0, 1], [2, 3]),
    "numpy": np.array([1, 0]), "numpy number": (0, np.int64(2)), "bool list": [True, False],
    "bool tensor": torch.tensor([False, True]), "mixed": (0, slice(1, None), [5, 2]),
    "range": (slice(None), list(range(2))),
}  # fmt: skip


@pytest.mark.parametrize("name", INDICES)
def test_indexing(name: str) -> None:
    key = INDICES[name]
    actual, expected = _both(lambda h: h[key])
    assert_same(actual[0], expected[0])


def test_indices_may_be_recorded_values() -> None:
    """A position found by the model, as an index and as a bound."""

    def pick(h: Any) -> list[Any]:
        best = h.sum(-1).argmax(-1)
        return [h[:, best], h[torch.arange(2), best], h[0, best[0]], h[0][h[0, :, 0] > 0]]

    actual, expected = _both(pick)
    for one, other in zip(actual, expected, strict=True):
        assert_same(one, other)


def test_negative_steps_are_refused_as_torch_refuses_them() -> None:
    net = nl.wrap(MODULE)
    with pytest.raises(nl.errors.ShapeMismatch, match="step"), net.trace(GIVEN):
        net[0].output[::-1].save()


def test_dtype_casts_and_moves() -> None:
    """Casts are operations; moving to a device changes nothing, values stay with the model."""

    def cast(h: Any) -> list[Any]:
        return [
            h.to(torch.float64), h.to(dtype=torch.float16), h.double(), h.half(), h.bool(),
            h.long(), h.to(REAL.double()), h.type_as(REAL.half()), h.bfloat16().float(),
            h.cpu(), h.to("cpu"), h.to(h.device), h.to("cpu", torch.float64), h.float(),
        ]  # fmt: skip

    actual, expected = _both(cast)
    for one, other in zip(actual, expected, strict=True):
        assert_same(one, other)


def test_facts_about_shape_need_no_run() -> None:
    """Sizes and kinds are plain Python values, usable in `if` and in arithmetic."""
    facts: list[Callable[[Any], Any]] = [
        lambda h: tuple(h.shape), len, lambda h: h.dtype, lambda h: h.dim(), lambda h: h.ndim,
        lambda h: h.size(-1), lambda h: h.numel(), lambda h: h.is_floating_point(),
        lambda h: h.element_size(), lambda h: tuple(h.size()), lambda h: h.nelement(),
        torch.is_complex, lambda h: h.shape[0] * 2 + 1, lambda h: h[0].T.shape[0],
    ]  # fmt: skip
    net = nl.wrap(MODULE)
    with net.trace(GIVEN):
        h = net[0].output[:, 1:]
        recorded = [fact(h) for fact in facts]
    plain = MODULE[0](GIVEN)[:, 1:]
    assert recorded == [fact(plain) for fact in facts]
    assert not any("recorded" in repr(value) for value in recorded)


def test_a_value_can_be_iterated() -> None:
    """Rows by `for`, by unpacking, by `zip` and `enumerate`, as with a tensor."""

    def walk(h: Any) -> list[Any]:
        one, two = h
        total = 0
        for place, row in enumerate(h[0]):
            total = total + place * row
        pairs = [a * b for a, b in zip(one, two, strict=True)]
        return [one, two, total, *pairs, *reversed(h)]

    actual, expected = _both(walk)
    for one, other in zip(actual, expected, strict=True):
        assert_same(one, other)


def test_named_results_keep_their_names() -> None:
    net = nl.wrap(MODULE)
    with net.trace(GIVEN):
        best = net[0].output.topk(2)
        values, indices = best.values.save(), best.indices.save()
        furthest: Any = torch.max(net[0].output, dim=0)
        place = furthest.indices.save()
    plain = MODULE[0](GIVEN)
    assert_same(values, plain.topk(2).values)
    assert_same(indices, plain.topk(2).indices)
    assert_same(place, plain.max(dim=0).indices)


def test_einops_reads_recorded_values_as_tensors() -> None:
    einops = pytest.importorskip("einops")
    actual, expected = _both(lambda h: einops.rearrange(h, "b p (g d) -> b g (p d)", g=2))
    assert_same(actual[0], expected[0])
