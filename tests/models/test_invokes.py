"""Several prompts in one trace: each sees its own rows, and values go from one to another."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import (
    BadInput,
    GraphError,
    NotSupported,
    ShapeMismatch,
    WriteTooEarly,
)
from tests.support.hooks import eager_patterns, forward, hooked, outputs_seen, tensor_of
from tests.support.lines import assert_at, frames_of_ours
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_differs, assert_same

LONG, SHORT = [[5, 17, 3, 42, 8, 29]], [[11, 2, 60]]
TWO = [[1, 33, 33, 4], [9, 10]]


def test_each_invoke_sees_its_own_prompt_as_if_alone(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """Unequal lengths, rotary and absolute positions: no padding is seen, no row of another."""
    with lm.trace() as tracer:
        with tracer.invoke(LONG):
            first = lm.layers[1].output.save()
            long_logits = lm.logits.save()
        with tracer.invoke(SHORT):
            second = lm.layers[1].output.save()
            pattern = lm.layers[2].attn.pattern.save()
            short_logits = lm.logits.save()

    block = family.at(family.block, 1)
    for prompt, stream, logits in ((LONG, first, long_logits), (SHORT, second, short_logits)):
        alone = tensor_of(outputs_seen(family.module, prompt, block)[block])
        assert_same(stream, alone, atol=1e-5)
        assert_same(logits, forward(family.module, prompt), atol=1e-5)
    assert pattern.shape == (1, 4, 3, 3)
    assert_same(pattern, eager_patterns(family.module, SHORT)[2], atol=1e-5)


def test_an_edit_in_one_invoke_leaves_the_others(lm: nl.LanguageModel, family: SmallModel) -> None:
    direction = torch.linspace(-3, 3, 32)
    with lm.trace() as tracer:
        with tracer.invoke(LONG):
            untouched = lm.logits.save()
        with tracer.invoke(SHORT):
            lm.layers[1].output[:, -1] += direction
            edited = lm.logits.save()

    def add(stream: torch.Tensor) -> torch.Tensor:
        changed = stream.clone()
        changed[:, -1] += direction
        return changed

    expected = hooked(family.module, SHORT, after={family.at(family.block, 1): add})["logits"]
    assert_same(edited, expected, atol=1e-5)
    assert_differs(edited, forward(family.module, SHORT))
    assert_same(untouched, forward(family.module, LONG), atol=1e-5)


@pytest.mark.parametrize("source_first", [True, False])
def test_a_value_goes_from_one_prompt_to_another_without_a_barrier(
    lm: nl.LanguageModel, family: SmallModel, source_first: bool
) -> None:
    """Activation patching in one run, whichever prompt is written first."""
    with lm.trace() as tracer:
        if source_first:
            with tracer.invoke(LONG):
                carried = lm.layers[1].output[:, -1]
            with tracer.invoke(SHORT):
                lm.layers[1].output[:, -1] = carried
                patched = lm.logits.save()
        else:
            with tracer.invoke(SHORT):
                target = lm.layers[1].output
                patched = lm.logits.save()
            with tracer.invoke(LONG):
                target[:, -1] = lm.layers[1].output[:, -1]

    block = family.at(family.block, 1)
    source = tensor_of(outputs_seen(family.module, LONG, block)[block])[:, -1]

    def patch(stream: torch.Tensor) -> torch.Tensor:
        changed = stream.clone()
        changed[:, -1] = source
        return changed

    expected = hooked(family.module, SHORT, after={block: patch})["logits"]
    assert_same(patched, expected, atol=1e-5)
    assert_differs(patched, forward(family.module, SHORT))


def test_several_invokes_edit_one_place(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace() as tracer:
        with tracer.invoke(LONG):
            lm.layers[0].output[:] = 0.0
            first = lm.logits.save()
        with tracer.invoke(SHORT):
            lm.layers[0].output[:] = 1.0
            second = lm.logits.save()

    for prompt, value, logits in ((LONG, 0.0, first), (SHORT, 1.0, second)):
        fill = {family.at(family.block, 0): lambda stream, v=value: torch.full_like(stream, v)}
        assert_same(logits, hooked(family.module, prompt, after=fill)["logits"], atol=1e-5)


def test_an_invoke_without_a_prompt_sees_every_row(lm: nl.LanguageModel) -> None:
    with lm.trace() as tracer:
        with tracer.invoke(LONG):
            own = lm.logits.save()
        with tracer.invoke(TWO):
            pair = lm.logits.save()
        with tracer.invoke():
            last = lm.logits[:, -1].save()

    assert pair.shape[:2] == (2, 4)
    assert_same(last, torch.cat([own[:, -1], pair[:, -1]]))


def gradient_alone(family: SmallModel, prompt: list[list[int]]) -> torch.Tensor:
    """By hand: the gradient of one logit at block 0's output, of one prompt on the plain model."""
    kept: list[torch.Tensor] = []
    block = family.module.get_submodule(family.at(family.block, 0))
    handle = block.register_forward_hook(lambda _, __, output: kept.append(tensor_of(output)))
    try:
        logits = family.module(torch.tensor(prompt), use_cache=False).logits
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, -1, 7], kept)
    return gradient


def test_gradients_of_one_prompt_do_not_reach_another(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.trace() as tracer:
        with tracer.invoke(LONG):
            other = lm.layers[0].output
            far = lm.logits[0, -1, 7]
        with tracer.invoke(SHORT):
            h = lm.layers[0].output
            loss = lm.logits[0, -1, 7]
        with loss.backward():
            gradient = h.grad.save()
        with (far + loss).backward():
            others = other.grad.save()
            own = h.grad.save()

    assert_same(gradient, gradient_alone(family, SHORT), atol=1e-5)
    assert_same(own, gradient, atol=1e-5)
    assert_same(others, gradient_alone(family, LONG), atol=1e-5)


@pytest.mark.parametrize("at", ["all rows", "an invoke"])
def test_gradients_of_all_rows_and_of_an_invoke_are_those_of_one_value(
    lm: nl.LanguageModel, family: SmallModel, at: str
) -> None:
    """The rows are used as all rows and as an invoke's, beside what the model makes of them."""
    path, ids = family.at(family.block, 0), [[3, 10, 40, 7, 21], [3, 11, 41, 7, 22]]
    with lm.trace() as tracer:
        with tracer.invoke(ids[0]):
            own = lm.layers[0].output
        with tracer.invoke(ids[1]):
            lm.logits  # noqa: B018 - the second prompt
        with tracer.invoke():
            whole = lm.layers[0].output
            loss = lm.logits[0, -1, 5] + (own * own).sum() + (3 * whole).sum()
            with loss.backward():
                gradient = (whole if at == "all rows" else own).grad.save()

    leaf: list[torch.Tensor] = []

    def follow(_: Any, __: Any, output: Any) -> Any:
        leaf.append(tensor_of(output).detach().requires_grad_())
        return (leaf[0], *output[1:]) if isinstance(output, tuple) else leaf[0]

    handle = family.module.get_submodule(path).register_forward_hook(follow)
    logits = family.module(torch.tensor(ids), use_cache=False).logits
    handle.remove()
    loss = logits[0, -1, 5] + (leaf[0][:1] * leaf[0][:1]).sum() + (3 * leaf[0]).sum()
    (expected,) = torch.autograd.grad(loss, leaf[0])
    assert_same(gradient, expected if at == "all rows" else expected[:1], atol=1e-5)


def test_gradients_are_taken_for_all_rows_or_for_invokes(tiny: nl.LanguageModel) -> None:
    with pytest.raises(NotSupported, match="for all rows and for one") as caught, tiny.trace() as t:
        with t.invoke(LONG):
            own = tiny.layers[0].output
        with t.invoke(), tiny.logits[0, -1, 5].backward():
            tiny.layers[0].output.grad.save()
            own.grad.save()  # the second
    assert_at(caught.value, "the second")


def test_a_graph_with_invokes_runs_again_on_other_prompts(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.trace() as tracer:
        with tracer.invoke(LONG):
            carried = lm.layers[1].output[:, -1]
        with tracer.invoke(SHORT):
            lm.layers[1].output[:, -1] = carried
            logits = lm.logits.save()
    again = nl.Graph.from_bytes(tracer.graph.to_bytes())

    assert again == tracer.graph
    assert "of invoke 1" in str(again)
    run = lm.run(again, [*SHORT, *LONG])
    assert run["logits"].shape[1] == 6
    assert_differs(run["logits"][:, -1], forward(family.module, LONG)[:, -1])
    assert_same(lm.run(again, [*LONG, *SHORT])["logits"], logits)
    with pytest.raises(BadInput, match="invokes of 1, 1 rows"):
        lm.run(again, LONG)


def test_other_lengths_are_checked_again(lm: nl.LanguageModel) -> None:
    """The batch is as large as before, and the second prompt longer than what is put there."""
    with lm.trace() as tracer:
        with tracer.invoke([3, 10, 40, 7]):
            lm.logits.save()
        with tracer.invoke([5]):
            lm.layers[1].output = torch.ones(1, 1, 32)
    lm.run(tracer.graph, [[3, 10, 40, 7], [6]])
    with pytest.raises(ShapeMismatch, match=r"holds float32\[1, 3, 32\]"):
        lm.run(tracer.graph, [[3, 10, 40, 7], [5, 6, 7]])


def test_a_place_before_any_invoke_is_refused(lm: nl.LanguageModel) -> None:
    with pytest.raises(GraphError) as caught, lm.trace():
        lm.logits.save()  # no prompt yet

    assert_at(caught.value, "no prompt yet")
    assert "tracer.invoke" in caught.value.hint


def test_an_impossible_order_between_prompts_is_refused(lm: nl.LanguageModel) -> None:
    with pytest.raises(WriteTooEarly) as caught, lm.trace() as tracer:
        with tracer.invoke(LONG):
            late = lm.layers[2].output[:, -1]
        with tracer.invoke(SHORT):
            lm.layers[0].output[:, -1] = late  # from a later layer

    assert_at(caught.value, "from a later layer")


def test_all_rows_and_some_rows_of_an_edited_place_do_not_mix(lm: nl.LanguageModel) -> None:
    """Refused, and never a value from before the edit."""
    with pytest.raises(NotSupported) as caught, lm.trace() as tracer:
        with tracer.invoke(LONG):
            lm.layers[0].output[:] = 0.0
        with tracer.invoke():
            lm.layers[0].output.save()  # all rows of it

    assert_at(caught.value, "all rows of it")


def test_a_wrong_use_of_invoke_is_said_at_its_line(lm: nl.LanguageModel) -> None:
    with pytest.raises(GraphError) as caught, lm.trace(LONG) as tracer:
        tracer.invoke(SHORT)  # has its prompt
    assert_at(caught.value, "has its prompt")
    with pytest.raises(BadInput) as empty, lm.trace() as tracer:
        tracer.invoke("")  # nothing in it
    assert_at(empty.value, "nothing in it")
    assert frames_of_ours(empty.value) <= 1
    with pytest.raises(GraphError) as late, lm.trace() as tracer:
        with tracer.invoke(LONG):
            pass
        with tracer.invoke():
            pass
        tracer.invoke(SHORT)  # too late
    assert_at(late.value, "too late")
