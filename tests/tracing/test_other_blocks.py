"""Values of other blocks, modules in place of values, and mistakes made outside a block."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import nnsight_lab as nl
from nnsight_lab import errors
from tests.support.fixtures import IDS
from tests.support.lines import assert_at, frames_of_ours
from tests.support.tensors import assert_same

OTHER = [[9, 8, 7, 6, 5, 4]]


def test_an_unsaved_value_of_another_block_cannot_be_written(lm: nl.LanguageModel) -> None:
    """Never silently another value that happens to have its number."""
    with lm.trace(OTHER):
        forgotten = lm.layers[0].output
        lm.logits.save()
    with pytest.raises(errors.NotSaved) as caught, lm.trace(IDS):
        lm.layers[2].output.save()
        lm.layers[1].output = forgotten  # not saved there

    assert_at(caught.value, "not saved there")


def test_a_saved_value_kept_on_an_object_is_its_tensor_in_the_next_block(
    lm: nl.LanguageModel,
) -> None:
    kept = SimpleNamespace()
    with lm.trace(OTHER):
        kept.h = lm.layers[1].output.save()
    with lm.trace(OTHER):
        expected = lm.layers[1].output.save()
    with lm.trace(IDS):
        lm.layers[0].output.save()
        lm.layers[2].output = kept.h
        written = lm.layers[2].output.save()
        added = (lm.layers[0].output * 0 + kept.h).save()

    assert_same(written, expected)
    assert_same(added, expected)


@pytest.mark.parametrize("change", ["numpy", "data"])
def test_a_tensor_that_changed_between_two_uses_is_two_constants(
    lm: nl.LanguageModel, change: str
) -> None:
    """Also where torch does not notice: memory shared with numpy, `.data`."""
    shared = np.zeros(32, dtype="float32")
    mine = torch.from_numpy(shared)
    with lm.trace(IDS):
        before = (lm.layers[0].output * 0 + mine).save()
        if change == "numpy":
            shared[:] = 5
        else:
            mine.data.fill_(5)
        after = (lm.layers[0].output * 0 + mine).save()

    assert before.abs().max() == 0
    assert after.min() == 5


MODULES: dict[str, Callable[[Any], Any]] = {
    "plus": lambda lm: lm.layers[0] + 1,
    "times": lambda lm: lm.layers[0].mlp * 2,
    "a function": lambda lm: torch.relu(lm.layers[0]),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_in_place_of_its_value_is_said(lm: nl.LanguageModel, name: str) -> None:
    said = "is a module, not a value"
    with pytest.raises(errors.GraphError, match=said) as caught, lm.trace(IDS):
        MODULES[name](lm)

    assert ".output" in caught.value.hint
    assert frames_of_ours(caught.value) <= 1


def test_a_parameter_cannot_be_assigned(lm: nl.LanguageModel) -> None:
    with pytest.raises(errors.OpNotAllowed, match="parameter"), lm.trace(IDS):
        lm.lm_head.weight = 0


def test_layers_can_be_sliced(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS):
        last_two = [layer.output.save() for layer in lm.layers[-2:]]
        expected = lm.layers[1].output.save()

    assert len(last_two) == 2
    assert_same(last_two[0], expected)


AFTERWARDS: dict[str, Callable[[Any], Any]] = {
    "plus": lambda h: h + 1,
    "a function": torch.relu,
    "a method": lambda h: h.mean(),
    "an index": lambda h: h[0],
    "an assignment": lambda h: h.__setitem__(0, 1),
    "a loop": list,
    "a number": float,
    "item": lambda h: h.item(),
    "save": lambda h: h.save(),
    "value": lambda h: h.value,
    "equal": lambda h: torch.equal(h, h),
}


@pytest.mark.parametrize("name", AFTERWARDS)
def test_an_unsaved_value_after_its_block_says_so_in_one_frame(
    lm: nl.LanguageModel, name: str
) -> None:
    with lm.trace(IDS):
        h = lm.layers[0].output
        lm.logits.save()
    with pytest.raises(errors.NotSaved) as caught:
        AFTERWARDS[name](h)

    assert caught.value.where is not None
    assert caught.value.where.file == __file__
    assert frames_of_ours(caught.value) <= 1


def test_a_saved_value_on_an_object_is_its_tensor_to_torch_as_well(lm: nl.LanguageModel) -> None:
    kept = SimpleNamespace()
    with lm.trace(IDS):
        kept.h = lm.layers[0].output.save()

    assert torch.equal(kept.h, kept.h.value)
    assert isinstance(torch.relu(kept.h), torch.Tensor)
    assert kept.h.mean().item() == pytest.approx(kept.h.value.mean().item())


OUTSIDE: dict[str, Callable[[Any], Any]] = {
    "a place": lambda lm: lm.layers[0].output,
    "a call": lambda lm: lm.lm_head(torch.zeros(1, 32)),
    "an unknown name": lambda lm: lm.layerz,
    "a verb that is not there": lambda lm: lm.patch,
    "an assignment": lambda lm: setattr(lm.layers[0], "output", 1),
    "not a graph": lambda lm: lm.run("graph", IDS),
    "bytes": lambda lm: nl.Graph.from_bytes(b"x"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_mistake_outside_a_block_is_put_at_its_line_in_one_frame(
    lm: nl.LanguageModel, name: str
) -> None:
    with pytest.raises(errors.LabError) as caught:
        OUTSIDE[name](lm)

    assert caught.value.where is not None
    assert caught.value.where.file == __file__
    assert caught.value.hint
    assert frames_of_ours(caught.value) <= 1
