"""Ordinary Python in a block: `if`, `while`, `int()`, `print` on values that are not there yet.

What Python needs at once is run for it, with the edits made so far. The oracle is the plain model
with hooks in which the same Python decides on real tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import (
    LabError,
)
from tests.support.calls import blocks_of, calls_of
from tests.support.fixtures import IDS
from tests.support.hooks import forward, hooked, outputs_seen, tensor_of
from tests.support.small_models import LAYERS, SmallModel
from tests.support.tensors import assert_differs, assert_same

OTHER = [[9, 2, 44]]


# Decisions


def halved_where_large(family: SmallModel, limit: float) -> tuple[torch.Tensor, list[int]]:
    """By hand: each layer's last position is halved where its norm is above the limit."""
    chosen: list[int] = []

    def change(layer: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def decide(h: torch.Tensor) -> torch.Tensor:
            if h[0, -1].norm() > limit:
                chosen.append(layer)
                h = h.clone()
                h[0, -1] /= 2
            return h

        return decide

    after = {family.at(family.block, layer): change(layer) for layer in range(LAYERS)}
    logits = hooked(family.module, IDS, after=after)["logits"]
    return logits, chosen


def test_each_layer_is_edited_or_not_by_what_is_there(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """The decision at a layer sees the edits of the layers before it."""
    seen = outputs_seen(family.module, IDS, *(family.at(family.block, i) for i in range(LAYERS)))
    norms = sorted(float(tensor_of(h)[0, -1].norm()) for h in seen.values())
    limit = (norms[0] + norms[1]) / 2
    chosen = []
    with lm.trace(IDS) as tracer:
        for index, layer in enumerate(lm.layers):
            h = layer.output
            if h[0, -1].norm() > limit:
                chosen.append(index)
                h[0, -1] /= 2
        logits = lm.logits.save()

    expected, by_hand = halved_where_large(family, limit)
    assert chosen == by_hand
    assert 0 < len(chosen) < LAYERS
    assert_same(logits, expected)
    assert_differs(logits, forward(family.module, IDS))
    assert tracer.run.peeks.count == LAYERS


def test_a_loop_that_looks_and_then_goes_on_to_the_next_layer(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """`while` and `break` by a number of the model."""
    seen = outputs_seen(family.module, IDS, *(family.at(family.block, i) for i in range(LAYERS)))
    means = [float(tensor_of(h).abs().mean()) for h in seen.values()]
    first = max(range(LAYERS), key=means.__getitem__)
    with lm.trace(IDS):
        found = 0
        while lm.layers[found].output.abs().mean() < means[first] * 0.999:
            found += 1
        lm.layers[found].output[:] = 0
        logits = lm.logits.save()

    path = family.at(family.block, first)
    assert found == first
    assert_same(logits, hooked(family.module, IDS, after={path: torch.zeros_like})["logits"])


def test_a_number_becomes_an_index_and_a_constant(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS):
        best = int(lm.logits[0, -1].argmax())
        places = lm.layers[0].output[0].norm(dim=-1).topk(2).indices.tolist()
        top = lm.logits[0, -1, best].save()
        rows = [lm.layers[0].output[0, place].save() for place in places]

    plain = forward(family.module, IDS)
    path = family.at(family.block, 0)
    h = tensor_of(outputs_seen(family.module, IDS, path)[path])
    assert best == int(plain[0, -1].argmax())
    assert places == h[0].norm(dim=-1).topk(2).indices.tolist()
    assert_same(top, plain[0, -1].max())
    assert all(torch.equal(row, h[0, place]) for row, place in zip(rows, places, strict=True))


# Every way Python asks

ASKED: dict[str, Callable[[Any], Any]] = {
    "if": lambda x: "yes" if x.max() > 0 else "no",
    "not": lambda x: not (x.max() > 1e9),
    "int": lambda x: int(x.argmax()),
    "float": lambda x: float(x.max()),
    "complex": lambda x: complex(x.max()),
    "index": lambda x: list(range(2000))[x.argmax()],
    "range": lambda x: range(x.argmax()),
    "round": lambda x: round(x.max().item(), 3),
    "item": lambda x: x.max().item(),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy().sum().item(),
    "asarray": lambda x: np.asarray(x).shape,
    "array of a dtype": lambda x: np.array(x, dtype=np.float64).dtype,
    "math": lambda x: math.sqrt(abs(x.max())),
    "in": lambda x: (x[0, 0, 0].item() in x, 1e9 in x),
    "max": lambda x: float(max(x[0, 0, 0], x[0, 0, 1])),
    "sorted": lambda x: list(map(float, sorted(x[0, 0, :4]))),
    "format": lambda x: f"{x.max():.2f} and {x.min()}",
    "str": str,
    "print in a format": lambda x: f"{x[0, 0, :3]}",
    "torch.equal": lambda x: (torch.equal(x, x), torch.equal(x, x + 1), x.equal(x[0])),
    "allclose": lambda x: (torch.allclose(x, x + 1e-9), x.allclose(x + 1, atol=0.5)),
    "is_nonzero": lambda x: torch.is_nonzero(x.max()),
    "a size that values decide": lambda x: (x > 0).nonzero().shape,
    "a length that values decide": lambda x: len(x[x > 0]),
    "size()": lambda x: (x[x > 0].size(0), x[x > 0].numel(), x[x > 0].dim()),
    "a dtype that values decide": lambda x: (x[x > 0].dtype, x[x > 0].ndim),
    "iteration over what values decide": lambda x: [int(p[1]) for p in (x > 2.0).nonzero()],
    "all": lambda x: all(row.max() > -100 for row in x[0]),
}


@pytest.mark.parametrize("name", ASKED)
def test_python_gets_what_it_gets_of_the_tensor(llama: SmallModel, name: str) -> None:
    lm = nl.LanguageModel(llama.module)
    plain = forward(llama.module, IDS)
    with lm.trace(IDS) as tracer:
        found = ASKED[name](lm.logits)

    assert found == ASKED[name](plain)
    assert tracer.run.peeks.count >= 1
    assert type(found) is type(ASKED[name](plain))


def test_what_is_no_number_is_pythons_own_error(llama: SmallModel) -> None:
    lm = nl.LanguageModel(llama.module)
    with pytest.raises(ValueError, match="NaN to integer"), lm.trace(IDS):
        int(lm.logits.max() * float("nan"))


def test_round_gives_a_number(llama: SmallModel) -> None:
    lm = nl.LanguageModel(llama.module)
    with lm.trace(IDS):
        found = round(lm.logits.max(), 2), round(lm.logits.max())
    top = forward(llama.module, IDS).max().item()
    assert found == (round(top, 2), round(top))


def test_printing_a_value_shows_it(llama: SmallModel, capsys: pytest.CaptureFixture[str]) -> None:
    lm = nl.LanguageModel(llama.module)
    with lm.trace(IDS):
        print(lm.logits[0, -1, :3])
    assert capsys.readouterr().out == f"{forward(llama.module, IDS)[0, -1, :3]}\n"


def test_what_numpy_was_given_is_a_copy(llama: SmallModel) -> None:
    """Writing to it changes neither the model nor a second look."""
    lm = nl.LanguageModel(llama.module)
    with lm.trace(IDS):
        h = lm.layers[0].output
        array = h.numpy()
        array[:] = 7.0
        again = h.numpy()
        logits = lm.logits.save()
    assert not (again == 7.0).any()
    assert_same(logits, forward(llama.module, IDS))


def test_comparison_still_records(llama: SmallModel) -> None:
    lm = nl.LanguageModel(llama.module)
    with lm.trace(IDS) as tracer:
        same = (lm.logits == lm.logits).save()
    assert tracer.run.peeks.count == 0
    assert same.all()


def test_a_tuple_of_the_model_is_true_without_a_run(gpt2: SmallModel) -> None:
    lm = nl.LanguageModel(gpt2.module)
    with calls_of(lm.module) as calls, lm.trace(IDS):
        assert lm.transformer.h[0].attn.output
        assert calls == [0]


# What a peek costs


@pytest.mark.one_way
def test_a_peek_runs_the_model_only_as_deep_as_it_needs(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """An edit further on is not run either."""
    with lm.trace(IDS), calls_of(*blocks_of(family)) as calls:
        lm.layers[2].output[:] = 0
        assert lm.layers[0].output.norm() > 0
        assert calls == [1, 0, 0]


@pytest.mark.one_way
def test_the_same_question_twice_is_one_run(lm: nl.LanguageModel, family: SmallModel) -> None:
    with calls_of(blocks_of(family)[0]) as calls, lm.trace(IDS) as tracer:
        h = lm.layers[0].output
        for _ in range(3):
            assert h.norm() > 0
        lm.layers[0].output[:] = 1.0  # does not change what h was
        assert bool(lm.layers[1].output.norm() > 0) in (True, False)
        assert calls == [2]
    assert tracer.run.peeks.count == 2
    assert tracer.run.peeks.seconds > 0
    assert "2 peeks" in repr(tracer.run)


def test_a_peek_leaves_nothing_in_the_graph(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS) as one:
        logits = lm.logits.save()
    with lm.trace(IDS) as other:
        if lm.layers[1].output.norm() > 0 and 3 in lm.logits.argmax(-1):
            pass
        logits = lm.logits.save()
    assert one.graph == other.graph
    assert logits.shape == (1, 6, 61)
    assert one.run.peeks.count == 0
    assert "peek" not in repr(one.run)


def test_the_graph_keeps_the_decision(lm: nl.LanguageModel, family: SmallModel) -> None:
    """It is data: on another prompt it does what was decided on the first."""
    plain = forward(family.module, IDS)
    with lm.trace(IDS) as tracer:
        best = int(lm.logits[0, -1].argmax())
        logit = lm.logits[0, -1, best].save()
    graph = nl.Graph.from_bytes(tracer.graph.to_bytes())
    there = forward(family.module, OTHER)

    assert_same(logit, plain[0, -1].max())
    assert int(there[0, -1].argmax()) != best
    assert_same(lm.run(graph, OTHER)["logit"], there[0, -1, best])


# What was edited so far


def test_a_peek_sees_the_edits_before_its_line(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS):
        lm.layers[0].output[:, -1] += 3.0
        before = lm.layers[1].output[0, -1, 0].item()
        lm.layers[1].output[:, -1] += 1.0
        after = lm.layers[1].output[0, -1, 0].item()
        loud = float(lm.logits.max())

    def add(amount: float) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda h: torch.cat([h[:, :-1], h[:, -1:] + amount], 1)

    first, second = (family.at(family.block, i) for i in (0, 1))
    clean = outputs_seen(family.module, IDS, second)[second]
    seen = hooked(family.module, IDS, after={first: add(3.0)}, see=(second,))
    both = hooked(family.module, IDS, after={first: add(3.0), second: add(1.0)})
    expected = float(tensor_of(seen[second])[0, -1, 0])
    assert before == pytest.approx(expected, abs=1e-5)
    assert after == pytest.approx(expected + 1.0, abs=1e-5)
    assert loud == pytest.approx(float(both["logits"].max()), abs=1e-5)
    assert abs(before - float(tensor_of(clean)[0, -1, 0])) > 1e-3


def test_a_saved_value_is_peeked_as_it_was_saved(lm: nl.LanguageModel) -> None:
    with lm.trace(IDS):
        old = lm.layers[0].output.save()
        lm.layers[0].output[:] = 0
        assert old.abs().max() > 0
        assert lm.layers[0].output.abs().max() == 0
    assert old.abs().max() > 0


def test_a_gradient_can_be_looked_at(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace(IDS):
        h = lm.layers[1].output
        with lm.logits[0, -1, 7].backward():
            size = float(h.grad.norm())
            gradient = h.grad.save()
        lm.layers[0].output.save()

    assert size == pytest.approx(float(gradient.norm()))
    assert size > 0


# Any module


def test_a_wrapped_module_is_looked_into_as_well() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    x = torch.randn(3, 4)
    net = nl.wrap(plain)
    with net.trace(x):
        active = int((net[1].output > 0).sum())
        dead = [i for i in range(8) if not (net[1].output[:, i] > 0).any()]
        net[1].output[:, 0] = float(active)
        out = net[2].output.save()

    hidden = plain[1](plain[0](x)).detach()
    assert active == int((hidden > 0).sum())
    assert dead == [i for i in range(8) if not (hidden[:, i] > 0).any()]
    hidden[:, 0] = active
    assert_same(out, plain[2](hidden).detach())
    with pytest.raises(LabError) as caught, net.trace(x, peek=False):
        int(net[1].output.sum())
    assert caught.value.code == "value-not-known"
