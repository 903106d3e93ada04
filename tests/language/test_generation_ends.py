"""A text that ends early: what there is of it, what is missing, and what is said of that.

The page: `docs/reference/generation.md`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import NotSaved
from tests.support.fixtures import IDS
from tests.support.generation_hooks import generated
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_exactly, assert_same

SHORT = [[11, 2, 60]]
DIRECTION = 20 * torch.arange(32.0).sin()


def _second(family: SmallModel) -> int:
    """The id of the second token after the long prompt; the short one never comes by it."""
    ids = generated(family.module, [*IDS, *SHORT], max_new_tokens=8, eos_token_id=None).ids
    new = ids[:, 6:].tolist()
    assert new[0][1] != new[0][0]
    assert new[0][1] not in new[1]
    return int(new[0][1])


def test_a_text_that_ends_early_loses_nothing(lm: nl.LanguageModel, family: SmallModel) -> None:
    end = _second(family)
    streams: list[Any] = []
    by_step: dict[int, Any] = {}
    with lm.generate(IDS, max_new_tokens=20, eos_token_id=end) as tracer:
        for step in tracer.iter[:]:
            stream = lm.layers[1].output[:, -1].save()
            streams.append(stream)
            by_step[step] = stream * 2
            by_step[step].save()
            if step == 10:
                lm.layers[0].output[:] = 0.0  # never comes to that
                late = lm.logits.save()
        stacked: Any = torch.stack(streams)
        mean = stacked.mean(0).save()
        out = tracer.result.save()

    block = family.at(family.block, 1)
    expected = generated(family.module, IDS, see=(block,), max_new_tokens=20, eos_token_id=end)
    seen = [stream[:, -1] for stream in expected.seen[block]]
    assert len(seen) == len(streams) == len(by_step) == tracer.run.steps == 2
    for mine, theirs in zip(streams, seen, strict=True):
        assert_same(mine, theirs, atol=1e-5)
    assert_same(mean, torch.stack(seen).mean(0), atol=1e-5)
    assert_exactly(out, expected.ids)
    assert "late" in tracer.run.missing
    assert "stopped after 2 of 20 tokens (end of sequence)" in repr(tracer.run)
    with pytest.raises(NotSaved, match="did not happen"):
        late.sum()
    with pytest.raises(NotSaved, match="did not happen"):
        tracer.run["late"]


def test_a_row_that_ends_is_padded_while_others_go_on(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    end = _second(family)
    rows = [*IDS, *SHORT]
    with lm.generate(rows, max_new_tokens=8, eos_token_id=end) as tracer:
        out = tracer.result.save()

    module = family.module
    pad = module.generation_config.pad_token_id
    expected = generated(
        module, rows, max_new_tokens=8, eos_token_id=end, pad_token_id=end if pad is None else pad
    ).ids
    assert_exactly(out[:, 6:], expected[:, 6:])
    assert tracer.run.steps > 2
    assert out[0, 7] == end
    assert out[0, 8] == (end if pad is None else pad)


def test_an_invoke_that_ended_is_what_it_is_alone(lm: nl.LanguageModel, family: SmallModel) -> None:
    end = _second(family)
    with lm.generate(max_new_tokens=8, eos_token_id=end) as tracer:
        with tracer.invoke(IDS):
            first = [lm.layers[1].output.save() for _ in tracer.iter[:]]
            ended = tracer.result.save()
        with tracer.invoke(SHORT):
            second = [lm.tokens.save() for _ in tracer.iter[:]]
            going = tracer.result.save()

    alone = generated(family.module, IDS, max_new_tokens=8, eos_token_id=end).ids
    other = generated(family.module, SHORT, max_new_tokens=8, eos_token_id=end).ids
    assert_exactly(ended, alone)
    assert_exactly(going, other)
    assert len(first) == 2
    assert len(second) == tracer.run.steps > 2


@pytest.mark.one_way
def test_nothing_runs_that_nobody_asked_for(lm: nl.LanguageModel, family: SmallModel) -> None:
    passes = []
    handle = family.module.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        with lm.generate(IDS, max_new_tokens=10, eos_token_id=[]) as tracer:
            for _step in tracer.iter[:3]:
                lm.layers[0].output.save()
    finally:
        handle.remove()

    assert len(passes) == tracer.run.steps == 3
    assert "nothing further was asked for" in repr(tracer.run)


def test_a_block_that_saves_nothing_is_about_its_tokens(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.generate(IDS, max_new_tokens=4, eos_token_id=[]) as tracer:
        lm.layers[0].output[:, -1] += DIRECTION

    def change(step: int, stream: torch.Tensor) -> torch.Tensor:
        edited = stream.clone()
        edited[:, -1] += DIRECTION if step == 0 else 0
        return edited

    edit = {family.at(family.block, 0): change}
    expected = generated(family.module, IDS, after=edit, max_new_tokens=4, eos_token_id=None).ids
    assert [list(ids) for ids in tracer.run.tokens] == expected[:, 6:].T.tolist()


def test_stop_in_a_loop_ends_the_loop_and_the_generation(lm: nl.LanguageModel) -> None:
    seen = []
    with lm.generate(IDS, max_new_tokens=6, eos_token_id=[]) as tracer:
        for step in tracer.iter[:]:
            seen.append(lm.logits[:, -1].argmax(-1).save())
            if step == 2:
                tracer.stop()
    assert len(seen) == 3
    assert tracer.run.steps == 3


def test_a_top_k_of_0_is_no_limit(tiny: nl.LanguageModel) -> None:
    options: dict[str, Any] = {"max_new_tokens": 4, "seed": 3, "eos_token_id": []}
    results = []
    cuts: list[dict[str, Any]] = [
        {"temperature": 1.5, "top_k": 0},
        {"temperature": 1.5},
        {"top_k": 0},
    ]
    for cut in cuts:
        with tiny.generate("The capital of France is", **options, **cut) as tracer:
            out = tracer.result.save()
        results.append(out)
    with tiny.generate("The capital of France is", **options) as tracer:
        likeliest = tracer.result.save()

    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[2], likeliest)  # it samples, as giving any of them does
