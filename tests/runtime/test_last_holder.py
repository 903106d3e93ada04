"""The last value of a run is handed over without a copy, and only where nobody else has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from nnsight_lab.errors import EngineFailed
from nnsight_lab.runtime.last_holder import hold, mine

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(7))


def _address(make: Callable[[], torch.Tensor]) -> tuple[int, int]:
    """Where a value was, and where it is when it is handed over."""
    value = make()
    before, held = value.data_ptr(), hold(value)
    assert held is not None
    del value
    return before, mine(held).data_ptr()


def test_a_value_that_was_let_go_is_not_copied() -> None:
    before, after = _address(lambda: X * 2)
    assert after == before


def test_a_value_that_somebody_has_is_copied() -> None:
    kept: list[torch.Tensor] = []
    for look in (lambda t: t, lambda t: t[1:], lambda t: t.detach()):

        def make(look: Callable[[torch.Tensor], Any] = look) -> torch.Tensor:
            value = X * 2
            kept.append(look(value))
            return value

        before, after = _address(make)
        assert after != before


def _seen_by_numpy() -> torch.Tensor:
    value = X * 2
    value.numpy()
    return value


@pytest.mark.parametrize(
    "value",
    [
        torch.from_numpy(X.numpy().copy()),  # numpy may write to it
        _seen_by_numpy(),
        torch.zeros(4, 4)[1:],  # a part of something larger
        torch.zeros(4, 3).T,  # in another order than its axes
        torch.zeros(4).share_memory_(),
        (torch.zeros(4),),
    ],
)
def test_what_cannot_be_told_is_copied_at_once(value: Any) -> None:
    assert hold(value) is None


def test_a_write_after_the_value_was_read_is_never_silent() -> None:
    value = X * 2
    held = hold(value)
    assert held is not None
    value.mul_(2)
    with pytest.raises(EngineFailed):
        mine(held)


def test_a_user_who_kept_the_output_shares_no_memory_with_the_save() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    kept: list[torch.Tensor] = []
    handle = module[1].register_forward_hook(lambda _, __, output: kept.append(output))
    net = nl.wrap(module)
    with net.trace(X):
        out = net.output.save()
        last = net[1].output.save()
    handle.remove()
    expected = kept[-1].clone()  # the first was without data: the module is measured
    kept[-1].zero_()
    assert torch.equal(out, expected)
    assert torch.equal(last, expected)
    assert out.data_ptr() != last.data_ptr()


class Buffered(nn.Module):
    """Gives the same memory at each call, with another value."""

    def __init__(self) -> None:
        super().__init__()
        self.held = torch.zeros(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.held.copy_(x)


def test_memory_that_the_model_uses_again_is_copied() -> None:
    net = nl.wrap(Buffered())
    with net.trace(X):
        one = net.output.save()
    with net.trace(2 * X):
        two = net.output.save()
    assert torch.equal(one, X)
    assert torch.equal(two, 2 * X)


def test_what_the_model_only_passes_on_is_copied() -> None:
    net, given = nl.wrap(nn.Identity()), X.clone()
    with net.trace(given):
        out = net.output.save()
    given.zero_()
    assert torch.equal(out, X)
