"""`module.skip(value)`: the module does not run, and its output is the value.

    lm.layers[1].skip(lm.layers[0].output)

The oracle is the plain model with that module's `forward` replaced by hand.

The page: `docs/reference/skip.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from nnsight_lab.errors import (
    AddressNotFound,
    GraphError,
    NotSupported,
    OpFailed,
    ShapeMismatch,
    WriteTooEarly,
)
from nnsight_lab.ir import Address, Graph, Output, Read, Skip
from tests.server.lab_server import Serving
from tests.support.family_models import family_model
from tests.support.fixtures import IDS
from tests.support.hooks import forward, outputs_seen, tensor_of
from tests.support.lines import assert_at, frames_of_ours
from tests.support.small_models import SmallModel
from tests.support.tensors import assert_differs, assert_exactly, assert_same
from tests.support.three_ways import assert_three_ways

PROMPT = "The capital of France is"


@contextmanager
def replaced(model: nn.Module, path: str, new: Callable[..., Any]) -> Iterator[None]:
    """By hand: another forward for one module."""
    module = model.get_submodule(path)
    module.forward = new
    try:
        yield
    finally:
        del module.forward


def own_forwards(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


def test_a_skipped_block_hands_on_the_value(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS):
        given = lm.layers[0].output
        lm.layers[1].skip(given)
        out = lm.layers[1].output.save()
        logits = lm.logits.save()

    model = family.module
    blocks = [family.at(family.block, index) for index in range(2)]
    seen = outputs_seen(model, IDS, *blocks)
    as_tuple = isinstance(seen[blocks[1]], tuple)
    with replaced(model, blocks[1], lambda x, *_, **__: (x,) if as_tuple else x):
        expected = forward(model, IDS)
    assert_same(logits, expected)
    assert_differs(logits, forward(model, IDS))
    assert_exactly(out, tensor_of(seen[blocks[0]]))
    assert own_forwards(model) == []


def test_an_attention_that_gives_a_tuple_is_skipped_with_one_tensor(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """What else it gives is what such modules give when there is nothing: None."""
    attn = family.at(family.attn, 1)
    given = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(0))
    with lm.trace(IDS):
        lm.layers[1].attn.skip(given)
        alone = lm.logits.save()
    with lm.trace(IDS):
        lm.layers[1].attn.skip((given * 1, None))
        both = lm.logits.save()

    with replaced(family.module, attn, lambda *_, **__: (given, None)):
        expected = forward(family.module, IDS)
    assert_same(alone, expected)
    assert_same(both, expected)
    assert_differs(alone, forward(family.module, IDS))


def test_its_input_is_read_and_its_output_edited_as_ever(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.trace(IDS):
        mlp = lm.layers[1].mlp
        mlp.skip(mlp.input * 0.5)
        mlp.output[:, -1] = 1.0
        out = mlp.output.save()
        logits = lm.logits.save()

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        half = x * 0.5
        half[:, -1] = 1.0
        return half

    with replaced(family.module, family.at(family.mlp, 1), by_hand):
        seen = outputs_seen(family.module, IDS, family.at(family.mlp, 1))
        expected = forward(family.module, IDS)
    assert_same(out, seen[family.at(family.mlp, 1)])
    assert_same(logits, expected)
    assert_differs(logits, forward(family.module, IDS))


def test_a_number_and_a_line_before_the_reads_will_do(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """Lines may come in any order; `skip(0)` is an ablation."""
    with lm.trace(IDS):
        logits = lm.logits.save()
        out = lm.layers[2].mlp.output.save()
        lm.layers[2].mlp.skip(0)

    with replaced(family.module, family.at(family.mlp, 2), torch.zeros_like):
        expected = forward(family.module, IDS)
    assert_same(logits, expected)
    assert out.abs().max() == 0


def test_gradients_go_through_the_value(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS):
        h = lm.layers[0].output
        lm.layers[1].skip(h * 2)
        with lm.logits[0, -1, 7].backward():
            gradient = h.grad.save()

    kept: list[torch.Tensor] = []
    blocks = [family.at(family.block, index) for index in range(2)]
    handle = family.module.get_submodule(blocks[0]).register_forward_hook(
        lambda _, __, out: kept.append(tensor_of(out))
    )
    as_tuple = isinstance(outputs_seen(family.module, IDS, blocks[1])[blocks[1]], tuple)
    kept.clear()
    with replaced(family.module, blocks[1], lambda x, *_, **__: (x * 2,) if as_tuple else x * 2):
        logits = family.module(torch.tensor(IDS), use_cache=False).logits
    handle.remove()
    (expected,) = torch.autograd.grad(logits[0, -1, 7], kept)
    assert_same(gradient, expected)


def test_the_three_ways(tiny: nl.LanguageModel, lab: Serving) -> None:
    with tiny.trace(PROMPT) as tracer:
        tiny.layers[1].skip(tiny.layers[0].output * 0.5)
        logits = tiny.logits.save()

    ids = [list(row) for row in tiny.tokenize(PROMPT).rows]
    with replaced(tiny.module, "model.layers.1", lambda x, *_, **__: x * 0.5):
        assert_same(logits, forward(tiny.module, ids), atol=1e-5)
    assert_differs(logits, forward(tiny.module, ids))
    assert "skip model.layers.1 <-" in str(tracer.graph)
    assert_three_ways(tiny, tracer, lab)


class Twice(nn.Module):
    """Calls one part twice, and gives a tuple and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(4, 4)
        self.pair = Pair()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        first, second = self.pair(self.part(self.part(x)))
        return {"first": first, "second": second}


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 1, x * 2


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(7))


def test_one_of_two_calls_is_skipped() -> None:
    module = Twice()
    net = nl.wrap(module)
    with net.trace(X):
        net.part.skip(X)
        one = net.output["first"].save()
    with net.trace(X):
        net.part.calls[1].skip(net.part.calls[0].output * 3)
        two = net.output["first"].save()

    assert_same(one, module.part(X).detach() + 1)
    assert_same(two, module.part(X).detach() * 3 + 1)


def test_a_tuple_of_tensors_is_given_whole() -> None:
    module = Twice()
    net = nl.wrap(module)
    with net.trace(X):
        net.pair.skip((X, net.pair.input))
        out = net.output.save()
    assert_same(out["first"], X)
    assert_same(out["second"], module.part(module.part(X)).detach())

    with pytest.raises(ShapeMismatch) as caught, net.trace(X):
        net.pair.skip(X)  # one of two
    assert_at(caught.value, "one of two")
    with pytest.raises(ShapeMismatch), net.trace(X):
        net.pair.skip((X, X, X))


def test_nothing_stays_behind_after_an_error(tiny: nl.LanguageModel) -> None:
    with pytest.raises(OpFailed), tiny.trace(PROMPT):
        tiny.layers[1].skip(tiny.layers[0].output)
        index = tiny.logits.argmax() + 10**6
        tiny.logits[0, 0][index].save()

    assert own_forwards(tiny.module) == []
    ids = [list(row) for row in tiny.tokenize(PROMPT).rows]
    with tiny.trace(PROMPT):
        logits = tiny.logits.save()
    assert_same(logits, forward(tiny.module, ids), atol=1e-5)


def test_the_module_may_still_be_called_out_of_its_order(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with lm.trace(IDS):
        mlp = lm.layers[1].mlp
        own = mlp(mlp.input).save()
        mlp.skip(0)
        given = mlp.input.save()

    expected = family.module.get_submodule(family.at(family.mlp, 1))(given).detach()
    assert_same(own, expected)
    assert_differs(own, torch.zeros_like(own))


# What cannot be


def test_a_value_of_the_future_is_refused(lm: nl.LanguageModel) -> None:
    with pytest.raises(WriteTooEarly) as caught, lm.trace(IDS):
        late = lm.layers[2].output
        lm.layers[1].skip(late)  # not there yet

    assert_at(caught.value, "not there yet")
    assert "line" in caught.value.message
    assert frames_of_ours(caught.value) <= 1
    with pytest.raises(WriteTooEarly), lm.trace(IDS):
        lm.layers[1].skip(lm.layers[1].output)


def test_what_is_inside_a_skipped_module_cannot_be_read(lm: nl.LanguageModel) -> None:
    with pytest.raises(GraphError) as caught, lm.trace(IDS):
        lm.layers[1].skip(lm.layers[0].output)
        lm.layers[1].attn.q.save()  # never computed
    assert_at(caught.value, "never computed")

    with pytest.raises(GraphError) as caught, lm.trace(IDS):
        lm.layers[1].mlp.output[:] = 0.0
        lm.layers[1].skip(lm.layers[0].output)  # around what was edited
    assert_at(caught.value, "around what was edited")
    assert str(caught.value.message).count("line") == 2

    with pytest.raises(GraphError), lm.trace(IDS):
        lm.layers[1].mlp.skip(0)
        lm.layers[1].skip(lm.layers[0].output)
    with pytest.raises(GraphError), lm.trace(IDS):
        lm.layers[1].skip(lm.layers[0].output)
        lm.layers[1].mlp.skip(0)


def test_a_value_of_another_shape_is_refused(lm: nl.LanguageModel) -> None:
    with pytest.raises(ShapeMismatch) as caught, lm.trace(IDS):
        lm.layers[1].skip(torch.zeros(3))  # too small
    assert_at(caught.value, "too small")


def test_skipping_twice_and_skipping_what_does_not_run_are_refused(lm: nl.LanguageModel) -> None:
    with pytest.raises(GraphError) as caught, lm.trace(IDS):
        lm.layers[1].mlp.skip(0)
        lm.layers[1].mlp.skip(1)  # once more
    assert_at(caught.value, "once more")
    with pytest.raises(AddressNotFound) as missing, lm.trace(IDS):
        lm.layers.skip(0)  # a list of modules
    assert_at(missing.value, "a list of modules")
    with pytest.raises(GraphError):
        lm.layers[1].skip(0)


def test_one_invoke_cannot_skip_for_all(tiny: nl.LanguageModel) -> None:
    with pytest.raises(NotSupported) as caught, tiny.trace() as tracer, tracer.invoke(PROMPT):
        tiny.layers[1].skip(0)  # of this prompt only
    assert_at(caught.value, "of this prompt only")

    with tiny.trace() as tracer:
        with tracer.invoke(PROMPT):
            logits = tiny.logits.save()
        with tracer.invoke():
            tiny.layers[1].mlp.skip(0)
    ids = [list(row) for row in tiny.tokenize(PROMPT).rows]
    with replaced(tiny.module, "model.layers.1.mlp", torch.zeros_like):
        assert_same(logits, forward(tiny.module, ids), atol=1e-5)


@pytest.mark.parametrize(
    ("path", "port", "error"),
    [("layers.1", "output", AddressNotFound), ("model.layers.1", "input", AddressNotFound)],
)
def test_a_graph_from_anybody_is_checked(
    tiny: nl.LanguageModel, path: str, port: str, error: type[Exception]
) -> None:
    read = Read(id=0, address=Address("layers.0"))
    skip = Skip(id=1, address=Address(path, port), value=0)
    with pytest.raises(error):
        tiny.run(Graph((read, skip), (Output("h", 0),)), PROMPT)


def test_a_graph_that_reads_inside_is_refused_before_it_runs(tiny: nl.LanguageModel) -> None:
    read = Read(id=0, address=Address("layers.0"))
    skip = Skip(id=1, address=Address("model.layers.1"), value=0)
    inside = Read(id=2, address=Address("layers.1.attn", "q"))
    with pytest.raises(GraphError, match="skipped"):
        tiny.run(Graph((read, skip, inside), (Output("q", 2),)), PROMPT)
    late = Read(id=0, address=Address("layers.2"))
    with pytest.raises(WriteTooEarly):
        tiny.run(Graph((late, skip), (Output("h", 0),)), PROMPT)


def test_a_block_that_gives_more_than_its_stream_says_what_to_give() -> None:
    lm = nl.LanguageModel(family_model("bloom").module)
    with pytest.raises(ShapeMismatch) as caught, lm.trace(IDS):
        lm.layers[1].skip(lm.layers[0].output)
    assert "module.skip((value, torch.zeros(1, 4, 6, 6)))" in (caught.value.hint or "")

    with lm.trace(IDS):
        stream = lm.layers[0].output
        lm.layers[1].skip((stream, torch.zeros(1, 4, 6, 6)))  # what the hint says
        logits = lm.logits.save()
    with lm.trace(IDS):
        lm.layers[1].output = lm.layers[0].output
        expected = lm.logits.save()
    with lm.trace(IDS):
        plain = lm.logits.save()
    assert_exactly(logits, expected)
    assert_differs(logits, plain)
