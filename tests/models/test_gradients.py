"""Gradients equal `torch.autograd.grad` on the plain model, and leave the weights' own alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import GraphError, OpFailed, ShapeMismatch, WriteTooEarly
from tests.support.fixtures import IDS
from tests.support.hooks import tensor_of
from tests.support.lines import assert_at, frames_of_ours
from tests.support.small_models import LAYERS, SmallModel
from tests.support.tensors import assert_differs, assert_same

TOKEN = 7


@contextmanager
def streams(model: SmallModel, edit: float = 0.0) -> Iterator[dict[int, torch.Tensor]]:
    """By hand: the tensor each block gives, as the model goes on with it; block 1's edited."""
    kept: dict[int, torch.Tensor] = {}

    def watch(index: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> Any:
            stream = tensor_of(output).clone()
            if index == 1 and edit:
                stream[:, -1, 0] += edit
            kept[index] = stream
            return (stream, *output[1:]) if isinstance(output, tuple) else stream

        return model.module.get_submodule(model.at(model.block, index)).register_forward_hook(hook)

    handles = [watch(index) for index in range(LAYERS)]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def by_hand(model: SmallModel, edit: float = 0.0, pos: int = -1) -> tuple[torch.Tensor, ...]:
    """The gradient of one logit with respect to every block's output, by autograd."""
    with streams(model, edit) as kept:
        logits = model.module(torch.tensor(IDS), use_cache=False).logits
        places = [kept[index] for index in range(LAYERS)]
        return torch.autograd.grad(logits[0, pos, TOKEN], places)


def test_the_gradient_of_a_logit_at_every_block(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS):
        resid = [layer.output for layer in lm.layers]
        with lm.logits[0, -1, TOKEN].backward():
            gradients = [h.grad.save() for h in resid]

    for ours, theirs in zip(gradients, by_hand(family), strict=True):
        assert_same(ours, theirs)
        assert_differs(ours, torch.zeros_like(ours))
        assert not ours.requires_grad


def test_backward_without_a_with_means_the_same(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS):
        h = lm.layers[1].output
        loss = lm.logits[0, -1, TOKEN]
        loss.backward()
        gradient = h.grad.save()

    assert_same(gradient, by_hand(family)[1])


def test_a_gradient_sees_the_edits_before_it(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS):
        h = lm.layers[1].output
        h[:, -1, 0] += 2.0
        with lm.logits[0, -1, TOKEN].backward():
            gradient = h.grad.save()

    assert_same(gradient, by_hand(family, edit=2.0)[1])
    assert_differs(gradient, by_hand(family)[1])


def test_each_backward_pass_has_its_own_gradients(lm: nl.LanguageModel, family: SmallModel) -> None:
    """Two losses in one trace: nothing is added up, and the first graph is not freed."""
    with lm.trace(IDS):
        h = lm.layers[0].output
        with lm.logits[0, -1, TOKEN].backward():
            last = h.grad.save()
        with lm.logits[0, -2, TOKEN].backward():
            before_last = h.grad.save()

    assert_same(last, by_hand(family)[0])
    assert_same(before_last, by_hand(family, pos=-2)[0])


def test_a_gradient_is_a_value_to_compute_with(lm: nl.LanguageModel, family: SmallModel) -> None:
    """Attribution: gradient times activation, summed over the stream."""
    with lm.trace(IDS):
        h = lm.layers[1].output
        with lm.logits[0, -1, TOKEN].backward():
            attribution = (h.grad * h).sum(-1).save()

    with streams(family) as kept:
        logits = family.module(torch.tensor(IDS), use_cache=False).logits
        (gradient,) = torch.autograd.grad(logits[0, -1, TOKEN], [kept[1]])
    assert_same(attribution, (gradient * kept[1]).sum(-1).detach())


@pytest.mark.parametrize("port", ["q", "k", "v", "z", "pattern"])
def test_gradients_inside_attention_say_how_the_loss_moves(lm: nl.LanguageModel, port: str) -> None:
    """Against a finite difference of the edited model: no hook stands where q and pattern are."""
    with lm.trace(IDS):
        value = getattr(lm.layers[1].attn, port)
        loss = lm.logits[0, -1, TOKEN].save()
        with loss.backward():
            gradient = value.grad.save()

    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0))
    moved = {}
    for step in (-1e-2, 1e-2):
        with lm.trace(IDS):
            inside = getattr(lm.layers[1].attn, port)
            inside[:] = inside + step * direction
            moved[step] = lm.logits[0, -1, TOKEN].save()
    slope = (moved[1e-2] - moved[-1e-2]) / 2e-2

    expected = (gradient * direction).sum()
    torch.testing.assert_close(slope, expected, atol=2e-3, rtol=2e-2)
    assert expected.abs() > 1e-3


def test_the_weights_own_gradients_stay_as_they_are(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    weight = next(family.module.parameters())
    weight.grad = torch.full_like(weight, 7.0)
    try:
        with lm.trace(IDS), lm.logits[0, -1, TOKEN].backward():
            gradient = lm.layers[0].output.grad.save()
        assert torch.equal(weight.grad, torch.full_like(weight, 7.0))
        others = [w for w in family.module.parameters() if w is not weight]
        assert all(other.grad is None for other in others)
        assert_differs(gradient, torch.zeros_like(gradient))
    finally:
        weight.grad = None


def test_the_gradient_of_a_weight_is_computed_when_asked(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.trace(IDS), lm.logits[0, -1, TOKEN].backward():
        gradient = lm.norm.weight.grad.save()

    logits = family.module(torch.tensor(IDS), use_cache=False).logits
    weight = family.module.get_submodule(dict(lm.tree.standard)["norm"]).weight
    (expected,) = torch.autograd.grad(logits[0, -1, TOKEN], [weight])
    assert_same(gradient, expected)


def test_a_model_whose_weights_are_frozen_has_gradients_too(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    expected = by_hand(family)[0]
    for weight in family.module.parameters():
        weight.requires_grad_(False)
    try:
        with lm.trace(IDS), lm.logits[0, -1, TOKEN].backward():
            gradient = lm.layers[0].output.grad.save()
    finally:
        for weight in family.module.parameters():
            weight.requires_grad_(True)

    assert_same(gradient, expected)


def test_gradients_travel_in_a_graph(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS) as tracer, lm.logits[0, -1, TOKEN].backward():
        lm.layers[1].output.grad.save()

    again = nl.Graph.from_bytes(tracer.graph.to_bytes())
    assert again == tracer.graph
    assert "gradient of" in str(again)
    run = lm.run(again, IDS)
    assert_same(next(iter(run.values())), by_hand(family)[1])


def test_a_run_without_gradients_keeps_no_graph(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS):
        logits = lm.logits.save()

    assert not logits.requires_grad


def test_a_gradient_before_a_backward_pass_is_refused(lm: nl.LanguageModel) -> None:
    with pytest.raises(GraphError) as caught, lm.trace(IDS):
        lm.layers[0].output.grad.save()  # too soon

    assert_at(caught.value, "too soon")
    assert "backward" in caught.value.hint
    assert frames_of_ours(caught.value) <= 1


def test_going_back_from_many_numbers_is_refused(lm: nl.LanguageModel) -> None:
    with pytest.raises(ShapeMismatch) as caught, lm.trace(IDS):
        lm.logits.backward()  # many numbers

    assert_at(caught.value, "many numbers")


def test_a_loss_that_does_not_depend_on_the_value_is_said(lm: nl.LanguageModel) -> None:
    with pytest.raises(OpFailed) as caught, lm.trace(IDS):
        beside = lm.layers[1].output * 2
        with lm.logits[0, -1, TOKEN].backward():
            beside.grad.save()  # beside the loss

    assert_at(caught.value, "beside the loss")


def test_a_gradient_cannot_be_written_into_the_pass_it_came_from(lm: nl.LanguageModel) -> None:
    with pytest.raises(WriteTooEarly) as caught, lm.trace(IDS):
        h = lm.layers[1].output
        with lm.logits[0, -1, TOKEN].backward():
            lm.layers[0].output[:] = h.grad  # back in time

    assert_at(caught.value, "back in time")
