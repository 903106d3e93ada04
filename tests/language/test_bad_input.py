"""Every misuse ends in a typed error at the user's own line, before the model runs where it can.

Of each kind of mistake there is one here; longer tables are in `tests/tracing/test_refusals.py`.
What belongs to one verb is on that verb's page.

The page: `docs/errors/index.md`.
"""

from __future__ import annotations

import json
import traceback
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from nnsight_lab import errors
from tests.support.hooks import forward
from tests.support.lines import assert_at, frames_of_ours
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_exactly, assert_same

IDS = [[5, 17, 3, 42, 8, 29]]


class Detour(nn.Module):
    """Has a part that its forward never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.used(x)
        return out


def assert_told(caught: pytest.ExceptionInfo[errors.LabError], marker: str) -> None:
    """At the marked line of this file, short, with a next step."""
    error = caught.value
    assert error.where is not None
    assert error.where.file == __file__
    assert error.where.text.endswith(f"# {marker}")
    assert error.hint
    assert frames_of_ours(error) <= 1


# A value where there is none


def test_a_value_used_outside_its_trace(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS):
        h = lm.layers[0].output
        kept = lm.layers[1].output.save()

    assert kept.shape == (1, 6, 32)
    with pytest.raises(errors.NotSaved) as caught:
        _ = h + 1  # computed with
    assert_told(caught, "computed with")
    with pytest.raises(errors.NotSaved) as caught:
        h[:] = 0  # edited
    assert_told(caught, "edited")
    with pytest.raises(errors.NotSaved) as caught:
        h.save()  # saved too late
    assert_told(caught, "saved too late")
    with pytest.raises(errors.NotSaved) as caught:
        nl.show(h)  # shown too late
    assert_told(caught, "shown too late")


def test_a_value_used_in_another_trace(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS):
        h = lm.layers[0].output

    with pytest.raises(errors.NotSaved) as caught, lm.trace(IDS):
        lm.layers[0].output[:] = h  # of another block
    assert_told(caught, "of another block")


def test_a_place_without_a_trace(lm: nl.LanguageModel) -> None:
    with pytest.raises(errors.GraphError, match="only inside a trace") as caught:
        _ = lm.layers[0].output  # no trace
    assert_told(caught, "no trace")
    with pytest.raises(errors.GraphError, match="No prompt") as caught, lm.trace():
        _ = lm.layers[0].output  # no prompt
    assert_told(caught, "no prompt")


# A place where there is none


def test_a_module_the_forward_never_reaches() -> None:
    net = nl.wrap(Detour())
    x = torch.ones(1, 2)
    with pytest.raises(errors.AddressNotFound, match="never reaches") as caught, net.trace(x):
        net.unused.output.save()  # never called
    assert_told(caught, "never called")
    with pytest.raises(errors.AddressNotFound) as caught, net.trace(x):
        net.unused.output = 0.0  # never called, edited
    assert_told(caught, "never called, edited")

    with net.edit() as edited:
        net.unused.output[:] = 0.0  # never called, stored
    with pytest.raises(errors.AddressNotFound) as caught, edited.trace(x):
        pass
    assert_at(caught.value, "never called, stored")


def test_a_wrong_name_or_index(lm: nl.LanguageModel) -> None:
    with pytest.raises(errors.AddressNotFound, match="mpl") as caught, lm.trace(IDS):
        lm.layers[0].mpl.output.save()  # a slip
    assert_told(caught, "a slip")
    assert "mlp" in caught.value.hint
    with pytest.raises(errors.AddressNotFound, match="it has 3") as caught, lm.trace(IDS):
        lm.layers[3].output.save()  # one too far
    assert_told(caught, "one too far")
    with pytest.raises(errors.ShapeMismatch) as shape, lm.trace(IDS):
        lm.layers[0].output[:, 6].save()  # the seventh token
    assert_told(shape, "the seventh token")


def test_a_wrong_shape(lm: nl.LanguageModel) -> None:
    with pytest.raises(errors.ShapeMismatch) as caught, lm.trace(IDS):
        lm.layers[0].output[:, -1] += torch.ones(31)  # 31 of 32
    assert_told(caught, "31 of 32")
    with pytest.raises(errors.ShapeMismatch) as caught, lm.trace(IDS):
        lm.layers[0].output = torch.ones(1, 5, 32)  # 5 of 6
    assert_told(caught, "5 of 6")


# An order that cannot be


def test_a_cycle_names_both_lines(lm: nl.LanguageModel) -> None:
    with pytest.raises(errors.WriteTooEarly) as caught, lm.trace(IDS):
        late = lm.layers[2].output
        lm.layers[0].output[:, -1] = late[:, -1]  # needs the line above
    assert_told(caught, "needs the line above")
    assert caught.value.where is not None
    assert f"line {caught.value.where.line - 1})" in caught.value.message


def test_a_block_inside_another(lm: nl.LanguageModel) -> None:
    def refused(says: str) -> AbstractContextManager[pytest.ExceptionInfo[errors.GraphError]]:
        return pytest.raises(errors.GraphError, match=says)

    used = lm.trace(IDS)
    with used:
        pass
    with refused("has been used") as caught:
        used.__enter__()  # once more
    assert_told(caught, "once more")
    with lm.trace(IDS) as tracer:
        with refused("already open") as caught:
            lm.trace(IDS).__enter__()  # a trace in a trace
        assert_told(caught, "a trace in a trace")
        with refused("its prompt") as caught:
            tracer.invoke(IDS)  # a second prompt
        assert_told(caught, "a second prompt")
    with lm.trace() as tracer, tracer.invoke(IDS):
        with refused("inside another") as caught:
            tracer.invoke(IDS)  # an invoke in an invoke
        assert_told(caught, "an invoke in an invoke")
        logits = lm.logits.save()
    assert logits.shape == (1, 6, 61)  # nothing was left open, nothing was lost


# A body that raises


def test_an_error_of_the_users_own_is_theirs(lm: nl.LanguageModel, family: SmallModel) -> None:
    """Its class and its line; the model did not run and is as it was."""
    calls: list[int] = []
    handle = family.module.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        with pytest.raises(ZeroDivisionError) as caught, lm.trace(IDS):
            lm.layers[0].output[:] = 0
            lm.logits.save()
            _ = 1 / 0  # the user's own
    finally:
        handle.remove()

    assert calls == []
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert last.filename == __file__
    assert last.line is not None
    assert "the user's own" in last.line
    assert all(
        not part._forward_hooks and not part._forward_pre_hooks for part in family.module.modules()
    )
    assert_same(forward(family.module, IDS), _traced_logits(lm))


def test_a_run_that_fails_leaves_the_model_clean(lm: nl.LanguageModel, family: SmallModel) -> None:
    with pytest.raises(errors.OpFailed) as caught, lm.trace(IDS):
        lm.layers[0].output[:] = 0
        lm.layers[0].output[0][lm.logits.argmax() + 10_000].save()  # out of range
    assert_told(caught, "out of range")
    assert all(not part._forward_hooks for part in family.module.modules())
    assert_same(forward(family.module, IDS), _traced_logits(lm))


def _traced_logits(lm: nl.LanguageModel) -> torch.Tensor:
    with lm.trace(IDS):
        logits = lm.logits.save()
    found: torch.Tensor = logits
    return found


# A save of something that cannot be saved


def test_a_save_of_something_unsavable(lm: nl.LanguageModel) -> None:
    with pytest.raises(errors.BadInput, match="cannot be saved") as caught, lm.trace(IDS):
        nl.save(3)  # a number
    assert_told(caught, "a number")
    with pytest.raises(errors.BadInput, match="Size") as caught, lm.trace(IDS):
        nl.save(lm.logits.shape)  # a size
    assert_told(caught, "a size")
    with pytest.raises(errors.BadInput) as caught, lm.trace(IDS):
        nl.save(torch.ones(3))  # a tensor of one's own
    assert_told(caught, "a tensor of one's own")
    with pytest.raises(errors.GraphError, match="is a module") as module, lm.trace(IDS):
        nl.save(lm.layers[0])  # a module
    assert_told(module, "a module")
    with pytest.raises(errors.AddressNotFound, match="'save'") as own, lm.trace(IDS):
        lm.layers[0].save()  # a module's own
    assert_told(own, "a module's own")
    assert "layers.0.output.save()" in own.value.hint
    with pytest.raises(errors.BadInput) as caught, lm.trace(IDS) as tracer:
        tracer.save(size=lm.logits.shape[0])  # by name
    assert_told(caught, "by name")
    with pytest.raises(errors.BadInput, match="would be lost") as twice:
        with lm.generate(IDS, max_new_tokens=2) as tracer:
            for _ in tracer.iter[:2]:
                tracer.save(last=lm.logits[:, -1])  # each step
    assert_told(twice, "each step")
    with pytest.raises(errors.GraphError, match="outside") as outside:
        nl.save([])  # no block
    assert_told(outside, "no block")


def test_what_can_be_saved(anywhere: nl.LanguageModel) -> None:
    """A value, and whatever a list or a dict comes to hold."""
    with anywhere.trace("The capital of France is") as tracer:
        logits = nl.save(anywhere.logits)
        norms: list[Any] = nl.save([])
        last: dict[str, Any] = nl.save({})
        norms.extend(layer.output.norm() for layer in anywhere.layers)
        last["pair"] = (anywhere.logits[0, -1].max(), "a text of one's own")

    assert type(logits) is torch.Tensor
    assert [norm.dim() for norm in norms] == [0] * 6
    assert_exactly(last["pair"][0], logits[0, -1].max())
    assert last["pair"][1] == "a text of one's own"
    assert_exactly(torch.stack(tracer.run["norms"]), torch.stack(norms))


# A model that is none


def test_an_unknown_architecture(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "banana"}))
    with pytest.raises(errors.ModelNotFound) as caught:
        nl.LanguageModel(tmp_path)  # a banana
    assert_told(caught, "a banana")


@pytest.mark.parametrize("tokenizer", [None, object()])
def test_a_module_that_is_no_language_model(tokenizer: Any) -> None:
    with pytest.raises(errors.BadInput, match="does not run as a causal language model") as caught:
        _ = nl.LanguageModel(nn.Linear(2, 2), tokenizer=tokenizer).card  # a linear map
    assert "nl.wrap" in caught.value.hint
    if tokenizer is None:
        assert_told(caught, "a linear map")
