"""Writes through views mean what they mean in eager torch: the same code, in a trace and a hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from tests.support.tensors import assert_differs, assert_same

SMALL = torch.linspace(-2, 2, 8)


def slice_assignment(h: Any) -> None:
    h[:, 1] = SMALL


def slice_plus(h: Any) -> None:
    h[:, -1] += SMALL


def view_of_view(h: Any) -> None:
    row = h[0]
    row[:, 1:3] = -1.0


def plus_on_view_of_view(h: Any) -> None:
    h[0][1:, 2:4] += 5.0


def kept_view(h: Any) -> None:
    last = h[:, -1]
    last += 1.0
    last[0] *= 3.0
    last[:, :2] = 0.0


def two_views_of_the_same(h: Any) -> None:
    one, other = h[0], h[:, 0]
    one += 1.0
    other *= 2.0
    one[0] -= 3.0


def chunks(h: Any) -> None:
    first, second = h.chunk(2, dim=-1)
    first.zero_()
    second[:, 0] = 7.0


def split_of_torch(h: Any) -> None:
    torch.split(h, [1, 3], dim=1)[1].mul_(-1.0)


def unbound(h: Any) -> None:
    for place, row in enumerate(h.unbind(1)):
        row.add_(place)


def iterated(h: Any) -> None:
    for row in h:
        row[0] = 1.0


def transposed(h: Any) -> None:
    h.transpose(0, 1)[2] = 4.0


def torch_transposed(h: Any) -> None:
    torch.transpose(h, 1, 2)[:, 3] += 1.0


def matrix_t(h: Any) -> None:
    h[0].T[1] = 2.0


def permuted(h: Any) -> None:
    h.permute(2, 0, 1)[5].add_(10.0)


def unflattened(h: Any) -> None:
    heads = h.unflatten(-1, (2, 4))
    heads[:, :, 1] = 0.0
    heads[:, 0, 0] += 1.0


def viewed(h: Any) -> None:
    h.view(-1, 8)[3] = 9.0


def reshaped(h: Any) -> None:
    h.reshape(2, 4, 4, 2)[..., 1] *= 0.5


def flattened(h: Any) -> None:
    h.flatten()[::5] = 1.0


def squeezed(h: Any) -> None:
    h.unsqueeze(1)[:, 0, 2].squeeze().fill_(3.0)


def narrowed(h: Any) -> None:
    h.narrow(1, 1, 2).select(2, 4).sub_(1.0)


def diagonal(h: Any) -> None:
    h[0][:, :4].diagonal().fill_(8.0)


def expanded_read_then_write(h: Any) -> None:
    mean = h.mean(1, keepdim=True).expand(-1, 4, -1)
    h -= mean


def in_place_methods(h: Any) -> None:
    h.mul_(2).add_(1.0).clamp_(-1, 2).relu_()


def in_place_with_itself(h: Any) -> None:
    h += h[:, :1].clone()
    h *= h.sigmoid()


def augmented_operators(h: Any) -> None:
    h += 1
    h -= 0.5
    h *= 2
    h /= 4
    h **= 2


def list_index(h: Any) -> None:
    h[:, [0, 2]] = SMALL


def list_index_plus(h: Any) -> None:
    h[:, [3, 1]] += 2.0


def tensor_index(h: Any) -> None:
    h[torch.tensor([1, 0]), torch.tensor([2, 3])] = SMALL


def bool_mask(h: Any) -> None:
    h[h > 0.2] = -1.0


def bool_mask_plus(h: Any) -> None:
    h[h < 0] *= 3.0


def recorded_index(h: Any) -> None:
    h[torch.arange(2), h.norm(dim=-1).argmax(-1)] = 0.0


def masked_fill(h: Any) -> None:
    h.masked_fill_(h > 0, 0.0)


def index_put(h: Any) -> None:
    h.index_fill_(1, torch.tensor([0]), 6.0)
    h[0].index_copy_(0, torch.tensor([2]), SMALL[None])


def scatter(h: Any) -> None:
    h.scatter_(2, h.argmax(-1, keepdim=True), 100.0)


def copied_in(h: Any) -> None:
    h[:, :2].copy_(h[:, 2:])


def swapped(h: Any) -> None:
    held = h[:, 0].clone()
    h[:, 0] = h[:, 1]
    h[:, 1] = held


def ellipsis(h: Any) -> None:
    h[..., 0] = h[..., 1] + 1


def step(h: Any) -> None:
    h[:, ::2, 1::3] = 0.0


def a_copy_is_free(h: Any) -> None:
    other = h.clone()
    other += 100.0
    h[:, 0] += other[:, 0] * 0.01
    h[[0]].zero_()  # advanced indexing copies: nothing happens to h


EDITS = [
    slice_assignment, slice_plus, view_of_view, plus_on_view_of_view, kept_view,
    two_views_of_the_same, chunks, split_of_torch, unbound, iterated, transposed,
    torch_transposed, matrix_t, permuted, unflattened, viewed, reshaped, flattened, squeezed,
    narrowed, diagonal, expanded_read_then_write, in_place_methods, in_place_with_itself,
    augmented_operators, list_index, list_index_plus, tensor_index, bool_mask, bool_mask_plus,
    recorded_index, masked_fill, index_put, scatter, copied_in, swapped, ellipsis, step,
    a_copy_is_free,
]  # fmt: skip

MODULE = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
GIVEN = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(12))


@torch.no_grad()
def _by_hook(edit: Callable[[Any], None]) -> tuple[torch.Tensor, torch.Tensor]:
    """The edited activation and the module's output, with the edit in a plain hook."""
    seen: list[torch.Tensor] = []

    def hook(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        edited = output.clone()
        edit(edited)
        seen.append(edited.clone())
        return edited

    handle = MODULE[0].register_forward_hook(hook)
    out: torch.Tensor = MODULE(GIVEN)
    handle.remove()
    return seen[0], out


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_the_same_edit_in_a_trace_and_in_a_hook(edit: Callable[[Any], None]) -> None:
    """The activation as read afterwards, and all that follows from it, are the hooked ones."""
    net = nl.wrap(MODULE)
    with net.trace(GIVEN) as tracer:
        before = net[0].output.save()
        edit(net[0].output)
        after = net[0].output.save()
        out = net.output.save()

    plain = MODULE[0](GIVEN)
    edited, expected = _by_hook(edit)
    assert_same(before, plain.detach())
    assert_same(after, edited)
    assert_same(out, expected)
    assert_differs(after, before)
    assert len(tracer.graph.writes()) == 1


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_of_a_computed_value_stays_out_of_the_model(edit: Callable[[Any], None]) -> None:
    """What is not a place in the model may be edited too; the model does not notice."""
    net = nl.wrap(MODULE)
    with net.trace(GIVEN) as tracer:
        mine = net[0].output * 1.0
        edit(mine)
        edited = mine.save()
        out = net.output.save()

    expected, _ = _by_hook(edit)
    assert_same(edited, expected)
    assert_same(out, MODULE(GIVEN).detach())
    assert not tracer.graph.writes()


def test_a_view_taken_before_an_edit_sees_it() -> None:
    """Views share memory in torch, whichever side is written to."""
    net = nl.wrap(MODULE)
    with net.trace(GIVEN):
        h = net[0].output
        last, heads = h[:, -1], h.unflatten(-1, (2, 4))[:, :, 0]
        h[:, -1] = 1.0
        seen, seen_heads = last.save(), heads.save()
        heads[:, 0] = 5.0
        whole = h.save()
    assert_same(seen, torch.ones(2, 8))
    assert_same(seen_heads[:, -1], torch.ones(2, 4))
    assert_same(whole[:, 0, :4], torch.full((2, 4), 5.0))


class Turned(nn.Module):
    """Returns a transposed view: its memory is not in the order of its axes."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Linear(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turned: torch.Tensor = self.turn(x).transpose(1, 2)
        return turned


def test_whether_reshape_is_a_view_does_not_depend_on_the_models_memory() -> None:
    """A value is taken in the order of its axes, so a write means what the shapes say."""
    net = nl.wrap(Turned())
    with net.trace(GIVEN):
        net.output.reshape(-1)[0] = 3.0
        net.output.view(2, 32)[1] += 1.0
        edited = net.output.save()
        copied = net.output.mT.reshape(-1)
        copied[1] = 7.0
        still = net.output.save()

    by_hand = net.module(GIVEN).detach().contiguous()
    by_hand[0, 0, 0] = 3.0
    by_hand[1] += 1.0
    assert_same(edited, by_hand)
    assert_same(still, by_hand)
