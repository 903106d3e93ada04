"""Looking at a module leaves nothing behind in what it keeps for itself."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from tests.support.lines import assert_at
from tests.support.tensors import assert_exactly

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(7))


class Remembers(nn.Module):
    """Builds a mask at its first call, counts its calls, and keeps what it saw."""

    def __init__(self, *, data_dependent: bool) -> None:
        super().__init__()
        self.lin, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.data_dependent = data_dependent
        self.mask: torch.Tensor | None = None
        self.calls = 0
        self.sum = torch.zeros(())
        self.seen: list[torch.Tensor] = []
        self.by_shape: dict[Any, Any] = {"all": [], "last": deque(maxlen=2)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.sum += 1
        self.seen.append(x)
        self.by_shape["all"].append(x.shape)
        self.by_shape[tuple(x.shape)] = x
        self.last = x
        if self.mask is None:
            self.mask = torch.full((x.shape[-1],), 2.0, device=x.device)
        if self.data_dependent:
            x = x[x[:, 0].isfinite().nonzero()[:, 0]]
        out: torch.Tensor = self.lin(self.norm(x) * self.mask)
        return out


@pytest.mark.parametrize("data_dependent", [False, True])
def test_measuring_leaves_a_modules_own_attributes_as_they_were(*, data_dependent: bool) -> None:
    """Also where tensors without data do not get through, and the real inputs are used."""
    module = Remembers(data_dependent=data_dependent).eval()
    before = set(module.__dict__)
    tracer = nl.wrap(module).trace(X)

    assert set(module.__dict__) == before
    assert (module.mask, module.calls, float(module.sum), module.seen) == (None, 0, 0.0, [])
    assert module.by_shape == {"all": [], "last": deque()}
    with tracer:
        pass


@pytest.mark.parametrize("data_dependent", [False, True])
def test_a_traced_run_leaves_what_a_plain_call_leaves(*, data_dependent: bool) -> None:
    module = Remembers(data_dependent=data_dependent).eval()
    net = nl.wrap(module)
    with net.trace(X):
        out = net.output.save()

    assert (module.calls, float(module.sum), len(module.seen)) == (1, 1.0, 1)
    assert module.last is module.seen[0]
    kept = (module.last, module.mask, module.sum)
    assert not any(tensor is None or tensor.is_meta for tensor in kept)
    assert_exactly(out, module(X).detach())
    with net.trace(X[:2]):
        other = net.output.save()
    assert_exactly(other, module(X[:2]).detach())
    assert module.calls == 4


def test_a_module_that_fails_while_it_is_measured_is_as_before() -> None:
    class Fails(Remembers):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            super().forward(x)
            raise ZeroDivisionError

    module = Fails(data_dependent=False)
    with pytest.raises(nl.errors.BadInput):
        nl.wrap(module).trace(X)
    assert (module.mask, module.calls, float(module.sum), module.seen) == (None, 0, 0.0, [])
    assert "last" not in module.__dict__


def test_the_weights_a_module_also_keeps_in_a_list_stay_its_weights() -> None:
    """An LSTM holds them twice."""
    module = nn.LSTM(4, 6, batch_first=True)
    net = nl.wrap(module)
    with net.trace(X[None]):
        out = net.output[0].save()
    assert module._flat_weights[0] is module.weight_ih_l0
    with torch.no_grad():
        assert_exactly(out, module(X[None])[0])


def test_a_module_that_has_not_met_its_inputs_yet_is_refused_with_the_way_out() -> None:
    """Lazy layers take their shape, and their class, from the first call."""
    module = torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.ReLU())
    with pytest.raises(nl.errors.BadInput) as caught:
        nl.wrap(module)  # no shapes yet
    assert_at(caught.value, "no shapes yet")

    x = torch.ones(2, 5)
    module(x)
    net = nl.wrap(module)
    with net.trace(x):
        hidden = net[0].output.save()
    assert torch.equal(hidden, module[0](x))
