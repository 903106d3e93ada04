"""PyTorch's other spellings of a call, and views whose shape is only known when the model runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import nnsight_lab as nl
from nnsight_lab import errors
from tests.support.tensors import assert_exactly, assert_same

FIRST = nn.Linear(6, 8)
nn.init.normal_(FIRST.weight, generator=torch.Generator().manual_seed(6))
MODULE = nn.Sequential(FIRST, nn.Identity())
GIVEN = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(5))

EDITS: dict[str, Callable[[Any], Any]] = {
    "inplace=": lambda h: F.relu(h, inplace=True),
    "inplace by place": lambda h: F.leaky_relu(h, 0.3, True),
    "a module in place": lambda h: nn.ReLU(inplace=True)(h[:, 1:]),
    "a function in place": lambda h: torch.relu_(h[..., ::2]),
    "another": lambda h: F.elu_(h[0]),
    "zero_": lambda h: torch.zero_(h[:, -1]),
    "rows to a recorded end": lambda h: h[:, : (h[0, :, 0] > 9).sum() + 2].mul_(3),
    "a recorded position": lambda h: h[:, h[0].sum(-1).argmax()].mul_(3),
    "a recorded position, by index": lambda h: h[:, h[0].sum(-1).argmax()].__setitem__(0, 5.0),
    "narrow at a recorded start": lambda h: h.narrow(1, h[0].sum(-1).argmax() // 2, 2).mul_(3),
    "parts at recorded places": lambda h: h.tensor_split(torch.tensor([1, 3]), 1)[1].mul_(3),
    "a list copies": lambda h: h[:, [0, 1]].mul_(3),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_write_reaches_what_it_reaches_in_pytorch(name: str) -> None:
    net = nl.wrap(MODULE)
    with net.trace(GIVEN) as tracer:
        EDITS[name](net[0].output)
        seen = net[1].output.save()
    with torch.no_grad():
        plain = MODULE[0](GIVEN)
        EDITS[name](plain)

    assert_exactly(seen, plain)
    again = net.run(nl.Graph.from_bytes(tracer.graph.to_bytes()), GIVEN)
    assert_exactly(again["seen"], plain)


def test_views_of_a_value_of_unknown_shape_stay_views() -> None:
    """`h[h > 0]` has as many entries as the model makes; a write to a part of it is kept."""

    def halves(h: Any) -> Any:
        found = h[h[..., 0] > 0]
        found.T.mul_(2)
        found[0].mul_(5)
        found.unsqueeze(0)[:, :, 1] = 7
        return found

    net = nl.wrap(MODULE)
    with net.trace(GIVEN):
        result = halves(net[0].output).save()
    with torch.no_grad():
        assert_exactly(result, halves(MODULE[0](GIVEN)))


def test_a_recorded_position_has_a_known_shape() -> None:
    net = nl.wrap(MODULE)
    with net.trace(GIVEN, execute=False):
        h = net[0].output
        best = h[0].sum(-1).argmax()
        assert tuple(h[:, best].shape) == (2, 8)
        assert tuple(h[0, best, 1:].shape) == (7,)


def test_parts_unpack_though_their_sizes_are_values() -> None:
    def parts(h: Any) -> list[Any]:
        whole = (h * 2).round()
        values, inverse, counts = whole.unique(return_inverse=True, return_counts=True)
        rows, columns = torch.where(h[0] > 0)
        again, more = torch.nonzero(h[0] > 0, as_tuple=True)
        heights, edges = torch.histogram(h, 4)
        first, second = h.tensor_split(torch.tensor([3]), dim=1)
        cov = h[0].cov()
        return [values, inverse, counts, rows, columns, again, more, heights, edges,
                first, second, cov, torch.linalg.lstsq(h[0].T, h[1].T).solution]  # fmt: skip

    net = nl.wrap(MODULE)
    with net.trace(GIVEN):
        recorded = parts(net[0].output)
        assert tuple(recorded[1].shape) == (2, 4, 8)
        assert (tuple(recorded[8].shape), tuple(recorded[11].shape)) == ((5,), (4, 4))
        saved = [part.save() for part in recorded]
    with torch.no_grad():
        *plain, solution = parts(MODULE[0](GIVEN))
    for one, other in zip(saved[:-1], plain, strict=True):
        assert_exactly(one, other)
    assert_same(saved[-1], solution, atol=1e-3)  # a solver rounds by where its memory lies


def test_dropout_that_is_off_gives_the_value_itself() -> None:
    """As in a probe or an autoencoder after `.eval()`; switched on, it is refused."""
    probe = nn.Sequential(nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.Dropout2d(0.5)).eval()
    net = nl.wrap(MODULE)
    with net.trace(GIVEN) as tracer:
        quiet: Any = probe(net[0].output)
        same = quiet.save()
        with pytest.raises(errors.OpNotAllowed):
            probe.train()(net[0].output)
    assert_exactly(same, MODULE[0](GIVEN).detach())
    assert len(tracer.graph.nodes) == 1


def test_attention_without_dropout_is_recorded() -> None:
    attend = nn.MultiheadAttention(8, 2, batch_first=True).requires_grad_(False)
    net = nl.wrap(MODULE)
    with net.trace(GIVEN):
        h = net[0].output
        attended: Any = attend(h, h, h)
        out, weights = attended[0].save(), attended[1].save()
        mixed: Any = F.scaled_dot_product_attention(h, h, h, is_causal=True)
        mixed = mixed.save()
    plain = MODULE[0](GIVEN).detach()
    expected, expected_weights = attend(plain, plain, plain)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(weights, expected_weights)
    assert_exactly(mixed, F.scaled_dot_product_attention(plain, plain, plain, is_causal=True))


SPELLINGS: dict[str, Callable[[Any], Any]] = {
    "mm": lambda h: torch.mm(h[0], h[1].T),
    "type": lambda h: h.type(torch.float64),
    "linspace": lambda h: torch.linspace(h[0, 0, 0], h[0, 0, 1], 5),
    "fill": lambda h: torch.fill(h, 2.0),
    "hardswish": lambda h: F.hardswish(h) + F.hardsigmoid(h),
    "new_tensor": lambda h: h.new_tensor([1, 2]) * h[0, 0, 0],
    "meshgrid of a list": lambda h: torch.meshgrid([h[0, 0], h[0, 1]], indexing="ij")[1],
    "a polynomial": lambda h: torch.special.legendre_polynomial_p(h, 3),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_functions_that_pytorch_does_not_list(name: str) -> None:
    net = nl.wrap(MODULE)
    with net.trace(GIVEN):
        result = SPELLINGS[name](net[0].output).save()
    with torch.no_grad():
        assert_exactly(result, SPELLINGS[name](MODULE[0](GIVEN)))


def test_facts_that_code_asks_for_are_given_at_once() -> None:
    net = nl.wrap(MODULE)
    with net.trace(GIVEN, execute=False):
        h = net[0].output
        assert [h.is_sparse, h.is_nested, h.is_quantized, h.is_cuda] == [False] * 4
        assert torch.result_type(h, 1j) is torch.complex64
        assert h.stride() == (32, 8, 1)
        with pytest.raises(errors.OpNotAllowed):
            h.type("torch.cuda.FloatTensor")
