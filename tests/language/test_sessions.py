"""Sessions: several traces as one run, with values flowing from one to the next unsaved.

The oracle runs the traces one by one with hooks, and carries the tensors over by hand.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import BadInput, GraphError, WriteTooEarly
from nnsight_lab.ir import Graph
from tests.support.hooks import forward, hooked, outputs_seen
from tests.support.tensors import assert_differs, assert_same

CLEAN, CORRUPTED = [[3, 10, 40, 7, 21]], [[3, 11, 41, 7, 22]]
BLOCK = "model.layers.2"


def _patched(module: Any, position: int = -1) -> torch.Tensor:
    """The corrupted prompt with the clean residual stream at one position, by hooks."""
    clean = outputs_seen(module, CLEAN, BLOCK)[BLOCK]
    clean = clean[0] if isinstance(clean, tuple) else clean

    def put(h: torch.Tensor) -> None:
        h[:, position] = clean[:, position]

    logits: torch.Tensor = hooked(module, CORRUPTED, after={BLOCK: put})["logits"]
    return logits


def test_a_value_flows_from_one_trace_to_the_next_without_being_saved(lm: Any) -> None:
    with lm.session() as session:
        with lm.trace(CLEAN):
            h = lm.layers[2].output
        with lm.trace(CORRUPTED):
            lm.layers[2].output[:, -1] = h[:, -1]
            logits = lm.logits.save()
    assert_same(logits, _patched(lm.module))
    assert_differs(logits, forward(lm.module, CORRUPTED))
    assert list(session.run) == ["logits"]


def test_prompts_differ_in_length_and_a_loop_makes_as_many_traces_as_it_likes(lm: Any) -> None:
    with lm.session():
        with lm.trace(CLEAN[0][:3]):
            mean = lm.layers[1].output.mean((0, 1))
        for position in range(3):
            with lm.trace(CORRUPTED):
                lm.layers[1].output[:, position] = mean
                last = lm.logits[:, -1].save()
    seen = outputs_seen(lm.module, [CLEAN[0][:3]], "model.layers.1")["model.layers.1"]
    seen = seen[0] if isinstance(seen, tuple) else seen

    def put(h: torch.Tensor) -> None:
        h[:, 2] = seen.mean((0, 1))

    expected = hooked(lm.module, CORRUPTED, after={"model.layers.1": put})["logits"][:, -1]
    assert_same(last, expected)


def test_invokes_and_generations_are_traces_of_a_session_too(lm: Any) -> None:
    with lm.session() as session:
        with lm.trace() as tracer:
            with tracer.invoke(CLEAN):
                h = lm.layers[2].output
            with tracer.invoke(CORRUPTED[0][:4]):
                short = lm.logits.save()
        with lm.generate(CORRUPTED, max_new_tokens=3, eos_token_id=[]) as tracer:
            for step in tracer.iter[:]:
                if step == 0:
                    lm.layers[2].output[:, -1] = h[:, -1]
            ids = tracer.result.save()
    assert_same(short, forward(lm.module, [CORRUPTED[0][:4]]), atol=1e-5)
    assert ids.shape == (1, 8)
    assert int(ids[0, 5]) == int(_patched(lm.module)[0, -1].argmax())
    assert session.run.steps == 4


def test_gradients_flow_across_traces(lm: Any) -> None:
    with lm.session():
        with lm.trace(CLEAN):
            h = lm.layers[2].output
        with lm.trace(CORRUPTED):
            lm.layers[2].output[:, -1] = h[:, -1]
            with lm.logits[0, -1, 5].backward():
                gradient = h.grad.save()
    leaf: list[torch.Tensor] = []

    def put(_: Any, __: Any, output: Any) -> Any:
        whole = output[0] if isinstance(output, tuple) else output
        new = torch.cat([whole[:, :-1], leaf[0][:, -1:]], dim=1)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    clean = outputs_seen(lm.module, CLEAN, BLOCK)[BLOCK]
    leaf.append((clean[0] if isinstance(clean, tuple) else clean).requires_grad_())
    handle = lm.module.get_submodule(BLOCK).register_forward_hook(put)
    loss = lm.module(torch.tensor(CORRUPTED), use_cache=False).logits[0, -1, 5]
    handle.remove()
    (expected,) = torch.autograd.grad(loss, leaf[0])
    assert_same(gradient, expected, atol=1e-5)
    assert float(gradient.abs().max()) > 0


def test_its_graph_survives_bytes_and_runs_again(lm: Any) -> None:
    with lm.session() as session:
        with lm.trace(CLEAN):
            h = lm.layers[2].output
        with lm.trace(CORRUPTED):
            lm.layers[2].output[:, -1] = h[:, -1]
            logits = lm.logits.save()
    graph = Graph.from_bytes(session.graph.to_bytes())
    assert graph == session.graph
    again = lm.run_inputs(graph, session.run.inputs)
    assert_same(again["logits"], logits, atol=0)


def test_any_module_has_sessions() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    net = nl.wrap(module)
    one, many = torch.randn(1, 4), torch.randn(3, 4)
    with net.session():
        with net.trace(one):
            first = net[0].output
        with net.trace(many):
            net[0].output[:] = first
            out = net[2].output.save()
    assert_same(out, module(one).detach().expand(3, 2))


def test_an_earlier_trace_cannot_take_from_a_later_one(lm: Any) -> None:
    with pytest.raises(WriteTooEarly), lm.session():
        with lm.trace(CLEAN):
            h = lm.layers[2].output
        with lm.trace(CORRUPTED):
            late = lm.layers[2].output
        h[:] = late


def test_a_session_without_a_trace_is_refused(lm: Any) -> None:
    with pytest.raises(GraphError, match="no trace"), lm.session():
        pass


def test_a_place_between_two_traces_has_no_prompt(lm: Any) -> None:
    with pytest.raises(GraphError, match="No prompt"), lm.session():
        with lm.trace(CLEAN):
            lm.logits.save()
        lm.logits.save()


def test_traces_of_a_session_do_not_nest(lm: Any) -> None:
    with pytest.raises(GraphError, match="already open"), lm.session():
        with lm.trace(CLEAN), lm.trace(CORRUPTED):
            lm.logits.save()


def test_an_empty_prompt_is_refused_at_its_line_and_the_model_stays_usable(lm: Any) -> None:
    with pytest.raises(BadInput), lm.session():
        with lm.trace([[]]):
            lm.logits.save()
    with lm.trace(CLEAN):
        logits = lm.logits.save()
    assert_same(logits, forward(lm.module, CLEAN))


@pytest.fixture(scope="module")
def lm() -> Any:
    return nl.LanguageModel("tiny")


def test_a_list_saved_in_the_session_comes_back_with_what_every_trace_put_in(lm: Any) -> None:
    with lm.session():
        logits = nl.save([])
        for prompt in ("a b", "c d"):
            with lm.trace(prompt):
                logits.append(lm.logits)

    with lm.trace("c d"):
        last = lm.logits.save()

    assert len(logits) == 2
    torch.testing.assert_close(logits[1], last)
