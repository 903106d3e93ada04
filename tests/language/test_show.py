"""`nl.show(value)`: a value printed during the run, as soon as it exists."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.contract import RunEvent, Saved
from nnsight_lab.errors import BadInput, NotSaved, OpFailed
from tests.support.small_models import SmallModel

PROMPT = "The capital of France is"
IDS, SHORT = [[5, 17, 3, 42, 8, 29]], [[11, 2, 60]]


def test_a_shown_value_is_printed_and_not_handed_back(
    anywhere: nl.LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    with anywhere.trace(PROMPT) as tracer:
        norm = anywhere.layers[2].output.norm()
        nl.show(norm, "stream")
        logits = anywhere.logits.save()
        assert capsys.readouterr().out == ""  # not before there is one

    with anywhere.trace(PROMPT):
        expected = anywhere.layers[2].output.norm().save()
    assert capsys.readouterr().out == f"stream: {expected!r}\n"
    assert list(tracer.run) == ["logits"]
    assert logits.shape[0] == 1
    with pytest.raises(NotSaved):
        _ = norm.value


@pytest.mark.one_way
def test_it_is_printed_while_the_model_runs(
    llama: SmallModel, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = nl.LanguageModel(llama.module)
    printed: list[str] = []
    later = llama.module.get_submodule("model.layers.2")
    handle = later.register_forward_pre_hook(lambda *_: printed.append(capsys.readouterr().out))
    try:
        with lm.trace(IDS):
            nl.show(lm.layers[0].output.shape, "shape")  # known already
            nl.show(lm.layers[0].output.sum(), "early")
            nl.show(lm.logits.sum(), "late")
    finally:
        handle.remove()

    assert printed[0].startswith("shape: torch.Size([1, 6, 32])\nearly: tensor(")
    assert "late" not in printed[0]
    assert capsys.readouterr().out.startswith("late: tensor(")


def test_what_was_shown_before_a_failure_is_there(
    lm: nl.LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OpFailed), lm.trace(IDS):
        nl.show(lm.layers[0].output.sum(), "seen")
        lm.layers[1].output[:, lm.layers[1].output.abs().sum().long() + 99].save()

    assert capsys.readouterr().out.startswith("seen: ")


def test_without_a_label_the_line_says_what_it_is(
    lm: nl.LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    with lm.trace(IDS):
        h = lm.layers[0].output
        nl.show(h[0, -1, 0])
        doubled = nl.show(h.sum()) * 2  # it is the value, to go on with
        nl.show([h.mean(), {"max": h.max()}], "both")
        twice = doubled.save()

    lines = capsys.readouterr().out.splitlines()
    labels = [line.partition(": ")[0] for line in lines]
    assert labels == ["h[0, -1, 0]", "h.sum()", "both[0]", "both[1]['max']"]
    assert twice.dim() == 0


def test_the_value_is_the_one_at_that_line(
    lm: nl.LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    with lm.trace(IDS):
        h = lm.layers[0].output
        before = nl.show(h.sum(), "before").save()
        h[:] = 0
        nl.show(h.sum(), "after")

    assert capsys.readouterr().out == f"before: {before!r}\nafter: tensor(0.)\n"


def test_a_plain_value_is_printed_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert nl.show(3, "three") == 3
    nl.show(torch.eye(2))

    assert capsys.readouterr().out == (
        "three: 3\ntorch.eye(2):\ntensor([[1., 0.],\n        [0., 1.]])\n"
    )
    with pytest.raises(BadInput):
        nl.show(3, 4)  # type: ignore[arg-type]


def test_in_an_invoke_it_is_of_that_prompt(
    lm: nl.LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    with lm.trace() as tracer:
        with tracer.invoke(IDS):
            nl.show(lm.logits.argmax(-1), "long")
        with tracer.invoke(SHORT):
            nl.show(lm.logits.argmax(-1), "short")

    out = capsys.readouterr().out
    assert [line.count(",") for line in out.splitlines()] == [5, 2]


def test_in_a_stored_edit_it_is_printed_in_every_run(
    lm: nl.LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    with lm.edit() as edited:
        nl.show(lm.layers[0].output.sum(), "stream")

    for _ in range(2):
        with edited.trace(IDS):
            edited.layers[1].output.save()
    assert [line[:15] for line in capsys.readouterr().out.splitlines()] == ["stream: tensor("] * 2


def test_a_scan_shows_the_shape(lm: nl.LanguageModel, capsys: pytest.CaptureFixture[str]) -> None:
    with lm.scan(IDS):
        nl.show(lm.logits, "logits")

    assert capsys.readouterr().out == "logits: float32[1, 6, 61]\n"


def test_whoever_listens_to_a_run_gets_it_too(
    lm: nl.LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    with lm.trace(IDS, execute=False) as tracer:
        nl.show(lm.logits.sum(), "sum")
    events: list[Any] = []

    def note(event: RunEvent) -> None:
        if isinstance(event, Saved):
            events.append(event.name)

    run = lm.run(tracer.graph, IDS, on_event=note)

    assert capsys.readouterr().out.startswith("sum: tensor(")
    assert dict(run) == {}
    assert len(events) == 1
