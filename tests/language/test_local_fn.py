"""Local functions: `nl.local_fn(f)(value)` calls any Python function while the model runs here.

The page: `docs/reference/local-functions.md`.
"""

from __future__ import annotations

import gc
import math
from typing import Any, cast

import numpy as np
import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.contract import TokenRows
from nnsight_lab.errors import BadInput, NotSupported, OpFailed
from nnsight_lab.executors.local import LocalExecutor
from nnsight_lab.ir import Address, Cond, Graph, LocalCall, ModuleSource, Output, Param, Read, Ref
from nnsight_lab.ir.nodes import Block
from nnsight_lab.passes import check_features
from nnsight_lab_server.admission import admit
from nnsight_lab_server.config import ServerLimits
from nnsight_lab_server.engines.transformers_engine import TransformersEngine
from tests.support import hooks
from tests.support.lines import assert_at
from tests.support.tensors import assert_differs, assert_exactly, assert_same

PROMPT = "The capital of France is"


def rounded(h: torch.Tensor) -> torch.Tensor:
    """What no graph can say: through numpy, and with a Python loop on the numbers."""
    array = h.detach().numpy().copy()
    for place, number in np.ndenumerate(array):
        array[place] = math.floor(number)
    return torch.from_numpy(array)


def test_a_local_function_sees_real_tensors_and_its_result_goes_into_the_model(
    tiny: nl.LanguageModel,
) -> None:
    with tiny.trace(PROMPT):
        h = tiny.layers[1].output
        tiny.layers[1].output = nl.local_fn(rounded, like=h)(h)
        logits = tiny.logits.save()

    ids = [list(row) for row in tiny.tokenize(PROMPT).rows]
    path = dict(tiny.tree.standard)["layers.1"]
    expected = hooks.hooked(tiny.module, ids, after={path: rounded})
    assert_exactly(logits, expected["logits"])
    assert_differs(logits, hooks.forward(tiny.module, ids))


def test_it_may_give_any_nest_of_values(tiny: nl.LanguageModel) -> None:
    @nl.local_fn
    def parts(h: torch.Tensor, *, scale: float) -> Any:
        return h.sum() * scale, {"most": [h.max()], "rows": len(h)}

    with tiny.trace(PROMPT):
        h = tiny.layers[1].output.save()
        found = parts(h, scale=2.0)
        twice = (found[1]["most"][0] + found[1]["most"][0]).save()
        whole = found.save()

    assert_same(whole[0], h.sum() * 2.0, atol=1e-3)
    assert whole[1]["rows"] == 1
    assert_exactly(twice, h.max() * 2)


def test_a_function_is_called_for_what_it_does_in_the_order_of_the_model(
    tiny: nl.LanguageModel,
) -> None:
    seen: list[float] = []
    note = nl.local_fn(lambda value: seen.append(float(value)))
    with tiny.trace(PROMPT):
        note(tiny.layers[2].output.mean())
        note(tiny.layers[0].output.mean())
        late = tiny.layers[2].output.mean().save()
        early = tiny.layers[0].output.mean().save()

    assert seen == [float(early), float(late)]


def test_in_a_branch_it_is_called_when_the_branch_is_taken(tiny: nl.LanguageModel) -> None:
    """Also where nobody uses what the branch gives."""
    seen: list[float] = []

    def note(value: torch.Tensor) -> torch.Tensor:
        seen.append(float(value.norm()))
        return value

    with tiny.trace(PROMPT):
        h = tiny.layers[1].output
        nl.cond(h.norm() > 0, lambda: nl.local_fn(note)(h), lambda: h)
        nl.cond(h.norm() < 0, lambda: nl.local_fn(note)(h), lambda: h)
        norm = h.norm().save()
    assert seen == [pytest.approx(float(norm))]


def test_a_function_that_writes_into_what_it_is_given_changes_nobodys_value(
    tiny: nl.LanguageModel,
) -> None:
    def spoil(h: torch.Tensor) -> torch.Tensor:
        return h.zero_()

    with tiny.trace(PROMPT):
        h = tiny.layers[1].output
        zeros = nl.local_fn(spoil)(h).save()
        kept = h.save()

    assert not zeros.any()
    assert kept.any()


def test_a_function_may_call_the_model_itself(tiny: nl.LanguageModel) -> None:
    ids = torch.tensor(tiny.tokenize("The capital of Italy is").rows)

    def elsewhere(h: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = tiny.module(ids, output_hidden_states=True).hidden_states[2]
        return h + hidden.mean()

    with tiny.trace(PROMPT):
        h = tiny.layers[1].output.save()
        moved = nl.local_fn(elsewhere)(h).save()

    assert_differs(moved, h)


def test_gradients_pass_through(tiny: nl.LanguageModel) -> None:
    def cubed(h: torch.Tensor) -> torch.Tensor:
        return h**3

    with tiny.trace(PROMPT):
        h = tiny.layers[1].output
        loss = nl.local_fn(cubed)(h).sum()
        loss.backward()
        gradient = h.grad.save()
        value = h.save()

    assert_same(gradient, 3 * value**2, atol=1e-4)
    assert gradient.any()


def test_inside_an_invoke_it_gets_that_prompts_rows(tiny: nl.LanguageModel) -> None:
    shape_of = nl.local_fn(lambda h: torch.tensor(h.shape))
    with tiny.trace() as tracer:
        with tracer.invoke(PROMPT):
            one = shape_of(tiny.layers[1].output).save()
        with tracer.invoke(["The capital of Italy is", "Paris is"]):
            two = shape_of(tiny.layers[1].output).save()

    pos = tiny.tokenize(PROMPT).pos
    assert one.tolist() == [1, pos, 128]
    assert two.tolist()[0] == 2


def test_the_graph_runs_again_with_its_functions_for_as_long_as_it_lives(
    tiny: nl.LanguageModel,
) -> None:
    first, second = nl.local_fn(lambda h: h + 1), nl.local_fn(lambda h: h - 1)
    with tiny.trace(PROMPT) as tracer:
        h = tiny.layers[1].output.save()
        more, less = first(h).save(), second(h).save()
    assert set(tracer.functions) == {"function", "function_2"}

    again = tiny.run(tracer.graph, PROMPT)

    assert_exactly(again["more"], h + 1)
    assert_exactly(again["less"], h - 1)
    assert_exactly(tracer.run.then(tracer.graph)["more"], more)
    assert_exactly(less, h - 1)


def test_a_view_of_a_run_does_not_call_them_again(tiny: nl.LanguageModel) -> None:
    calls: list[int] = []
    with tiny.trace(PROMPT) as tracer:
        nl.local_fn(lambda h: calls.append(1))(tiny.logits)
    with tiny.trace(PROMPT, execute=False) as view:
        tiny.logits.save()

    tracer.run.then(view.graph)

    assert calls == [1]


def test_functions_of_a_view_and_of_its_run_may_have_one_name(tiny: nl.LanguageModel) -> None:
    """A function without a name of its own is called by that of any other such function."""
    with tiny.trace(PROMPT) as tracer:
        h = tiny.layers[1].output
        tiny.layers[1].output = nl.local_fn(lambda value: value * 2, like=h)(h)
        logits = tiny.logits.save()
    with tiny.trace(PROMPT, execute=False) as view:
        more = nl.local_fn(lambda value: value + 1)(tiny.logits).save()
        h = tiny.layers[1].output
        chosen = nl.cond(h.norm() > 0, lambda: nl.local_fn(lambda v: v - 1)(h), lambda: h).save()
    assert more is not chosen
    run = tracer.run.then(view.graph)
    assert_exactly(run["more"], logits + 1)
    assert_same(run["chosen"], tiny.run(view.graph, PROMPT)["chosen"] * 2 + 1, atol=1e-4)


def test_outside_a_trace_it_is_the_function_itself(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT):
        h = tiny.layers[1].output.save()

    assert_exactly(nl.local_fn(rounded)(h), rounded(h))
    assert nl.local_fn(rounded).__name__ == "rounded"


def test_what_is_no_function_is_refused_at_its_line() -> None:
    with pytest.raises(BadInput) as caught:
        nl.local_fn(cast("Any", 3))  # no function

    assert_at(caught.value, "no function")


# When it goes wrong


def test_an_error_of_the_function_names_both_lines_and_is_the_cause(
    tiny: nl.LanguageModel,
) -> None:
    def broken(h: torch.Tensor) -> torch.Tensor:
        raise KeyError("nothing there")

    with pytest.raises(OpFailed) as caught, tiny.trace(PROMPT):
        nl.local_fn(broken)(tiny.logits)  # the call

    assert_at(caught.value, "the call")
    assert isinstance(caught.value.__cause__, KeyError)
    line = broken.__code__.co_firstlineno + 1
    assert f"{__file__}, line {line}" in caught.value.message
    with tiny.trace(PROMPT):  # the model is as before
        tiny.logits.save()


def test_a_result_that_is_not_like_it_was_said_is_an_error_at_that_line(
    tiny: nl.LanguageModel,
) -> None:
    said = r"said to be like float32\[1, 6, 128\]"
    with pytest.raises(OpFailed, match=said) as caught, tiny.trace(PROMPT):
        h = tiny.layers[1].output
        nl.local_fn(lambda h: h[0], like=h)(h).save()  # not like it

    assert_at(caught.value, "not like it")


def test_the_shape_is_unknown_until_it_runs_unless_it_is_said(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT, peek=False):
        h = tiny.layers[1].output
        assert nl.local_fn(rounded, like=h)(h).shape == h.shape
        with pytest.raises(nl.errors.ValueNotKnown):
            _ = nl.local_fn(rounded)(h).shape


def test_a_graph_from_bytes_has_no_functions_and_says_what_to_do(tiny: nl.LanguageModel) -> None:
    with tiny.trace(PROMPT, execute=False) as tracer:
        nl.local_fn(rounded)(tiny.logits).save()
    again = nl.Graph.from_bytes(tracer.graph.to_bytes())

    with pytest.raises(NotSupported, match="'rounded', which is not here") as caught:
        tiny.run(again, PROMPT)

    assert "nl.load" in caught.value.hint


def test_functions_go_when_their_graph_does(tiny: nl.LanguageModel) -> None:
    from nnsight_lab.tracing import local_calls

    gc.collect()
    before = len(local_calls._kept)

    def traced() -> int:
        with tiny.trace(PROMPT) as tracer:
            nl.local_fn(rounded)(tiny.logits).save()
        return len(local_calls._kept) if tracer.graph.nodes else 0

    assert traced() > before
    gc.collect()

    assert len(local_calls._kept) == before


# On a server


def test_a_served_model_refuses_it_at_the_users_line_before_anything_is_sent(
    served: nl.LanguageModel,
) -> None:
    with pytest.raises(NotSupported, match="local_fn") as caught, served.trace(PROMPT):
        h = served.layers[1].output
        nl.local_fn(rounded)(h).save()  # not there

    assert_at(caught.value, "not there")
    assert "local_fn" not in served.card.capabilities.features


def _no_source(path: str) -> ModuleSource:
    raise AssertionError(f"nobody names an operation inside {path}")


def test_the_server_refuses_such_a_graph_when_it_comes_as_bytes(tiny: nl.LanguageModel) -> None:
    assert isinstance(tiny.executor, LocalExecutor)
    card = TransformersEngine("tiny", tiny.executor).card()
    read = Read(id=0, address=Address("", "logits"))
    plain = Graph((read, LocalCall(id=1, function="f", args=(Ref(0),))), (Output("x", 1),))
    call = (Param(id=0, index=0), LocalCall(id=1, function="f", args=(Ref(0),)))
    block = Block(1, call, (1,))
    cond = Cond(id=1, test=0, inputs=(0,), then=block, otherwise=block)
    hidden = Graph((read, cond), (Output("x", 1),))

    with pytest.raises(NotSupported, match="runs no code of yours"):
        admit(plain.to_bytes(), (TokenRows(((3, 4, 5),)),), card, ServerLimits(), _no_source)
    with pytest.raises(NotSupported, match="runs no code of yours"):
        check_features(hidden, card)
