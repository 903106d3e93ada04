"""Gradients edited on their way back: what lies further back gets the new one.

    with loss.backward():
        h.grad[:, -1] = 0

The oracle is torch's autograd on the plain model, with `register_hook` written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import (
    ShapeMismatch,
)
from tests.server.lab_server import Serving
from tests.support.fixtures import IDS
from tests.support.hooks import tensor_of
from tests.support.lines import assert_at
from tests.support.small_models import LAYERS, SmallModel
from tests.support.tensors import assert_differs, assert_exactly, assert_same
from tests.support.three_ways import assert_three_ways

PROMPT = "The capital of France is"
TOKEN = 7

Change = Callable[[torch.Tensor], torch.Tensor]


def by_hand(
    model: Any,
    blocks: list[str],
    ids: list[list[int]],
    changes: Mapping[int, Change],
    *,
    row: int = 0,
    pos: int = -1,
) -> tuple[torch.Tensor, ...]:
    """The gradient of one logit at every block's output, with hooks on those to change."""
    kept: dict[int, torch.Tensor] = {}

    def watch(index: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> Any:
            stream = tensor_of(output).clone()
            kept[index] = stream
            return (stream, *output[1:]) if isinstance(output, tuple) else stream

        return model.get_submodule(blocks[index]).register_forward_hook(hook)

    with ExitStack() as stack:
        for index in range(len(blocks)):
            stack.callback(watch(index).remove)
        logits = model(torch.tensor(ids), use_cache=False).logits
    for index, change in changes.items():
        kept[index].register_hook(change)
    return torch.autograd.grad(logits[row, pos, TOKEN], [kept[i] for i in range(len(blocks))])


def of_family(family: SmallModel, changes: dict[int, Change]) -> tuple[torch.Tensor, ...]:
    blocks = [family.at(family.block, index) for index in range(LAYERS)]
    return by_hand(family.module, blocks, IDS, changes)


def last_position_off(gradient: torch.Tensor) -> torch.Tensor:
    changed = gradient.clone()
    changed[:, -1] = 0.0
    return changed


def test_an_edited_gradient_is_what_flows_further_back(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.trace(IDS):
        first, second = lm.layers[0].output, lm.layers[1].output
        with lm.logits[0, -1, TOKEN].backward():
            second.grad[:, -1] = 0
            gradient = first.grad.save()

    assert_same(gradient, of_family(family, {1: last_position_off})[0])
    assert_differs(gradient, of_family(family, {})[0])


def test_the_line_of_an_edit_may_come_after_the_line_that_reads(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """There is one backward pass: an edit further down it is part of all that comes after."""
    with lm.trace(IDS):
        first, second = lm.layers[0].output, lm.layers[1].output
        lm.logits[0, -1, TOKEN].backward()
        gradient = first.grad.save()
        second.grad *= 3

    assert_same(gradient, of_family(family, {1: lambda g: g * 3})[0])


@pytest.mark.parametrize("spelling", ["number", "tensor", "in place", "zero", "item"])
def test_every_spelling_of_an_edit(lm: nl.LanguageModel, family: SmallModel, spelling: str) -> None:
    given = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(0))

    def half_at_two(gradient: torch.Tensor) -> torch.Tensor:
        changed = gradient.clone()
        changed[:, 2, :4] = 0.5
        return changed

    changes: dict[str, Change] = {
        "number": lambda g: torch.full_like(g, 0.25),
        "tensor": lambda _: given,
        "in place": lambda g: g * 2 + 1,
        "zero": torch.zeros_like,
        "item": half_at_two,
    }
    with lm.trace(IDS):
        first, second = lm.layers[0].output, lm.layers[1].output
        with lm.logits[0, -1, TOKEN].backward():
            if spelling == "number":
                second.grad = 0.25
            elif spelling == "tensor":
                second.grad = given
            elif spelling == "in place":
                second.grad *= 2
                second.grad += 1
            elif spelling == "zero":
                second.grad.zero_()
            else:
                second.grad[:, 2][:, :4] = 0.5
            gradient = first.grad.save()

    assert_same(gradient, of_family(family, {1: changes[spelling]})[0])
    assert_differs(gradient, of_family(family, {})[0])


def test_reading_after_an_edit_sees_it_and_a_save_before_does_not(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.trace(IDS):
        h = lm.layers[1].output
        with lm.logits[0, -1, TOKEN].backward():
            before = h.grad.save()
            h.grad[:, -1] = 0.0
            after = h.grad.save()

    plain = of_family(family, {})[1]
    assert_same(before, plain)
    assert_exactly(after, last_position_off(before))
    assert_differs(after, plain)


def test_edits_along_the_way_add_up(lm: nl.LanguageModel, family: SmallModel) -> None:
    """Each place gets what the later one handed on; `third.grad` is as it was at its line."""
    with lm.trace(IDS):
        first, second, third = (layer.output for layer in lm.layers)
        with lm.logits[0, -1, TOKEN].backward():
            second.grad = second.grad.sign() + third.grad
            third.grad *= 2
            gradient = first.grad.save()

    kept: list[torch.Tensor] = []

    def doubled(g: torch.Tensor) -> torch.Tensor:
        kept.append(g)
        return g * 2

    assert_same(gradient, of_family(family, {2: doubled, 1: lambda g: g.sign() + kept[0]})[0])
    assert_differs(gradient, of_family(family, {})[0])


def test_a_gradient_may_be_made_of_activations(lm: nl.LanguageModel, family: SmallModel) -> None:
    """Guided backpropagation: only where the activation is positive goes anything back."""
    with lm.trace(IDS):
        h = lm.layers[1].output
        with lm.logits[0, -1, TOKEN].backward():
            h.grad = torch.where(h > 0, h.grad, 0.0)
            gradient = lm.layers[0].output.grad.save()

    with torch.no_grad():
        block = family.module.get_submodule(family.at(family.block, 1))
        seen: list[torch.Tensor] = []
        handle = block.register_forward_hook(lambda _, __, out: seen.append(tensor_of(out)))
        family.module(torch.tensor(IDS), use_cache=False)
        handle.remove()
    expected = of_family(family, {1: lambda g: torch.where(seen[0] > 0, g, 0.0)})[0]
    assert_same(gradient, expected)
    assert_differs(gradient, of_family(family, {})[0])


def test_each_backward_pass_has_edits_of_its_own(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS):
        first, second = lm.layers[0].output, lm.layers[1].output
        loss = lm.logits[0, -1, TOKEN]
        with loss.backward(retain_graph=True):
            second.grad[:, -1] = 0.0
            edited = first.grad.save()
        with loss.backward():
            plain = first.grad.save()
        with loss.backward():
            second.grad *= -1.0
            turned = first.grad.save()

    assert_same(edited, of_family(family, {1: last_position_off})[0])
    assert_same(plain, of_family(family, {})[0])
    assert_same(turned, -of_family(family, {})[0])
    assert_differs(edited, plain)


def test_a_gradient_of_one_pass_may_replace_that_of_another(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """Of an earlier place too: the other pass is over by then."""
    with lm.trace(IDS):
        first, second = lm.layers[0].output, lm.layers[1].output
        with lm.logits[0, -1, TOKEN].backward():
            early = first.grad
        with lm.logits[0, -1, TOKEN].backward():
            second.grad = early
            gradient = first.grad.save()

    given = of_family(family, {})[0]
    assert_same(gradient, of_family(family, {1: lambda _: given})[0])


def test_each_invoke_has_gradients_of_its_own(tiny: nl.LanguageModel) -> None:
    prompts = PROMPT, "The capital of Italy is"
    with tiny.trace() as tracer:
        losses, streams = [], []
        for prompt in prompts:
            with tracer.invoke(prompt):
                streams.append([layer.output for layer in tiny.layers[:2]])
                losses.append(tiny.logits[0, -1, TOKEN])
        (losses[0] + losses[1]).backward()
        streams[0][1].grad[:, -1] = 0.0
        got = [stream[0].grad.save() for stream in streams]

    blocks = [f"model.layers.{index}" for index in range(2)]
    for row, changes in enumerate(({1: last_position_off}, {})):
        ids = [list(line) for line in tiny.tokenize(prompts[row]).rows]
        assert_same(got[row], by_hand(tiny.module, blocks, ids, changes)[0], atol=1e-5)


def test_a_loss_of_many_numbers_goes_back_with_a_gradient_given(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """`logits.backward(gradient=v)`, as in torch."""
    weights = torch.randn(1, 6, 61, generator=torch.Generator().manual_seed(1))
    with lm.trace(IDS):
        h = lm.layers[0].output
        with lm.logits.backward(gradient=weights):
            gradient = h.grad.save()

    kept: list[torch.Tensor] = []
    block = family.module.get_submodule(family.at(family.block, 0))
    handle = block.register_forward_hook(lambda _, __, out: kept.append(tensor_of(out)))
    logits = family.module(torch.tensor(IDS), use_cache=False).logits
    handle.remove()
    (expected,) = torch.autograd.grad(logits, kept, grad_outputs=weights)
    assert_same(gradient, expected)
    with pytest.raises(ShapeMismatch) as caught, lm.trace(IDS):
        lm.logits.backward(gradient=weights[0])  # of another shape
    assert_at(caught.value, "of another shape")


def test_the_three_ways(tiny: nl.LanguageModel, lab: Serving) -> None:
    with tiny.trace(PROMPT) as tracer:
        first, second = tiny.layers[0].output, tiny.layers[1].output
        with tiny.logits[0, -1, TOKEN].backward():
            second.grad[:, -1] = 0.0
            gradient = first.grad.save()
            after = second.grad.save()
    ids = [list(row) for row in tiny.tokenize(PROMPT).rows]
    blocks = [f"model.layers.{index}" for index in range(2)]
    changed = by_hand(tiny.module, blocks, ids, {1: last_position_off})

    assert_same(gradient, changed[0])
    assert after[:, -1].abs().max() == 0
    assert_three_ways(tiny, tracer, lab)


def test_nothing_stays_behind(lm: nl.LanguageModel, family: SmallModel) -> None:
    weight = next(family.module.parameters())
    for _ in range(2):
        with lm.trace(IDS):
            h = lm.norm.weight
            with lm.logits[0, -1, TOKEN].backward():
                h.grad *= 0.0
                zero = h.grad.save()
    assert zero.abs().max() == 0
    assert weight.grad is None
    assert not any(parameter._backward_hooks for parameter in family.module.parameters())


def test_a_value_the_model_changes_in_place_has_its_own_gradient() -> None:
    linear = torch.nn.Linear(4, 4)
    module = torch.nn.Sequential(linear, torch.nn.ReLU(inplace=True), torch.nn.Linear(4, 1))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    net = nl.wrap(module)
    with net.trace(x), net.output.sum().backward():
        net[0].output.grad[:, 0] = 0.0
        gradient = net[0].output.grad.save()
        given = net.input.grad.save()

    plain = linear(x)
    out = module[2](plain.clamp(min=0))
    (arrived,) = torch.autograd.grad(out.sum(), plain)
    arrived[:, 0] = 0.0
    assert (plain[:, 1:] < 0).any()
    assert_same(gradient, arrived)
    assert_same(given, arrived @ linear.weight.detach())


def test_a_place_replaced_by_a_constant_has_a_gradient(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    value = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(3))
    with lm.trace(IDS):
        lm.layers[0].output = value
        with lm.logits[0, -1, TOKEN].backward():
            lm.layers[1].output.grad *= 2.0
            gradient = lm.layers[0].output.grad.save()

    own = value.clone().requires_grad_()
    block = family.module.get_submodule(family.at(family.block, 0))

    def replaced(_: Any, __: Any, output: Any) -> Any:
        return (own, *output[1:]) if isinstance(output, tuple) else own

    handle = block.register_forward_hook(replaced)
    logits = family.module(torch.tensor(IDS), use_cache=False).logits
    handle.remove()
    (expected,) = torch.autograd.grad(logits[0, -1, TOKEN], own)
    assert_same(gradient, 2.0 * expected)


def test_two_places_at_one_moment_may_trade_gradients(lm: nl.LanguageModel) -> None:
    """q and k meet in one call; neither's gradient waits for the other's."""
    with lm.trace(IDS):
        q, z = lm.layers[1].attn.q, lm.layers[0].attn.z
        with lm.logits[0, -1, TOKEN].backward():
            plain_q, plain_z = q.grad.save(), z.grad.save()
    with lm.trace(IDS):
        q, v = lm.layers[1].attn.q, lm.layers[1].attn.v
        with lm.logits[0, -1, TOKEN].backward():
            v.grad = v.grad + q.grad.mean()
            q.grad = q.grad * v.grad.mean()
            new_q, new_z = q.grad.save(), lm.layers[0].attn.z.grad.save()
    assert_differs(new_q, plain_q)
    assert_differs(new_z, plain_z, by=1e-5)
