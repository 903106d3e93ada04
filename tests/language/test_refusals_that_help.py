"""What users of other libraries try first is refused at its line, and the hint says what to write."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import BadInput, GraphError, NotSaved, NotSupported, OpNotAllowed
from tests.support.lines import assert_at, frames_of_ours

IDS = [[5, 17, 3, 42, 8, 29]]


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("remote", "nl.connect"),
        ("input_ids", "lm.trace(ids)"),
        ("attention_mask", "lm.trace(tokens)"),
        ("scan", "lm.scan(prompt)"),
        ("max_new_tokens", "lm.generate"),
        ("peak", "Did you mean peek?"),
        ("zzz", "Options: execute, peek"),
    ],
)
def test_an_option_that_trace_does_not_have(lm: nl.LanguageModel, option: str, hint: str) -> None:
    with pytest.raises(BadInput, match=option) as caught:
        lm.trace(IDS, **{option: True})  # one option too many
    assert hint in (caught.value.hint or "")
    assert_at(caught.value, "one option too many")


def test_a_saved_value_says_why_it_has_no_tensor(lm: nl.LanguageModel) -> None:
    with pytest.raises(ZeroDivisionError), lm.trace(IDS):
        broken = lm.layers[0].output.save()
        _ = 1 / 0
    with pytest.raises(NotSaved, match="did not run to its end") as caught:
        _ = broken + 1  # of a block that raised
    assert_at(caught.value, "of a block that raised")

    with lm.trace(IDS, execute=False):
        recorded = lm.layers[0].output.save()
    with pytest.raises(NotSaved, match="did not run to its end"):
        _ = recorded + 1

    with pytest.raises(NotSaved, match="before its block ends"), lm.trace(IDS):
        _ = lm.layers[0].output.save().value


def test_a_gradient_at_a_value_that_comes_after_the_loss(lm: nl.LanguageModel) -> None:
    with pytest.raises(GraphError, match=r"layers\.0.*layers\.1") as caught, lm.trace(IDS):
        late = lm.layers[1].output
        with lm.layers[0].output.sum().backward():
            late.grad.save()  # later than the loss
    assert_at(caught.value, "later than the loss")
    assert frames_of_ours(caught.value) <= 1


def test_what_torch_has_for_gradients_and_noise(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS):
        h = lm.layers[0].output
        with pytest.raises(OpNotAllowed) as caught:
            torch.autograd.grad(h.sum(), h)  # torch's own way back
        assert caught.value.message.startswith("torch.autograd.grad ")
        assert "loss.backward()" in (caught.value.hint or "")
        assert_at(caught.value, "torch's own way back")
        with pytest.raises(OpNotAllowed) as caught:
            h.retain_grad()
        assert "loss.backward()" in (caught.value.hint or "")
        with pytest.raises(OpNotAllowed) as caught:
            h.data[:] = 0
        assert "value.detach()" in (caught.value.hint or "")
        with pytest.raises(OpNotAllowed) as caught:
            torch.randn_like(h)
        assert "torch.randn(value.shape" in (caught.value.hint or "")
        with pytest.raises(OpNotAllowed):
            h.type()
        with pytest.raises(TypeError, match=r"torch\.stack"):
            torch.tensor([h.norm(), h.mean()])

        noise = torch.randn(h.shape, generator=torch.Generator().manual_seed(1))
        noisy = (h + noise).save()  # what the hint says
        plain = h.save()

    assert torch.equal(noisy, plain + noise)


def test_a_model_is_neither_copied_nor_pickled(lm: nl.LanguageModel) -> None:
    with pytest.raises(NotSupported) as caught:
        copy.deepcopy(lm)  # copies
    assert "lm.module" in (caught.value.hint or "")
    assert_at(caught.value, "copies")
    with pytest.raises(NotSupported) as caught:
        pickle.dumps(lm)  # pickles
    assert_at(caught.value, "pickles")

    again = nl.LanguageModel(copy.deepcopy(lm.module))  # what the hint says
    with again.trace(IDS):
        logits = again.logits.save()
    with lm.trace(IDS):
        expected = lm.logits.save()
    assert torch.equal(logits, expected)
    assert copy.copy(lm).module is lm.module
