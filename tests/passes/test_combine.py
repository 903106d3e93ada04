"""`then`: a view of a run sees what the run edited, in its rows and its steps, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import NotSupported
from nnsight_lab.ir import Gradient, GradientWrite
from nnsight_lab.passes import then
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_differs, assert_exactly, assert_same

IDS, OTHER, SHORT = [3, 10, 40, 7, 21], [3, 11, 41, 7, 22], [3, 10, 40]


def test_gradients_of_a_view_come_back_through_the_edits_of_the_run(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """The edit takes from a place that the view goes back to, so some of its gradient does too."""

    def edited() -> Any:
        h = lm.layers[0].output
        lm.layers[2].output[:] += 2 * h
        return h

    with lm.trace(IDS):
        h = edited()
        with lm.logits[0, -1, 5].backward():
            expected = h.grad.save()
    with lm.trace(IDS) as tracer:
        edited()
        lm.logits.save()
    with lm.trace(IDS, execute=False) as looking:
        plain = lm.layers[0].output
        with lm.logits[0, -1, 5].backward():
            gradient = plain.grad.save()
    alone = lm.run(looking.graph, IDS)["gradient"]
    assert gradient is not None
    assert_same(tracer.run.then(looking.graph)["gradient"], expected)
    assert_differs(alone, expected)


def test_backward_passes_of_a_run_are_none_of_the_views(tiny: nl.LanguageModel) -> None:
    with tiny.trace(IDS) as tracer:
        h = tiny.layers[1].output
        with tiny.logits[0, -1, 5].backward():
            h.grad[:] = 0
            early = tiny.layers[0].output.grad.save()
    with tiny.trace(IDS) as looking:
        h = tiny.layers[1].output
        with tiny.logits[0, -1, 7].backward():
            gradient = h.grad.save()
    both = then(tracer.graph, looking.graph)
    assert float(early.abs().max()) == 0
    assert not [node for node in both if isinstance(node, GradientWrite)]
    assert [node.sweep for node in both if isinstance(node, Gradient)] == [1]
    assert_exactly(tracer.run.then(looking.graph)["gradient"], gradient)


def test_a_view_of_invokes_sees_the_edits_of_its_own_rows(lm: nl.LanguageModel) -> None:
    with lm.trace() as tracer:
        with tracer.invoke(IDS):
            lm.layers[1].output[:] = 0
        with tracer.invoke(SHORT):
            logits = lm.logits.save()
    with lm.trace(execute=False) as looking:
        with looking.invoke(IDS):
            first = lm.layers[1].output.save()
        with looking.invoke(SHORT):
            second = lm.layers[1].output.save()
            again = lm.logits.save()
    assert first is not second is not again
    run = tracer.run.then(looking.graph)
    assert_exactly(run["first"], torch.zeros(1, 5, *run["first"].shape[2:]))
    assert_exactly(run["second"], lm.run(looking.graph, [IDS, SHORT])["second"])
    assert float(run["second"].abs().max()) > 0
    assert_exactly(run["again"], logits)


def test_a_view_may_tell_rows_apart_where_the_run_did_not(lm: nl.LanguageModel) -> None:
    with lm.trace([IDS, OTHER]) as tracer:
        lm.layers[0].output[:] *= 2
        logits = lm.logits.save()
    with lm.trace(execute=False) as looking:
        with looking.invoke(IDS):
            lm.layers[2].output.save()
        with looking.invoke(OTHER):
            second = lm.logits.save()
    assert second is not None
    assert_exactly(tracer.run.then(looking.graph)["second"], logits[1:])


def test_a_view_of_one_invoke_cannot_show_an_edit_of_all_rows(tiny: nl.LanguageModel) -> None:
    with tiny.trace([IDS, OTHER]) as tracer:
        tiny.layers[1].output[:] = 0
        tiny.logits.save()
    with tiny.trace(execute=False) as looking:
        with looking.invoke(IDS):
            tiny.layers[1].output.save()
        with looking.invoke(OTHER):
            tiny.layers[0].output.save()
    with pytest.raises(NotSupported, match="edited for all rows"):
        tracer.run.then(looking.graph)


def test_a_view_cannot_mean_other_invokes_than_the_run(tiny: nl.LanguageModel) -> None:
    with tiny.trace() as tracer:
        for prompt in (IDS, OTHER):
            with tracer.invoke(prompt):
                tiny.logits.save()
    with tiny.trace(execute=False) as looking, looking.invoke([IDS, OTHER]):
        tiny.logits.save()
    with pytest.raises(NotSupported, match="invokes of 1, 1 rows"):
        tracer.run.then(looking.graph)
