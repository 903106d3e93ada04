"""Numpy beside recorded values: arrays and numpy's numbers are constants, its functions record.

The page: `docs/reference/recorded-values.md`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import OpNotAllowed, ValueNotKnown
from tests.server.lab_server import Serving
from tests.support.hooks import hooked
from tests.support.lines import assert_at
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_differs, assert_same
from tests.support.three_ways import assert_three_ways

IDS = [[5, 17, 3, 42, 8, 29]]
ONES = np.ones(32, dtype=np.float32)
FUNCTIONS: list[Any] = [
    np.tanh,
    np.exp2,
    np.abs,
    lambda h: np.maximum(h, h * 0),
    lambda h: np.float32(2) * h,
    lambda h: h * np.float64(2),
    lambda h: ONES - h,
    lambda h: h / ONES,
    lambda h: np.add(1, h),
    lambda h: np.power(h, 2),
    lambda h: np.greater(ONES, h),
    lambda h: np.equal(h, h),
    lambda h: h[np.int64(0), np.array([1, 2])],
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_numpy_functions_are_recorded(lm: nl.LanguageModel, function: Any) -> None:
    with lm.trace(IDS) as tracer:
        h = lm.layers[0].output
        found = function(h)
        assert "recorded" in repr(found)
        result, stream = found.save(), h.save()

    assert tracer.run.peeks.count == 0
    assert_same(result, torch.as_tensor(np.asarray(function(stream.numpy()))).to(result.dtype))


def test_arrays_are_written_into_the_model(lm: nl.LanguageModel, family: SmallModel) -> None:
    whole = np.random.default_rng(0).normal(size=(1, 6, 32)).astype(np.float32)
    with lm.trace(IDS):
        plain = lm.logits.save()
    with lm.trace(IDS):
        lm.layers[0].output = whole
        lm.layers[0].output[:, np.array([0, 1])] = ONES
        stream, logits = lm.layers[0].output.save(), lm.logits.save()

    expected = torch.tensor(whole)
    expected[:, :2] = 1
    assert torch.equal(stream, expected)
    assert_differs(logits, plain)
    block = family.at(family.block, 0)
    assert_same(logits, hooked(family.module, IDS, after={block: lambda _: expected})["logits"])


def test_what_numpy_computes_from_the_array_is_a_peek(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS) as tracer:
        h = lm.layers[0].output
        size = np.linalg.norm(h)
        stream = h.save()
    assert tracer.run.peeks.count == 1
    assert np.isclose(size, stream.norm().item())

    with pytest.raises(ValueNotKnown) as caught, lm.trace(IDS, peek=False):
        np.linalg.norm(lm.layers[0].output)  # inside numpy
    assert_at(caught.value, "inside numpy")


def test_what_cannot_be_recorded_is_refused(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS):
        h = lm.layers[0].output
        with pytest.raises(OpNotAllowed, match=r"numpy\.spacing") as caught:
            np.spacing(h)  # torch has none
        assert_at(caught.value, "torch has none")
        with pytest.raises(OpNotAllowed, match=r"numpy\.add\.reduce"):
            np.add.reduce(h)
        with pytest.raises(OpNotAllowed, match="with out"):
            np.tanh(h, out=np.zeros((1, 6, 32)))


def test_a_value_that_came_back_is_an_array_to_numpy(lm: nl.LanguageModel) -> None:
    held = type("Held", (), {})()
    with lm.trace(IDS):
        held.h = lm.layers[0].output.save()
        stream = held.h.save()

    assert_same(np.tanh(held.h), stream.tanh())
    assert_same(ONES * held.h, stream)
    assert np.array_equal(np.spacing(held.h), np.spacing(stream.numpy()))


def test_it_is_the_same_three_ways(tiny: nl.LanguageModel, lab: Serving) -> None:
    with tiny.trace("The capital of France is") as tracer:
        h = tiny.layers[1].output
        tiny.layers[1].output = np.tanh(h) * np.float32(3)
        logits = tiny.logits.save()
    assert logits.isfinite().all()
    assert_three_ways(tiny, tracer, lab)
