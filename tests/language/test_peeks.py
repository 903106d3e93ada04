"""Ordinary Python in a block: `if`, `while`, `int()`, `print` on values that are not there yet.

What Python needs at once is run for it, with the edits made so far. The oracle is the plain model
with hooks in which the same Python decides on real tensors.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import (
    BadInput,
    LabError,
    NotSaved,
    OpFailed,
    PeekContradicted,
    ShapeMismatch,
    ValueNotKnown,
)
from tests.support.fixtures import IDS
from tests.support.hooks import forward, hooked, outputs_seen, tensor_of
from tests.support.lines import assert_at, frames_of_ours
from tests.support.small_models import LAYERS, SmallModel
from tests.support.tensors import assert_differs, assert_same

OTHER = [[9, 2, 44]]


@contextmanager
def calls_of(*modules: torch.nn.Module) -> Iterator[list[int]]:
    """How often each module is called in the block."""
    counts = [0] * len(modules)

    def count(index: int) -> Any:
        def hook(*_: Any) -> None:
            counts[index] += 1

        return modules[index].register_forward_pre_hook(hook)

    handles = [count(index) for index in range(len(modules))]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def blocks_of(family: SmallModel) -> list[torch.nn.Module]:
    return [family.module.get_submodule(family.at(family.block, i)) for i in range(LAYERS)]


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
    "str": lambda x: str(x),
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


def test_a_peek_runs_the_model_only_as_deep_as_it_needs(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    """An edit further on is not run either."""
    with lm.trace(IDS), calls_of(*blocks_of(family)) as calls:
        lm.layers[2].output[:] = 0
        assert lm.layers[0].output.norm() > 0
        assert calls == [1, 0, 0]


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


# Contradictions


def _contradicted(lm: Any, block: Callable[[Any], Any]) -> PeekContradicted:
    with pytest.raises(PeekContradicted) as caught, lm.trace(IDS):
        block(lm)
    assert caught.value.hint
    assert frames_of_ours(caught.value) <= 1
    return caught.value


def test_an_edit_that_would_change_what_was_seen_names_both_lines(lm: nl.LanguageModel) -> None:
    with pytest.raises(PeekContradicted) as caught, lm.trace(IDS):
        if lm.layers[2].output.norm() > 0:  # the peek
            lm.layers[1].output[:] = 0  # the edit
    error = caught.value
    assert_at(error, "the edit")
    assert error.where is not None
    assert f"line {error.where.line - 1}" in error.message
    assert "if lm.layers[2].output.norm() > 0" in error.message
    assert "around the trace" in error.hint
    assert frames_of_ours(error) <= 1


def test_a_loop_that_edits_and_looks_at_what_comes_after_goes_around_the_trace(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    with pytest.raises(PeekContradicted) as caught, lm.trace(IDS):
        while lm.logits[0, -1].max() > 0.5:
            lm.layers[1].output[:, -1] *= 0.5  # again and again
    assert_at(caught.value, "again and again")

    scale, top = 1.0, math.inf
    while top > 1.0 and scale > 1e-3:
        scale /= 2
        with lm.trace(IDS):
            lm.layers[1].output[:, -1] *= scale
            top = float(lm.logits[0, -1, 5])
    path = family.at(family.block, 1)

    def scaled(h: torch.Tensor) -> torch.Tensor:
        return torch.cat([h[:, :-1], h[:, -1:] * scale], 1)

    by_hand = hooked(family.module, IDS, after={path: scaled})
    assert top == pytest.approx(float(by_hand["logits"][0, -1, 5]), abs=1e-5)


@pytest.mark.parametrize(
    "block",
    [
        lambda lm: (bool(lm.logits.max() > 0), lm.layers[0].input.mul_(2)),
        lambda lm: (int(lm.logits.argmax()), setattr(lm.layers[2], "output", lm.layers[2].input)),
        lambda lm: (print(lm.layers[1].output), lm.layers[1].attn.output.mul_(0)),
        lambda lm: (lm.layers[1].attn.z.tolist(), lm.layers[1].attn.v.add_(1.0)),
        lambda lm: ((lm.logits > 0).nonzero().shape, lm.layers[0].output.mul_(2)),
    ],
)
def test_no_edit_before_what_was_seen(
    lm: nl.LanguageModel, block: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    error = _contradicted(lm, block)
    assert error.where is not None
    assert error.where.file == __file__


@pytest.mark.parametrize(
    "block",
    [
        lambda lm: (bool(lm.layers[1].output.max() > 0), lm.layers[1].output.mul_(2)),
        lambda lm: (bool(lm.layers[1].output.max() > 0), lm.layers[2].attn.output.mul_(2)),
        lambda lm: (bool(lm.layers[1].input.max() > 0), lm.layers[1].attn.output.mul_(2)),
        lambda lm: (bool(lm.norm.weight.max() > 0), lm.embed.output.mul_(2)),
        lambda lm: (bool(lm.logits.max() > 0), lm.logits.mul_(2)),
    ],
)
def test_an_edit_of_what_was_seen_or_of_what_comes_after_is_fine(
    lm: nl.LanguageModel, family: SmallModel, block: Callable[[Any], Any]
) -> None:
    with lm.trace(IDS):
        block(lm)
        logits = lm.logits.save()
    assert_differs(logits, forward(family.module, IDS))


def test_after_a_look_at_a_gradient_the_model_stays_as_it_is(lm: nl.LanguageModel) -> None:
    for layer in range(LAYERS):
        with pytest.raises(PeekContradicted), lm.trace(IDS):
            h = lm.layers[1].output
            with lm.logits[0, -1, 7].backward():
                assert h.grad.norm() > 0
            lm.layers[layer].output[:] = 0


# Several prompts


def test_each_invoke_decides_for_its_own_rows(lm: nl.LanguageModel, family: SmallModel) -> None:
    """An edit of one invoke does not contradict what was seen in another."""
    kept, chosen = [], []
    with lm.trace() as tracer:
        for ids in (IDS, OTHER, IDS):
            with tracer.invoke(ids):
                best = int(lm.logits[0, -1].argmax())
                chosen.append(best)
                lm.logits[..., best] -= 1.0
                kept.append(lm.logits[0, -1].save())

    for ids, best, logits in zip((IDS, OTHER, IDS), chosen, kept, strict=True):
        plain = forward(family.module, ids)[0, -1]
        assert best == int(plain.argmax())
        plain[best] -= 1.0
        assert_same(logits, plain, atol=1e-5)


def test_layers_of_a_later_invoke_may_be_edited(lm: nl.LanguageModel, family: SmallModel) -> None:
    with lm.trace() as tracer:
        with tracer.invoke(IDS):
            best = int(lm.logits[0, -1].argmax())
        with tracer.invoke(OTHER):
            lm.layers[0].output[:] = 0.0
            logits = lm.logits.save()
            assert int(logits[0, -1].argmax()) in range(61)

    path = family.at(family.block, 0)
    zeroed = hooked(family.module, OTHER, after={path: torch.zeros_like})["logits"]
    assert best == int(forward(family.module, IDS)[0, -1].argmax())
    assert_same(logits, zeroed, atol=1e-5)


def test_an_edge_between_invokes_carries_a_contradiction(lm: nl.LanguageModel) -> None:
    with pytest.raises(PeekContradicted) as caught, lm.trace() as tracer:
        with tracer.invoke(IDS):
            h = lm.layers[1].output[:, -1]
        with tracer.invoke(OTHER):
            lm.layers[1].output[:, -1] = h
            assert lm.logits.max() > -100
        with tracer.invoke():
            lm.layers[0].output[:] = 0  # of all rows
    assert_at(caught.value, "of all rows")


def test_an_edit_of_the_invoke_a_value_came_from_contradicts(lm: nl.LanguageModel) -> None:
    with pytest.raises(PeekContradicted) as caught, lm.trace() as tracer:
        with tracer.invoke(IDS):
            low, high = lm.layers[0].output, lm.layers[1].output[:, -1]
        with tracer.invoke(OTHER):
            lm.layers[1].output[:, -1] = high
            assert lm.logits.max() > -100
            low[:] = 0  # where it came from
    assert_at(caught.value, "where it came from")


# Where nothing may run


def test_peeks_can_be_forbidden(lm: nl.LanguageModel) -> None:
    for how in ({"peek": False}, {"execute": False}):
        with calls_of(lm.module) as calls:
            with pytest.raises(ValueNotKnown) as caught, lm.trace(IDS, **how):
                _ = 1 if lm.logits.max() > 0 else 2  # the question
            with pytest.raises(ValueNotKnown), lm.trace(IDS, **how):
                (lm.logits > 0).nonzero().shape  # noqa: B018
            assert calls == [0]
        assert_at(caught.value, "the question")
        assert "torch.where" in caught.value.hint


def test_looking_at_a_value_as_a_debugger_does_runs_nothing(lm: nl.LanguageModel) -> None:
    with calls_of(lm.module) as calls, lm.trace(IDS):
        h = lm.layers[0].output
        shown = repr(h), repr([h]), f"{h!r}", "%r" % h  # noqa: UP031
        for name in ("_repr_html_", "_repr_mimebundle_", "_ipython_display_", "__array_interface__"):
            assert not hasattr(h, name)
        assert calls == [0]
    assert all("<recorded float32[1, 6, 32] at layers.0.output>" in text for text in shown)


def test_once_the_block_has_ended_nothing_runs(lm: nl.LanguageModel) -> None:
    """Also when it ended with an error whose text holds a value."""
    with pytest.raises(ValueError) as caught, lm.trace(IDS):  # noqa: PT011
        h = lm.layers[0].output
        raise ValueError(h)
    with calls_of(lm.module) as calls:
        assert str(caught.value) == repr(h)
        with pytest.raises(NotSaved):
            bool(h.norm() > 0)
        assert calls == [0]


def test_pickling_stays_refused(lm: nl.LanguageModel) -> None:
    with pytest.raises(ValueNotKnown), lm.trace(IDS):
        pickle.dumps(lm.logits)


# Mistakes


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda h: h.item(), "scalar"),
        (lambda h: bool(h), "ambiguous"),
        (lambda h: float(h), "one element|scalar"),
        (lambda h: [1, 2][h.max()], "index"),
        (lambda h: f"{h:.2f}", "format"),
        (lambda h: h.bfloat16().numpy(), "BFloat16"),
        (lambda h: h in [h + 1], "ambiguous"),
    ],
)
def test_what_torch_refuses_is_refused_before_a_run(
    lm: nl.LanguageModel, ask: Callable[[Any], Any], says: str
) -> None:
    with (
        calls_of(lm.module) as calls,
        pytest.raises(ShapeMismatch, match=says) as caught,
        lm.trace(IDS),
    ):
        ask(lm.layers[0].output)
    assert calls == [0]
    assert caught.value.where is not None
    assert caught.value.where.file == __file__
    assert caught.value.hint
    assert frames_of_ours(caught.value) <= 1


def test_an_item_of_many_that_only_the_run_can_count(lm: nl.LanguageModel) -> None:
    with pytest.raises(ShapeMismatch) as caught, lm.trace(IDS):
        lm.logits[lm.logits > -100].item()  # too many
    assert_at(caught.value, "too many")


def test_an_error_of_the_run_is_raised_at_the_peek(lm: nl.LanguageModel) -> None:
    """It names the line of the operation that failed; the traceback ends at the peek."""
    with pytest.raises(OpFailed) as caught, lm.trace(IDS):
        broken = torch.linalg.cholesky(-torch.eye(32) + 0 * lm.layers[0].output[0, :1, :1])  # fails
        if broken.sum() > 0:  # asked here
            pass
    assert_at(caught.value, "fails")
    last = caught.traceback[-2] if frames_of_ours(caught.value) else caught.traceback[-1]
    assert "if broken.sum() > 0" in str(last.statement)
    assert frames_of_ours(caught.value) <= 1


def test_before_the_first_prompt_there_is_nothing_to_run_on(lm: nl.LanguageModel) -> None:
    with pytest.raises(BadInput) as caught, lm.trace():
        bool(lm.norm.weight.max() > 0)  # no prompt yet
    assert_at(caught.value, "no prompt yet")


def test_an_interrupt_during_a_peek_ends_the_block_and_leaves_the_model_clean(
    lm: nl.LanguageModel, family: SmallModel
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = blocks_of(family)[1].register_forward_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), lm.trace(IDS):
            bool(lm.layers[2].output.norm() > 0)
    finally:
        handle.remove()
    with lm.trace(IDS):
        logits = lm.logits.save()
    assert_same(logits, forward(family.module, IDS))


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
