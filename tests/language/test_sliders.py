"""`nl.slider`: a number of the experiment that is moved without recording again.

The page: `docs/reference/sliders.md`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import BadSlider, OpNotAllowed, ValueNotKnown
from nnsight_lab.executors.local import LocalExecutor
from tests.support.hooks import hooked
from tests.support.small_models import SmallModel

PROMPT = "The capital of France is"
IDS = [[5, 17, 3, 42, 8, 29]]


def _by_hand(model: SmallModel, at: float) -> torch.Tensor:
    def change(output: torch.Tensor) -> None:
        output[:, -1] += at

    found: torch.Tensor = hooked(model.module, IDS, after={"model.layers.1": change})["logits"]
    return found


def test_a_moved_slider_is_what_hooks_give(llama: SmallModel) -> None:
    lm = nl.LanguageModel(llama.module)
    with lm.trace(IDS) as tracer:
        lm.layers[1].output[:, -1] += nl.slider("strength", 0, 8, value=2)
        lm.logits.save()
    run = tracer.run
    for at in (2, 0, 3.5, 8):
        moved = run.at(strength=at)
        (logits,) = moved.values()
        torch.testing.assert_close(logits, _by_hand(llama, at), rtol=1e-4, atol=1e-4)
        assert moved.sliders["strength"].value == at
    assert not torch.equal(_by_hand(llama, 2), _by_hand(llama, 8))


@pytest.mark.one_way
def test_moving_plans_nothing_again(lm: nl.LanguageModel) -> None:
    executor = lm.executor
    assert isinstance(executor, LocalExecutor)
    with lm.trace(PROMPT) as tracer:
        lm.layers[1].output[:, -1] += nl.slider("strength", 0, 8)
        lm.logits.save()
    before = len(executor._plans)
    for at in range(5):
        tracer.run.at(strength=at)
    assert len(executor._plans) == before


def test_a_slider_of_before_the_block_is_one_in_each(lm: nl.LanguageModel) -> None:
    strength = nl.slider("strength", 0, 8, value=1)
    assert repr(strength) == "<slider strength: 0 to 8>"
    for _ in range(2):
        with lm.trace(PROMPT) as tracer:
            lm.layers[1].output[:, -1] += strength * torch.ones(())
            lm.layers[2].output[:, -1] += nl.slider("strength", 0, 8, value=1)
            logits = lm.logits.save()
        assert list(tracer.run.sliders) == ["strength"]
        assert not torch.equal(tracer.run.at(strength=8)["logits"], logits)
    with pytest.raises(BadSlider):
        _ = strength * 2


def test_a_whole_slider_is_an_index(lm: nl.LanguageModel) -> None:
    with lm.trace(PROMPT) as tracer:
        at = nl.slider("at", 0, 4, step=1)
        h = lm.layers[1].output
        part, whole = h[0, at].save(), h.save()
    assert torch.equal(part, whole[0, 0])
    assert torch.equal(tracer.run.at(at=3)["part"], whole[0, 3])
    with pytest.raises(BadSlider):
        tracer.run.at(at=0.5)


def test_steps_invokes_and_several_sliders(lm: nl.LanguageModel) -> None:
    with lm.generate(PROMPT, max_new_tokens=3) as tracer:
        a, b = nl.slider("a", 0, 50), nl.slider("b", -50, 50, value=0)
        for _ in tracer.iter[:]:
            lm.layers[1].output[:, -1] += a + b
        text = tracer.result.save()
    assert torch.equal(tracer.run.at(a=20, b=-20)["text"], text)
    with lm.generate(PROMPT, max_new_tokens=3) as tracer:
        seen = []
        for _ in tracer.iter[:]:
            lm.layers[1].output[:, -1] += nl.slider("a", 0, 50)
            seen.append(lm.logits[:, -1].save())
    for moved, was in zip(tracer.run.at(a=50)["seen"], seen, strict=True):
        assert not torch.equal(moved, was)

    with lm.trace() as block:
        with block.invoke(PROMPT):
            lm.layers[1].output[:, -1] += nl.slider("a", 0, 50)
            one = lm.logits.save()
        with block.invoke(PROMPT):
            two = lm.logits.save()
    moved = block.run.at(a=50)
    assert not torch.equal(moved["one"], one)
    torch.testing.assert_close(moved["two"], two)


def test_through_a_file_and_as_a_program(lm: nl.LanguageModel, tmp_path: Path) -> None:
    with lm.trace(PROMPT) as tracer:
        lm.layers[1].output[:, -1] += nl.slider("strength", 0, 8, value=2, step=0.5)
        logits = lm.logits.save()
    path = tracer.run.save(tmp_path / "slider.nnlab")
    again = nl.load(path).run(lm)
    assert again.sliders == tracer.run.sliders
    torch.testing.assert_close(again["logits"], logits)
    moved = again.at(strength=8)
    torch.testing.assert_close(moved["logits"], tracer.run.at(strength=8)["logits"])
    program: dict[str, object] = {}
    exec(moved.to_python(), program)  # the user's own experiment
    assert "slider strength = 2 (0 to 8, by 0.5)" in str(tracer.graph)
    assert "strength = torch.tensor(8.0" in moved.to_python()


@pytest.mark.parametrize(
    "given",
    [(8, 0), (0, float("inf")), (0, 8, 9), (0, 8, float("nan")), (0, 8, 1, 0), ("0", 8)],
)
def test_limits_that_are_none_are_refused(given: tuple[float, ...]) -> None:
    low, high, *more = given
    with pytest.raises(BadSlider):
        nl.slider("x", low, high, **dict(zip(("value", "step"), more, strict=False)))


def test_refusals(lm: nl.LanguageModel) -> None:
    with pytest.raises(BadSlider, match="another slider"), lm.trace(PROMPT):
        nl.slider("x", 0, 1)
        nl.slider("x", 0, 2)
    with pytest.raises(ValueNotKnown, match="may be moved"), lm.trace(PROMPT):
        if nl.slider("x", 0, 1) > 0.5:
            lm.logits.save()
    with pytest.raises(OpNotAllowed, match="moved from outside"), lm.trace(PROMPT):
        x = nl.slider("x", 0, 1)
        x += 1
    with lm.trace(PROMPT) as tracer:
        lm.layers[1].output[:] += nl.slider("x", 0, 1)
        lm.logits.save()
    with pytest.raises(BadSlider, match="no slider 'y'"):
        tracer.run.at(y=1)
    with pytest.raises(BadSlider, match="from 0 to 1"):
        tracer.run.at(x=2)


def test_bytes_with_a_slider_outside_its_limits_are_refused(lm: nl.LanguageModel) -> None:
    with lm.trace(PROMPT) as tracer:
        lm.layers[1].output[:] += nl.slider("x", 0, 8, value=7)
        lm.logits.save()
    data = tracer.graph.to_bytes()
    assert b'"slider":["x",0,8,null]' in data
    with pytest.raises(BadSlider):
        nl.Graph.from_bytes(data.replace(b'"slider":["x",0,8,null]', b'"slider":["x",0,6,null]'))
