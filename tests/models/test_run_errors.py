"""When a sound experiment does not finish: the class, the user's line, and what to do next."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from nnsight_lab import errors
from nnsight_lab.contract import RunEvent, Saved
from tests.support.fixtures import IDS
from tests.support.lines import assert_at, frames_of_ours
from tests.support.small_models import SmallModel


class Branch(nn.Module):
    """Runs one of two parts; which one depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.isnan().any():
            raise ZeroDivisionError("the model's own trouble")
        part = self.up if x.sum() > 0 else self.down
        out: torch.Tensor = part(x)
        return out


def test_an_operation_that_fails_on_the_values_names_its_line(lm: nl.LanguageModel) -> None:
    with pytest.raises(errors.OpFailed) as caught, lm.trace(IDS):
        far = lm.logits.argmax(-1).max() + 10_000
        lm.layers[0].output[0][far].save()  # out of range
        lm.logits.save()
    assert_at(caught.value, "out of range")
    assert caught.value.code == "op-failed"
    assert "index" in caught.value.message
    assert caught.value.hint
    assert frames_of_ours(caught.value) <= 1


def test_a_place_the_model_does_not_come_by_is_never_reached() -> None:
    """Measured on one branch, run on the other."""
    net = nl.wrap(Branch())
    with net.trace(torch.ones(1, 2)) as tracer:
        up = net.up.output.save()  # only upwards
    assert up.shape == (1, 2)
    with pytest.raises(errors.NeverReached, match=r"up\.output") as caught:
        net.run(tracer.graph, -torch.ones(1, 2))
    assert_at(caught.value, "only upwards")
    assert caught.value.hint


def test_trouble_of_the_models_own_is_the_engines() -> None:
    """Its cause is kept; the line is that of the block."""
    net = nl.wrap(Branch())
    with net.trace(torch.ones(1, 2), execute=False) as tracer:
        net.output.save()
    with pytest.raises(errors.EngineFailed, match="the model's own trouble") as caught:
        net.run(tracer.graph, torch.full((1, 2), float("nan")))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_values_that_came_before_a_failure_were_handed_out(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS, execute=False) as tracer:
        early = lm.layers[0].output.save()
        lm.logits[0][lm.logits.argmax() + 10_000].save()
    seen: list[str] = []

    def note(event: RunEvent) -> None:
        if isinstance(event, Saved):
            seen.append(event.name)

    with pytest.raises(errors.OpFailed):
        lm.run(tracer.graph, IDS, on_event=note)
    assert seen == ["early"]
    assert early is not None


def test_a_saved_name_is_left_alone_when_the_run_fails(lm: nl.LanguageModel) -> None:
    """It holds the recorded value, which says that it did not come back."""
    h: Any = "before"
    with pytest.raises(errors.OpFailed), lm.trace(IDS):
        h = lm.layers[0].output.save()
        lm.logits[0][lm.logits.argmax() + 10_000].save()
    assert "not saved" in repr(h)
    with pytest.raises(errors.NotSaved):
        _ = h.value


BAD_CALLS: dict[str, Any] = {
    "an empty prompt": lambda lm: lm.trace(""),
    "a prompt too long": lambda lm: lm.trace([1] * 100),
    "an unknown id": lambda lm: lm.trace([[99]]),
    "a graph of another model": lambda lm: lm.run(
        nl.Graph((nl.ir.Read(id=0, address=nl.ir.Address("layers.9")),), (nl.ir.Output("h", 0),)),
        IDS,
    ),
    "a prompt that is none, to run": lambda lm: lm.run(nl.Graph(()), 5),
    "bytes that are none": lambda lm: nl.Graph.from_bytes(b"nothing"),
    "a module that is none": lambda lm: nl.wrap(None),  # type: ignore[arg-type]
    "a model that is none": lambda lm: nl.LanguageModel("./nowhere"),
    "outside a trace": lambda lm: lm.layers[0].output,
    "outside, written": lambda lm: setattr(lm.layers[0], "output", 1),
    "outside, called": lambda lm: lm.lm_head(torch.ones(1, 32)),
}


BEHIND_AN_ATTRIBUTE = {"outside a trace": 2, "outside, written": 3, "outside, called": 2,
                       "bytes that are none": 4}  # fmt: skip
"""Where a name or bytes are looked into, the frames that looked are still shown."""


@pytest.mark.parametrize("name", BAD_CALLS)
def test_every_error_says_what_to_do_and_has_a_code(llama: SmallModel, name: str) -> None:
    lm = nl.LanguageModel(llama.module)
    with pytest.raises(errors.LabError) as caught:
        BAD_CALLS[name](lm)
    error = caught.value
    assert error.code != errors.LabError.code
    assert f"[{error.code}]" in str(error)
    assert error.message
    if error.where is not None:
        assert error.where.file == __file__
    assert frames_of_ours(error) <= BEHIND_AN_ATTRIBUTE.get(name, 1)
    assert error.hint
    again = errors.LabError.from_plain(error.to_plain())
    assert type(again) is type(error)
    assert (again.message, again.hint, again.node) == (error.message, error.hint, error.node)


def test_codes_are_unique_words() -> None:
    """Each class of error has a page of its own."""
    queue, codes = [errors.LabError], []
    while queue:
        kind = queue.pop()
        codes.append(kind.code)
        own = (sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__)
        queue.extend(own)
    assert len(codes) == len(set(codes))
    assert all(code == code.lower() and " " not in code for code in codes)


def test_an_unknown_code_from_the_wire_is_a_server_error() -> None:
    assert type(errors.LabError.from_plain({"code": "who-knows"})) is errors.ServerError
    assert errors.LabError.from_plain({"code": "bad-input", "node": "x"}).node is None
