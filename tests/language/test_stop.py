"""`tracer.stop()`: nothing further of the model is needed."""

from __future__ import annotations

import pytest

import nnsight_lab as nl
from nnsight_lab.errors import GraphError
from tests.support.hooks import outputs_seen, tensor_of
from tests.support.lines import assert_at, frames_of_ours
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_same

IDS = [[5, 17, 3, 42, 8, 29]]


def test_what_was_read_before_still_works(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS) as tracer:
        h = lm.layers[0].output
        tracer.stop()
        norm = (h * 2).norm().save()
        again = lm.layers[0].output.save()

    path = family.at(family.block, 0)
    expected = tensor_of(outputs_seen(family.module, IDS, path)[path])
    assert_same(again, expected)
    assert_same(norm, (expected * 2).norm(), atol=1e-4)


def test_the_model_does_not_go_on(lm: nl.LanguageModel, family: SmallModel) -> None:
    calls: list[int] = []
    later = family.module.get_submodule(family.at(family.block, 2))
    handle = later.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        with lm.trace(IDS) as tracer:
            h = lm.layers[0].output.save()
            tracer.stop()
    finally:
        handle.remove()

    assert h.shape == (1, 6, 32)
    assert calls == []


@pytest.mark.parametrize("use", ["read", "edit", "replace"])
def test_a_place_after_it_is_refused_and_both_lines_are_named(
    lm: nl.LanguageModel, use: str
) -> None:
    with pytest.raises(GraphError, match=r"tracer\.stop\(\)") as caught, lm.trace(IDS) as tracer:
        h = lm.layers[0].output
        tracer.stop()  # the stop
        if use == "read":
            lm.layers[1].output.save()  # a read
        elif use == "edit":
            h[:] = 0  # an edit
        else:
            lm.layers[0].output = h * 2  # a replacement

    marker = {"read": "a read", "edit": "an edit", "replace": "a replacement"}[use]
    assert_at(caught.value, marker)
    assert frames_of_ours(caught.value) <= 1
    with pytest.raises(GraphError) as stop, lm.trace(IDS) as tracer:
        tracer.stop()
        lm.logits.save()
    assert stop.value.where is not None
    assert f"line {stop.value.where.line - 1})" in str(stop.value)


def test_a_cache_asked_for_before_it_is_still_filled(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS) as tracer:
        cache = tracer.cache("layers.1")
        tracer.stop()

    assert cache["layers.1"].output.shape == (1, 6, 32)
    with pytest.raises(GraphError), lm.trace(IDS) as tracer:
        tracer.stop()
        tracer.cache("layers.1")
