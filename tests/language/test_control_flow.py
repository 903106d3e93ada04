"""Choices and loops that the graph makes: `nl.cond`, `nl.foreach`, `nl.while_`.

    y = nl.cond(h.norm() > 100, lambda: h * 2, lambda: h)
    rows = nl.foreach(ids, lambda i: lm.embed.weight[i])
    x = nl.while_(lambda x: x.norm() > 1, lambda x: x / 2, h)

Each program runs in this process, through bytes, and on a server; what it must give is computed
by plain Python and hooks on the plain model. LONG takes the first branch of each test, SHORT the
other one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import nnsight_lab as nl
from nnsight_lab.errors import OpFailed
from tests.server.lab_server import TOKEN, serving, tiny_engine
from tests.support.hooks import hooked, outputs_seen

LONG = "When Mary and John went to the store"
SHORT = "The capital of France is"
PROMPTS = pytest.mark.parametrize("prompt", [LONG, SHORT])

Program = Callable[[Any], dict[str, Any]]
RunIt = Callable[[Program, str], dict[str, Any]]


@pytest.fixture(scope="module")
def tiny() -> nl.LanguageModel:
    """The bundled model."""
    return nl.LanguageModel("tiny")


@pytest.fixture(scope="module")
def far() -> Iterator[Any]:
    """The same model on a server."""
    with serving(("tiny", tiny_engine)) as lab, nl.connect(lab.url, TOKEN) as connected:
        yield connected.model("tiny")


@pytest.fixture(params=["local", "bytes", "server"])
def run(request: pytest.FixtureRequest, tiny: nl.LanguageModel) -> RunIt:
    """Runs a program in one of three ways, and gives what it saved."""

    def once(program: Program, prompt: str) -> dict[str, Any]:
        lm = request.getfixturevalue("far") if request.param == "server" else tiny
        with lm.trace(prompt, execute=request.param != "bytes") as tracer:
            tracer.save(**program(lm))
        if request.param != "bytes":
            return dict(tracer.run)
        graph = nl.Graph.from_bytes(tracer.graph.to_bytes())
        assert graph == tracer.graph
        return dict(lm.run(graph, prompt))

    return once


def ids_of(lm: nl.LanguageModel, prompt: str) -> list[list[int]]:
    return [list(row) for row in lm.tokenize(prompt).rows]


def layer(lm: nl.LanguageModel, prompt: str, index: int) -> torch.Tensor:
    """What a block returns in the plain model."""
    path = f"model.layers.{index}"
    found: torch.Tensor = outputs_seen(lm.module, ids_of(lm, prompt), path)[path]
    return found


# Choices


@PROMPTS
def test_a_choice_gives_what_the_branch_of_the_test_gives(
    run: RunIt, tiny: nl.LanguageModel, prompt: str
) -> None:
    def program(lm: Any) -> dict[str, Any]:
        h = lm.layers[0].output
        return {"y": nl.cond(h.norm() > 100, lambda: h * 2, lambda: h - 1)}

    h = layer(tiny, prompt, 0)
    assert (h.norm() > 100) == (prompt == LONG)
    torch.testing.assert_close(run(program, prompt)["y"], h * 2 if h.norm() > 100 else h - 1)


@PROMPTS
def test_branches_give_any_nest_of_values_numbers_and_plain_things(
    run: RunIt, tiny: nl.LanguageModel, prompt: str
) -> None:
    def program(lm: Any) -> dict[str, Any]:
        h = lm.layers[0].output
        long = h.norm() > 100
        found = nl.cond(
            long,
            lambda a: {"pair": (a, [a.sum(), 1.0]), "name": "h", "top": a[0, -1].topk(3).indices},
            lambda a: {"pair": (a + 1, [a.mean(), 2]), "name": "h", "top": a[0, 0].topk(3).indices},
            h,
        )
        assert found["name"] == "h"
        assert found["top"].shape == (3,)
        (first, (second, third)), top = found["pair"], found["top"]
        return {"first": first, "second": second, "third": third, "top": top}

    h, found = layer(tiny, prompt, 0), run(program, prompt)
    long = bool(h.norm() > 100)
    torch.testing.assert_close(found["first"], h if long else h + 1)
    torch.testing.assert_close(found["second"], h.sum() if long else h.mean())
    assert float(found["third"]) == (1.0 if long else 2)
    assert found["top"].tolist() == h[0, -1 if long else 0].topk(3).indices.tolist()


@PROMPTS
def test_an_edit_happens_if_its_branch_is_taken(
    run: RunIt, tiny: nl.LanguageModel, prompt: str
) -> None:
    def program(lm: Any) -> dict[str, Any]:
        view = lm.layers[2].output[:, -1]

        def stop_it() -> Any:
            lm.layers[2].output[:, -1] = 0
            lm.layers[3].mlp.output *= 2
            return lm.logits.sum()

        total = nl.cond(lm.layers[0].output.norm() > 100, stop_it, lm.logits.mean)
        return {"view": view, "total": total, "logits": lm.logits}

    found, ids = run(program, prompt), ids_of(tiny, prompt)
    clean = hooked(tiny.module, ids)["logits"]
    edits: Any = {"model.layers.2": _zero_last, "model.layers.3.mlp": lambda value: value * 2}
    expected = hooked(tiny.module, ids, after=edits if prompt == LONG else {})["logits"]
    torch.testing.assert_close(found["logits"], expected)
    assert torch.allclose(expected, clean) == (prompt == SHORT)
    torch.testing.assert_close(
        found["total"], expected.sum() if prompt == LONG else expected.mean()
    )
    assert (found["view"].abs().sum() == 0) == (prompt == LONG)


def _zero_last(value: torch.Tensor) -> torch.Tensor:
    changed = value.clone()
    changed[:, -1] = 0
    return changed


@PROMPTS
def test_both_branches_may_edit_the_same_place_and_choices_nest(
    run: RunIt, tiny: nl.LanguageModel, prompt: str
) -> None:
    def program(lm: Any) -> dict[str, Any]:
        h = lm.layers[0].output

        def small() -> None:
            lm.layers[1].output -= 1

        def triple() -> None:
            lm.layers[1].output *= 3

        def large() -> None:
            lm.layers[1].output += 1
            nl.cond(h.norm() > 105, triple, small)

        nl.cond(h.norm() > 100, large, small)
        return {"logits": lm.logits}

    h, ids = layer(tiny, prompt, 0), ids_of(tiny, prompt)
    change: Any = (lambda v: (v + 1) * 3) if h.norm() > 105 else (lambda v: v - 1)
    expected = hooked(tiny.module, ids, after={"model.layers.1": change})["logits"]
    torch.testing.assert_close(run(program, prompt)["logits"], expected)


@PROMPTS
def test_gradients_go_back_through_the_branch_that_was_taken(
    run: RunIt, tiny: nl.LanguageModel, prompt: str
) -> None:
    def program(lm: Any) -> dict[str, Any]:
        h = lm.layers[0].output
        scaled = nl.cond(h.norm() > 100, (h**2).sum, lambda: h.sum() * 3)
        rows = nl.foreach(h[0], lambda row: (row**3).sum())
        with (scaled + torch.stack(rows).sum()).backward():
            return {"grad": h.grad}

    h = layer(tiny, prompt, 0)
    expected = (2 * h if h.norm() > 100 else torch.full_like(h, 3.0)) + 3 * h**2
    torch.testing.assert_close(run(program, prompt)["grad"], expected)


def test_branches_of_two_shapes_give_a_value_whose_shape_is_peeked(
    run: RunIt, tiny: nl.LanguageModel
) -> None:
    def program(lm: Any) -> dict[str, Any]:
        h = lm.layers[0].output
        y = nl.cond(h.norm() > 100, lambda: h[0], lambda: h[0, -1])
        return {"y": y * 2}

    assert torch.equal(run(program, LONG)["y"], layer(tiny, LONG, 0)[0] * 2)
    assert torch.equal(run(program, SHORT)["y"], layer(tiny, SHORT, 0)[0, -1] * 2)
    with tiny.trace(SHORT) as tracer:
        h = tiny.layers[0].output
        shape = nl.cond(h.norm() > 100, lambda: h[0], lambda: h[0, -1]).shape
        h.save()
    assert shape == layer(tiny, SHORT, 0)[0, -1].shape
    assert tracer.run.peeks.count == 1


def test_a_plain_test_is_plain_python(tiny: nl.LanguageModel) -> None:
    calls = []
    with tiny.trace(SHORT) as tracer:
        y = nl.cond(True, tiny.layers[0].output.save, lambda: calls.append(1))
    assert calls == []
    assert "if" not in str(tracer.graph)
    assert torch.equal(y, layer(tiny, SHORT, 0))
    assert nl.cond(y.norm() > 100, lambda: 1, lambda: 2) == 2, "after the block as well"


# Loops


def test_foreach_over_a_known_length_gives_a_list(run: RunIt, tiny: nl.LanguageModel) -> None:
    def program(lm: Any) -> dict[str, Any]:
        top = lm.logits[0, -1].topk(3).indices
        rows = nl.foreach(top, lambda i: (lm.embed.weight[i], i + 1))
        assert len(rows) == 3
        assert rows[0][0].ndim == 1
        return {"rows": torch.stack([row for row, _ in rows]), "next": rows[2][1]}

    found, logits = run(program, LONG), hooked(tiny.module, ids_of(tiny, LONG))["logits"]
    top = logits[0, -1].topk(3).indices
    assert torch.equal(found["rows"], tiny.module.model.embed_tokens.weight[top])
    assert found["next"] == top[2] + 1


@PROMPTS
def test_foreach_over_an_unknown_length_gives_recorded_tuples(
    run: RunIt, tiny: nl.LanguageModel, prompt: str
) -> None:
    def program(lm: Any) -> dict[str, Any]:
        h = lm.layers[0].output
        made = nl.foreach((h[0, :, 0] > 0).nonzero(), lambda at: (h[0, at[0]], h[0, at[0]].norm()))
        rows, norms = made
        return {"rows": rows, "stacked": rows.stack(), "joined": rows.cat(), "norms": norms}

    h, found = layer(tiny, prompt, 0), run(program, prompt)
    rows = [h[0, at] for at in range(h.shape[1]) if h[0, at, 0] > 0]
    assert isinstance(found["rows"], tuple)
    assert len(found["rows"]) == len(rows) > 0
    assert torch.equal(found["stacked"], torch.stack(rows))
    assert torch.equal(found["joined"], torch.cat(rows))
    torch.testing.assert_close(torch.stack(found["norms"]), torch.stack([r.norm() for r in rows]))


@PROMPTS
def test_foreach_carries_values_and_edits_from_turn_to_turn(
    run: RunIt, tiny: nl.LanguageModel, prompt: str
) -> None:
    def program(lm: Any) -> dict[str, Any]:
        h = lm.layers[0].output
        place = lm.layers[2].output

        def step(at: Any, carry: Any) -> Any:
            count, sums = carry
            count += 1
            place[:, at] += count
            return (count, torch.cat([sums, place[0, at].sum().reshape(1)])), count * 2

        where = (h[0, :, 0] > 0).nonzero()[:, 0]
        (count, sums), doubled = nl.foreach(where, step, (0, torch.zeros(1)))
        return {"count": count, "sums": sums, "doubled": doubled, "logits": lm.logits}

    found, ids = run(program, prompt), ids_of(tiny, prompt)
    h, second = layer(tiny, prompt, 0), layer(tiny, prompt, 2)
    where = [at for at in range(h.shape[1]) if h[0, at, 0] > 0]
    sums = [0.0, *(float(second[0, at].sum()) + 128 * (k + 1) for k, at in enumerate(where))]
    assert int(found["count"]) == len(where) > 1
    assert [int(x) for x in found["doubled"]] == [2 * (k + 1) for k in range(len(where))]
    torch.testing.assert_close(found["sums"], torch.tensor(sums), rtol=1e-4, atol=1e-3)

    def add(value: torch.Tensor) -> torch.Tensor:
        changed = value.clone()
        for k, at in enumerate(where):
            changed[:, at] += k + 1
        return changed

    expected = hooked(tiny.module, ids, after={"model.layers.2": add})["logits"]
    torch.testing.assert_close(found["logits"], expected)


def test_a_loop_over_nothing_gives_nothing(run: RunIt, tiny: nl.LanguageModel) -> None:
    def program(lm: Any) -> dict[str, Any]:
        h = lm.layers[0].output
        assert nl.foreach(h[0, :0], lambda row: row) == []
        none = (h[0, :, 0] > 1e9).nonzero()
        carry, made = nl.foreach(none, lambda at, c: (c + at.sum(), at), h.sum())
        return {"carry": carry, "made": made}

    found = run(program, LONG)
    assert found["made"] == ()
    torch.testing.assert_close(found["carry"], layer(tiny, LONG, 0).sum())


@PROMPTS
def test_while_goes_on_as_long_as_its_test(run: RunIt, tiny: nl.LanguageModel, prompt: str) -> None:
    def program(lm: Any) -> dict[str, Any]:
        def halve(x: Any, count: Any) -> Any:
            lm.layers[1].output += 1
            return x / 2, count + 1

        h = lm.layers[0].output
        x, count = nl.while_(lambda x, count: x.norm() > 1, halve, h, 0, limit=20)
        return {"x": x, "count": count, "edited": lm.layers[1].output}

    h = layer(tiny, prompt, 0)
    turns = 0
    while h.norm() > 1:
        h, turns = h / 2, turns + 1
    found = run(program, prompt)
    torch.testing.assert_close(found["x"], h)
    assert int(found["count"]) == turns == 7
    torch.testing.assert_close(found["edited"], layer(tiny, prompt, 1) + turns)


@PROMPTS
def test_loops_and_choices_nest(run: RunIt, tiny: nl.LanguageModel, prompt: str) -> None:
    def program(lm: Any) -> dict[str, Any]:
        h = lm.layers[0].output

        def shrunk(row: Any) -> Any:
            small = nl.while_(lambda x: x.norm() > 1, lambda x: x / 3, row)
            return nl.cond(row.sum() > 0, lambda: small * 2, lambda: small)

        return {"rows": torch.stack(nl.foreach(h[0], shrunk))}

    rows = []
    for row in layer(tiny, prompt, 0)[0]:
        small = row
        while small.norm() > 1:
            small = small / 3
        rows.append(small * 2 if row.sum() > 0 else small)
    torch.testing.assert_close(run(program, prompt)["rows"], torch.stack(rows))


def test_plain_items_and_states_are_plain_python() -> None:
    assert nl.foreach([1, 2], lambda x: x * 2) == [2, 4]
    assert nl.foreach(range(3), lambda x, c: (c + x, -x), 10) == (13, [0, -1, -2])
    assert nl.while_(lambda x: x < 5, lambda x: x + 2, 0) == 6
    assert nl.while_(lambda a, b: a < b, lambda a, b: (b, a), 0, 1) == (1, 0)
    with pytest.raises(OpFailed, match="after 4 turns"):
        nl.while_(lambda x: True, lambda x: x, 0, limit=4)
