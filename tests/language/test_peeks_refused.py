"""What may not follow a peek, where nothing may be peeked, and what torch itself refuses."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import (
    BadInput,
    NotSaved,
    OpFailed,
    PeekContradicted,
    ShapeMismatch,
    ValueNotKnown,
)
from tests.support.calls import blocks_of, calls_of
from tests.support.fixtures import IDS
from tests.support.hooks import forward, hooked
from tests.support.lines import assert_at, frames_of_ours
from tests.support.small_models import LAYERS, SmallModel
from tests.support.tensors import assert_differs, assert_same

OTHER = [[9, 2, 44]]


# Contradictions


def _contradicted(lm: Any, block: Callable[[Any], Any]) -> PeekContradicted:
    with pytest.raises(PeekContradicted) as caught, lm.trace(IDS):
        block(lm)
    assert caught.value.hint
    assert frames_of_ours(caught.value) <= 1
    return caught.value


def test_an_edit_that_would_change_what_was_seen_names_both_lines(lm: nl.LanguageModel) -> None:
    with pytest.raises(PeekContradicted) as caught, lm.trace(IDS):
        if lm.layers[2].output.norm() > 0:  # the peek
            lm.layers[1].output[:] = 0  # the edit
    error = caught.value
    assert_at(error, "the edit")
    assert error.where is not None
    assert f"line {error.where.line - 1}" in error.message
    assert "if lm.layers[2].output.norm() > 0" in error.message
    assert "around the trace" in error.hint
    assert frames_of_ours(error) <= 1


def test_a_loop_that_edits_and_looks_at_what_comes_after_goes_around_the_trace(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with pytest.raises(PeekContradicted) as caught, lm.trace(IDS):
        while lm.logits[0, -1].max() > 0.5:
            lm.layers[1].output[:, -1] *= 0.5  # again and again
    assert_at(caught.value, "again and again")

    scale, top = 1.0, math.inf
    while top > 1.0 and scale > 1e-3:
        scale /= 2
        with lm.trace(IDS):
            lm.layers[1].output[:, -1] *= scale
            top = float(lm.logits[0, -1, 5])
    path = family.at(family.block, 1)

    def scaled(h: torch.Tensor) -> torch.Tensor:
        return torch.cat([h[:, :-1], h[:, -1:] * scale], 1)

    by_hand = hooked(family.module, IDS, after={path: scaled})
    assert top == pytest.approx(float(by_hand["logits"][0, -1, 5]), abs=1e-5)


@pytest.mark.parametrize(
    "block",
    [
        lambda lm: (bool(lm.logits.max() > 0), lm.layers[0].input.mul_(2)),
        lambda lm: (int(lm.logits.argmax()), lm.layers[2].output.copy_(lm.layers[2].input)),
        lambda lm: (print(lm.layers[1].output), lm.layers[1].attn.output.mul_(0)),
        lambda lm: (lm.layers[1].attn.z.tolist(), lm.layers[1].attn.v.add_(1.0)),
        lambda lm: ((lm.logits > 0).nonzero().shape, lm.layers[0].output.mul_(2)),
    ],
)
def test_no_edit_before_what_was_seen(
    lm: nl.LanguageModel, block: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    error = _contradicted(lm, block)
    assert error.where is not None
    assert error.where.file == __file__


@pytest.mark.parametrize(
    "block",
    [
        lambda lm: (bool(lm.layers[1].output.max() > 0), lm.layers[1].output.mul_(2)),
        lambda lm: (bool(lm.layers[1].output.max() > 0), lm.layers[2].attn.output.mul_(2)),
        lambda lm: (bool(lm.layers[1].input.max() > 0), lm.layers[1].attn.output.mul_(2)),
        lambda lm: (bool(lm.norm.weight.max() > 0), lm.embed.output.mul_(2)),
        lambda lm: (bool(lm.logits.max() > 0), lm.logits.mul_(2)),
    ],
)
def test_an_edit_of_what_was_seen_or_of_what_comes_after_is_fine(
    lm: nl.LanguageModel, family: SmallModel, block: Callable[[Any], Any]
) -> None:
    with lm.trace(IDS):
        block(lm)
        logits = lm.logits.save()
    assert_differs(logits, forward(family.module, IDS))


def test_after_a_look_at_a_gradient_the_model_stays_as_it_is(lm: nl.LanguageModel) -> None:
    for layer in range(LAYERS):
        with pytest.raises(PeekContradicted), lm.trace(IDS):
            h = lm.layers[1].output
            with lm.logits[0, -1, 7].backward():
                assert h.grad.norm() > 0
            lm.layers[layer].output[:] = 0


# Several prompts


def test_each_invoke_decides_for_its_own_rows(lm: nl.LanguageModel, family: SmallModel) -> None:
    """An edit of one invoke does not contradict what was seen in another."""
    kept, chosen = [], []
    with lm.trace() as tracer:
        for ids in (IDS, OTHER, IDS):
            with tracer.invoke(ids):
                best = int(lm.logits[0, -1].argmax())
                chosen.append(best)
                lm.logits[..., best] -= 1.0
                kept.append(lm.logits[0, -1].save())

    for ids, best, logits in zip((IDS, OTHER, IDS), chosen, kept, strict=True):
        plain = forward(family.module, ids)[0, -1]
        assert best == int(plain.argmax())
        plain[best] -= 1.0
        assert_same(logits, plain, atol=1e-5)


def test_layers_of_a_later_invoke_may_be_edited(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace() as tracer:
        with tracer.invoke(IDS):
            best = int(lm.logits[0, -1].argmax())
        with tracer.invoke(OTHER):
            lm.layers[0].output[:] = 0.0
            logits = lm.logits.save()
            assert int(logits[0, -1].argmax()) in range(61)

    path = family.at(family.block, 0)
    zeroed = hooked(family.module, OTHER, after={path: torch.zeros_like})["logits"]
    assert best == int(forward(family.module, IDS)[0, -1].argmax())
    assert_same(logits, zeroed, atol=1e-5)


def test_an_edge_between_invokes_carries_a_contradiction(lm: nl.LanguageModel) -> None:
    with pytest.raises(PeekContradicted) as caught, lm.trace() as tracer:
        with tracer.invoke(IDS):
            h = lm.layers[1].output[:, -1]
        with tracer.invoke(OTHER):
            lm.layers[1].output[:, -1] = h
            assert lm.logits.max() > -100
        with tracer.invoke():
            lm.layers[0].output[:] = 0  # of all rows
    assert_at(caught.value, "of all rows")


def test_an_edit_of_the_invoke_a_value_came_from_contradicts(lm: nl.LanguageModel) -> None:
    with pytest.raises(PeekContradicted) as caught, lm.trace() as tracer:
        with tracer.invoke(IDS):
            low, high = lm.layers[0].output, lm.layers[1].output[:, -1]
        with tracer.invoke(OTHER):
            lm.layers[1].output[:, -1] = high
            assert lm.logits.max() > -100
            low[:] = 0  # where it came from
    assert_at(caught.value, "where it came from")


# Where nothing may run


def test_peeks_can_be_forbidden(lm: nl.LanguageModel) -> None:
    for how in ({"peek": False}, {"execute": False}):
        with calls_of(lm.module) as calls:
            with pytest.raises(ValueNotKnown) as caught, lm.trace(IDS, **how):
                _ = 1 if lm.logits.max() > 0 else 2  # the question
            with pytest.raises(ValueNotKnown), lm.trace(IDS, **how):
                (lm.logits > 0).nonzero().shape  # noqa: B018
            assert calls == [0]
        assert_at(caught.value, "the question")
        assert "torch.where" in caught.value.hint


def test_looking_at_a_value_as_a_debugger_does_runs_nothing(lm: nl.LanguageModel) -> None:
    with calls_of(lm.module) as calls, lm.trace(IDS):
        h = lm.layers[0].output
        shown = repr(h), repr([h]), f"{h!r}", "%r" % h  # noqa: UP031
        for name in (
            "_repr_html_",
            "_repr_mimebundle_",
            "_ipython_display_",
            "__array_interface__",
        ):
            assert not hasattr(h, name)
        assert calls == [0]
    assert all("<recorded float32[1, 6, 32] at layers.0.output>" in text for text in shown)


def test_once_the_block_has_ended_nothing_runs(lm: nl.LanguageModel) -> None:
    """Also when it ended with an error whose text holds a value."""
    with pytest.raises(ValueError) as caught, lm.trace(IDS):
        h = lm.layers[0].output
        raise ValueError(h)
    with calls_of(lm.module) as calls:
        assert str(caught.value) == repr(h)
        with pytest.raises(NotSaved):
            bool(h.norm() > 0)
        assert calls == [0]


def test_pickling_stays_refused(lm: nl.LanguageModel) -> None:
    with pytest.raises(ValueNotKnown), lm.trace(IDS):
        pickle.dumps(lm.logits)


# Mistakes


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda h: h.item(), "scalar"),
        (bool, "ambiguous"),
        (float, "one element|scalar"),
        (lambda h: [1, 2][h.max()], "index"),
        (lambda h: f"{h:.2f}", "format"),
        (lambda h: h.bfloat16().numpy(), "BFloat16"),
        (lambda h: [h + 1, h].index(h), "ambiguous"),
    ],
)
def test_what_torch_refuses_is_refused_before_a_run(
    lm: nl.LanguageModel, ask: Callable[[Any], Any], says: str
) -> None:
    with (
        calls_of(lm.module) as calls,
        pytest.raises(ShapeMismatch, match=says) as caught,
        lm.trace(IDS),
    ):
        ask(lm.layers[0].output)
    assert calls == [0]
    assert caught.value.where is not None
    assert caught.value.where.file == __file__
    assert caught.value.hint
    assert frames_of_ours(caught.value) <= 1


def test_an_item_of_many_that_only_the_run_can_count(lm: nl.LanguageModel) -> None:
    with pytest.raises(ShapeMismatch) as caught, lm.trace(IDS):
        lm.logits[lm.logits > -100].item()  # too many
    assert_at(caught.value, "too many")


def test_an_error_of_the_run_is_raised_at_the_peek(lm: nl.LanguageModel) -> None:
    """It names the line of the operation that failed; the traceback ends at the peek."""
    with pytest.raises(OpFailed) as caught, lm.trace(IDS):
        broken = torch.linalg.cholesky(-torch.eye(32) + 0 * lm.layers[0].output[0, :1, :1])  # fails
        if broken.sum() > 0:  # asked here
            pass
    assert_at(caught.value, "fails")
    last = caught.traceback[-2] if frames_of_ours(caught.value) else caught.traceback[-1]
    assert "if broken.sum() > 0" in str(last.statement)
    assert frames_of_ours(caught.value) <= 1


def test_before_the_first_prompt_there_is_nothing_to_run_on(lm: nl.LanguageModel) -> None:
    with pytest.raises(BadInput) as caught, lm.trace():
        bool(lm.norm.weight.max() > 0)  # no prompt yet
    assert_at(caught.value, "no prompt yet")


def test_an_interrupt_during_a_peek_ends_the_block_and_leaves_the_model_clean(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = blocks_of(family)[1].register_forward_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), lm.trace(IDS):
            bool(lm.layers[2].output.norm() > 0)
    finally:
        handle.remove()
    with lm.trace(IDS):
        logits = lm.logits.save()
    assert_same(logits, forward(family.module, IDS))
