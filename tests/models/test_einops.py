"""einops on recorded values: every function gives what it gives on the tensor itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from tests.support.tensors import assert_exactly

einops = pytest.importorskip("einops")
layers = pytest.importorskip("einops.layers.torch")

MODULE = nn.Linear(6, 8)
GIVEN = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(3))
OTHER = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(4))


def _packed(h: Any) -> list[Any]:
    """Two values of different axes in one, and apart again."""
    packed, shapes = einops.pack([h, h.sum(-1, keepdim=True).mean(1), OTHER], "b *")
    first, second, third = einops.unpack(packed * 2, shapes, "b *")
    return [packed, first, second, third]


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "split an axis": lambda h: einops.rearrange(h, "b p (g d) -> b g p d", g=2),
    "merge axes": lambda h: einops.rearrange(h, "b p d -> (b p) d"),
    "turn": lambda h: einops.rearrange(h, "b p d -> d p b"),
    "ellipsis": lambda h: einops.rearrange(h, "b ... (g d) -> b ... d g", d=4),
    "new axes": lambda h: einops.rearrange(h, "b p d -> b 1 p d 1"),
    "a list": lambda h: einops.rearrange([h, OTHER, h], "n b p d -> b p (n d)"),
    "mean": lambda h: einops.reduce(h, "b p d -> b d", "mean"),
    "max": lambda h: einops.reduce(h, "b (p q) d -> b p d", "max", q=2),
    "min": lambda h: einops.reduce(h, "b p d -> 1 p 1", "min"),
    "sum": lambda h: einops.reduce(h, "b p d -> ", "sum"),
    "prod": lambda h: einops.reduce(h, "b p d -> p", "prod"),
    "any": lambda h: einops.reduce(h > 1.0, "b p d -> b", "any"),
    "all": lambda h: einops.reduce(h > -9.0, "b p d -> b", "all"),
    "logsumexp": lambda h: einops.reduce(h, "b p d -> b p", torch.logsumexp),
    "repeat": lambda h: einops.repeat(h, "b p d -> b p (d k)", k=3),
    "repeat, new axis": lambda h: einops.repeat(h, "b p d -> b h p d", h=2),
    "einsum": lambda h: einops.einsum(h, OTHER, "b p d, b q d -> b p q"),
    "einsum, all recorded": lambda h: einops.einsum(h, h, "b p d, b q d -> b p q"),
    "einsum, one": lambda h: einops.einsum(h, "b p d -> d p"),
    "a layer": layers.Rearrange("b p (g d) -> b g p d", g=2),
    "a reducing layer": layers.Reduce("b p d -> b d", "mean"),
    "pack and unpack": _packed,
}


def _parts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_einops_on_recorded_values(name: str) -> None:
    """In this process, and through bytes."""
    function = FUNCTIONS[name]
    net = nl.wrap(MODULE)
    with net.trace(GIVEN) as tracer:
        parts = [part.save() for part in _parts(function(net.output))]
    with torch.no_grad():
        plain = _parts(function(MODULE(GIVEN)))
    again = net.run(nl.Graph.from_bytes(tracer.graph.to_bytes()), GIVEN)

    assert len(parts) == len(plain)
    for place, (one, other) in enumerate(zip(parts, plain, strict=True)):
        assert_exactly(one, other)
        assert_exactly(again[f"parts[{place}]"], other)


def test_a_write_through_a_rearranged_view_reaches_the_model() -> None:
    net = nl.wrap(nn.Sequential(MODULE, nn.Identity()))
    with net.trace(GIVEN):
        heads = einops.rearrange(net[0].output, "b p (g d) -> b p g d", g=2)
        heads[:, :, 1] = 0
        changed = net[1].output.save()
    expected = MODULE(GIVEN).detach()
    expected[..., 4:] = 0
    assert_exactly(changed, expected)


def test_sizes_are_known_and_wrong_ones_are_einops_s_own_error() -> None:
    net = nl.wrap(MODULE)
    with net.trace(GIVEN, execute=False):
        sizes = einops.parse_shape(net.output, "b p _")
        with pytest.raises(einops.EinopsError, match="divide"):
            einops.rearrange(net.output, "b p (g d) -> b g p d", g=3)
    assert sizes == {"b": 2, "p": 4}
    with pytest.raises(RuntimeError, match="unknown"):
        einops.rearrange(object(), "a b -> b a")
