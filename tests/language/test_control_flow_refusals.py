"""What `nl.cond`, `nl.foreach` and `nl.while_` refuse, each at its own line with the way round.

The page: `docs/reference/control-flow.md`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import BadInput, GraphError, OpFailed, ShapeMismatch, WriteTooEarly
from tests.language.test_control_flow import LONG, SHORT, RunIt, far, ids_of, run, tiny
from tests.support.hooks import hooked

__all__ = ["far", "run", "tiny"]


@nl.local_fn
def noted(value: torch.Tensor) -> torch.Tensor:
    return value


def _called(value: Any) -> Any:
    noted(value)  # nl.local_fn, for what it does only
    return value


@pytest.mark.parametrize(
    ("program", "error", "words"),
    [
        (lambda h: nl.cond(h > 0, lambda: h, lambda: h), ShapeMismatch, "a single value"),
        (lambda h: nl.cond(h.sum() > 0, lambda: h, lambda: (h, h)), GraphError, "a tuple of 2"),
        (lambda h: nl.cond(h.sum() > 0, lambda: "a", lambda: "b"), GraphError, "'a' and 'b'"),
        (lambda h: nl.cond(h.sum() > 0, lambda: h), GraphError, "None"),
        (lambda h: nl.cond(h.sum() > 0, h.save, lambda: h), GraphError, "saved inside"),
        (lambda h: nl.cond(h.sum() > 0, lambda: nl.show(h * 2), lambda: h), GraphError, "shown in"),
        (lambda h: nl.foreach(h, nl.show), GraphError, "shown inside a branch"),
        (
            lambda h: nl.cond(h.sum() > 0, lambda: [_called(h), h][1], lambda: h),
            GraphError,
            "needs noted, so",
        ),
        (lambda h: nl.foreach(h, _called), GraphError, "would not be called"),
        (lambda h: nl.foreach(h.sum(), lambda x: x), ShapeMismatch, "no items"),
        (lambda h: nl.foreach(h, lambda x, c: x, 0), GraphError, "carry and a value"),
        (lambda h: nl.foreach(h, lambda x, c: ((c, c), x), 0), GraphError, "its structure"),
        (lambda h: nl.while_(lambda x: x, lambda x: x, h), ShapeMismatch, "a single value"),
        (lambda h: nl.while_(lambda x, y: x.sum() > 0, lambda x, y: x, h, 0), GraphError, "2 val"),
        (lambda h: nl.while_(lambda x: x.sum() > 0, lambda x: x, h, limit=0), GraphError, "limit"),
        (lambda h: nl.while_(lambda: h.mul_(2).sum() > 0, lambda: None), GraphError, "an edit"),
    ],
)
def test_a_misuse_is_refused_at_its_line(
    tiny: nl.LanguageModel, program: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught, tiny.trace(SHORT):
        program(tiny.layers[0].output)
    found: Any = caught.value
    assert "program(tiny" in found.where.text or "nl." in found.where.text
    assert found.hint


@pytest.mark.parametrize("verb", ["stop", "cache"])
def test_what_is_for_the_whole_block_is_not_asked_for_in_a_branch(
    tiny: nl.LanguageModel, verb: str
) -> None:
    """It would be done whether the branch is taken or not."""

    def ask() -> None:
        getattr(tracer, verb)()  # this line

    with pytest.raises(GraphError, match="inside a branch") as caught, tiny.trace(SHORT) as tracer:
        nl.cond(tiny.layers[0].output.sum() > 0, ask)
    assert caught.value.where is not None
    assert caught.value.where.text.endswith("# this line")


def test_a_value_of_a_branch_cannot_leave_it_by_the_back_door(tiny: nl.LanguageModel) -> None:
    kept: list[Any] = []
    with pytest.raises(GraphError, match="made inside a branch") as caught, tiny.trace(SHORT):
        h = tiny.layers[0].output
        nl.cond(h.sum() > 0, lambda: kept.append(h * 2), lambda: None)
        (kept[0] + 1).save()
    assert caught.value.where is not None
    assert "kept[0] + 1" in caught.value.where.text


def test_a_backward_pass_begun_in_a_branch_ends_with_it(tiny: nl.LanguageModel) -> None:
    with pytest.raises(GraphError, match="made inside a branch"), tiny.trace(SHORT):
        h = tiny.layers[0].output
        nl.cond(h.sum() > 0, lambda: (h * 2).sum().backward(), lambda: None)
        h.grad.save()


def test_a_result_that_may_be_another_value_is_not_edited_in_place(tiny: nl.LanguageModel) -> None:
    with pytest.raises(nl.errors.OpNotAllowed, match="x = x \\+ 1"), tiny.trace(SHORT):
        h = tiny.layers[0].output
        y = nl.cond(h.sum() > 0, lambda: h, lambda: h * 2)
        y += 1


def test_an_edit_that_waits_for_the_future_is_refused_at_the_edit(tiny: nl.LanguageModel) -> None:
    def edit() -> None:
        tiny.layers[1].output *= 2

    with pytest.raises(WriteTooEarly, match="logits") as caught, tiny.trace(SHORT):
        nl.cond(tiny.logits.sum() > 0, edit, lambda: None)
    assert caught.value.where is not None
    assert caught.value.where.text == "tiny.layers[1].output *= 2"


def test_an_error_in_a_block_is_at_its_own_line_wherever_it_runs(run: RunIt) -> None:
    def program(lm: Any) -> dict[str, Any]:
        h = lm.layers[0].output

        def wrong(at: Any) -> Any:
            row = h[0, at]
            return row.reshape(7, 9)

        return {"rows": nl.foreach((h[0, :, 0] > 0).nonzero()[:, 0], wrong)}

    with pytest.raises(OpFailed, match="reshape") as caught:
        run(program, LONG)
    where = caught.value.where
    assert where is not None
    assert where.text == "return row.reshape(7, 9)"


@pytest.mark.parametrize("limit", [1, 3])
def test_a_loop_over_its_limit_says_how_to_allow_more(run: RunIt, limit: int) -> None:
    def program(lm: Any) -> dict[str, Any]:
        h = lm.layers[0].output
        return {"x": nl.while_(lambda x: x.norm() > 1, lambda x: x / 2, h, limit=limit)}

    with pytest.raises(OpFailed, match=f"after {limit} turns") as caught:
        run(program, LONG)
    assert "limit=" in caught.value.hint


def test_a_branch_that_raises_leaves_the_recording_as_it_was(tiny: nl.LanguageModel) -> None:
    def broken() -> None:
        tiny.layers[1].output[:] = 0
        raise RuntimeError("mine")

    with tiny.trace(SHORT):
        with pytest.raises(RuntimeError, match="mine"):
            nl.cond(tiny.layers[0].output.sum() > 0, broken, lambda: None)
        logits = tiny.logits.save()
    assert torch.equal(logits, hooked(tiny.module, ids_of(tiny, SHORT))["logits"])


def test_a_server_counts_what_blocks_take(far: Any, tiny: nl.LanguageModel) -> None:
    with tiny.trace(SHORT, execute=False) as tracer:
        h = tiny.layers[0].output
        nl.cond(h.sum() > 0, lambda: (h.sum() + torch.zeros(1)).expand(10**12).clone(), lambda: h)[
            0
        ].save()
    with pytest.raises(nl.errors.LimitExceeded, match="values of the run"):
        far.run(tracer.graph, SHORT)


def test_a_value_in_place_of_a_function_is_refused(lm: nl.LanguageModel) -> None:
    verbs: dict[str, Any] = {
        "nl.cond(test": lambda h: nl.cond(h.sum() > 0, h, h),
        "nl.foreach(items": lambda h: nl.foreach(h[0], h),
        "nl.while_(lambda": lambda h: nl.while_(h.sum() > 0, lambda x: x, h),
    }
    for spelled, verb in verbs.items():
        with (
            pytest.raises(BadInput, match="in place of a function") as caught,
            lm.trace([[5, 17, 3]]),
        ):
            verb(lm.layers[0].output)
        assert spelled in (caught.value.hint or "")
        assert caught.value.where is not None
        assert caught.value.where.file == __file__
