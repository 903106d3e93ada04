"""`with tracer.iter[1:3]:` a block that stands for several steps, as a loop over them does.

The page: `docs/reference/generation.md`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import GraphError
from tests.support.fixtures import IDS
from tests.support.lines import assert_at
from tests.support.tensors import assert_exactly


def test_a_block_is_run_for_each_step(lm: nl.LanguageModel) -> None:
    streams: list[Any] = []
    with lm.generate(IDS, max_new_tokens=5, eos_token_id=[]) as tracer:
        total: Any = torch.zeros(1, 32)
        with tracer.iter[1:4] as step:
            if step == 2:
                lm.layers[0].output[:, -1] += 5.0
                only_here = lm.logits[:, -1].save()
            streams += [lm.layers[index].output[:, -1].save() for index in (1, 2)]
            total = total + lm.layers[1].output[:, -1]
        total.save()
        with tracer.all():
            ids = lm.tokens.save()
        first = lm.layers[0].output.save()

    expected: list[Any] = []
    with lm.generate(IDS, max_new_tokens=5, eos_token_id=[]) as looped:
        summed: Any = torch.zeros(1, 32)
        for at in looped.iter[1:4]:
            if at == 2:
                lm.layers[0].output[:, -1] += 5.0
                logits = lm.logits[:, -1].save()
            expected += [lm.layers[index].output[:, -1].save() for index in (1, 2)]
            summed = summed + lm.layers[1].output[:, -1]
        summed.save()
        for _step in looped.all():
            last = lm.tokens.save()

    assert step == 3
    assert len(streams) == 6
    assert all(map(torch.equal, streams, expected))
    assert_exactly(total, summed)
    assert_exactly(only_here, logits)
    assert_exactly(ids, last)
    assert first.shape == (1, 6, 32)


def test_one_step_needs_no_source(lm: nl.LanguageModel) -> None:
    program = """
with lm.generate(IDS, max_new_tokens=3, eos_token_id=[]) as tracer:
    with tracer.iter[1]:
        stream = lm.layers[0].output.save()
"""
    names: dict[str, Any] = {"lm": lm, "IDS": IDS}
    exec(program, names)

    assert names["stream"].shape == (1, 1, 32)


def test_a_block_without_source_is_refused(lm: nl.LanguageModel) -> None:
    program = """
with lm.generate(IDS, max_new_tokens=3, eos_token_id=[]) as tracer:
    with tracer.all():
        stream = lm.layers[0].output.save()
"""
    with pytest.raises(GraphError, match="source is not at hand") as refused:
        exec(program, {"lm": lm, "IDS": IDS})
    assert "for step in tracer.iter" in refused.value.hint


def test_a_block_that_leaves_is_refused(lm: nl.LanguageModel) -> None:
    tracer = lm.generate(IDS, max_new_tokens=3, eos_token_id=[])
    with pytest.raises(GraphError, match="leaves the block") as refused, tracer:
        for _again in range(2):
            with tracer.all():  # leaves
                lm.logits.save()
                break
    assert_at(refused.value, "leaves")


def test_a_mistake_at_a_later_step_is_at_its_line(lm: nl.LanguageModel) -> None:
    tracer = lm.generate(IDS, max_new_tokens=3, eos_token_id=[])
    with pytest.raises(ZeroDivisionError), tracer, tracer.iter[:] as step:
        1 / (2 - step)
    with lm.trace(IDS):
        assert lm.logits.save().shape == (1, 6, 61)
