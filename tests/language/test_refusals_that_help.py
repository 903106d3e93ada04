"""What users of other libraries try first is refused at its line, and the hint says what to write.

The page: `docs/reference/language.md`.
"""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import (
    AddressNotFound,
    BadInput,
    GraphError,
    NotSaved,
    NotSupported,
    OpFailed,
    OpNotAllowed,
    ShapeMismatch,
)
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


def test_a_module_says_its_weights(lm: nl.LanguageModel) -> None:
    assert "weight" in dir(lm.lm_head)
    with pytest.raises(AddressNotFound) as caught, lm.trace(IDS):
        _ = lm.lm_head.wieght
    assert "'weight'" in (caught.value.hint or "")


def test_the_gradient_of_a_frozen_weight(lm: nl.LanguageModel) -> None:
    frozen = copy.deepcopy(lm.module).requires_grad_(False)
    model = nl.LanguageModel(frozen)
    with pytest.raises(OpFailed, match="frozen") as caught, model.trace(IDS):
        model.logits[0, -1, 7].backward()
        model.lm_head.weight.grad.save()  # of a frozen weight
    assert_at(caught.value, "of a frozen weight")

    with model.trace(IDS):
        h = model.layers[0].output
        model.logits[0, -1, 7].backward()
        gradient = h.grad.save()
    assert gradient.any()
    frozen.lm_head.weight.requires_grad_(True)  # what the hint says
    with model.trace(IDS):
        model.logits[0, -1, 7].backward()
        weights = model.lm_head.weight.grad.save()
    assert weights.any()
    assert frozen.lm_head.weight.grad is None


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(1, 6, 32, dtype=torch.float64)])
def test_a_local_function_that_gives_what_does_not_fit(
    lm: nl.LanguageModel, wrong: torch.Tensor
) -> None:
    with pytest.raises(ShapeMismatch, match="cannot replace it") as caught, lm.trace(IDS):
        made = nl.local_fn(lambda _: wrong)(lm.layers[0].output)
        lm.layers[0].output = made  # of another shape or dtype
        lm.logits.save()
    assert_at(caught.value, "of another shape or dtype")


def test_a_value_kept_on_an_object_is_its_tensor_in_place_too(lm: nl.LanguageModel) -> None:
    probe = SimpleNamespace()
    with lm.trace(IDS):
        probe.h = lm.layers[0].output.save()
        stream = lm.layers[0].output.save()
    plain = stream.clone()
    same = probe.h
    probe.h += 1
    probe.h *= 2

    assert torch.equal(same + 0, (plain + 1) * 2)  # as two names of one tensor do
    assert torch.equal(probe.h, (plain + 1) * 2)


def test_a_block_called_without_what_it_needs(lm: nl.LanguageModel) -> None:
    with pytest.raises(OpFailed, match="calling") as caught, lm.trace(IDS):
        lm.layers[1](lm.layers[0].output[0, 0]).save()  # too little
    assert "module(h, **kwargs)" in (caught.value.hint or "")
    assert_at(caught.value, "too little")

    with lm.trace(IDS):
        args, kwargs = lm.layers[1].inputs
        again = lm.layers[1](*args, **kwargs).save()  # what the hint says
        stream = lm.layers[1].output.save()
    assert torch.equal(again[0] if isinstance(again, tuple) else again, stream)


def test_a_trace_without_any_prompt(lm: nl.LanguageModel) -> None:
    with pytest.raises(BadInput, match="No prompt was given") as caught:
        with lm.trace():  # of nothing
            pass
    assert "tracer.invoke(prompt)" in (caught.value.hint or "")
    assert_at(caught.value, "of nothing")


def test_ids_for_a_tokenizer(tiny: nl.LanguageModel) -> None:
    with tiny.trace("The capital of France is"):
        ids = tiny.logits[0, -1].topk(3).indices
        with pytest.raises(TypeError, match=r"tokenizer\.decode\(int\(id\)\)"):
            tiny.tokenizer.decode(ids[0])
        one = [tiny.tokenizer.decode(int(id)) for id in ids]  # what the hint says
        text = tiny.tokenizer.decode(ids)
        ids.save()

    assert one == [tiny.tokenizer.decode(id) for id in ids.tolist()]
    assert text == tiny.tokenizer.decode(ids)
