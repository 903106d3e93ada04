"""After a block every saved name is a real tensor, wherever the block stands."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import nnsight_lab as nl
from tests.support.lines import assert_at
from tests.support.tensors import assert_exactly

MODULE = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
X = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
FIRST = MODULE[0](X).detach()
net = nl.wrap(MODULE)

with net.trace(X) as module_tracer:
    at_module_level = net[0].output.save()
    listed_at_module_level = [net[0].output.save()]

SAVED_GLOBAL: Any = None
LISTED_GLOBAL: list[Any] = []


def test_at_module_level() -> None:
    assert_exactly(at_module_level, FIRST)
    assert_exactly(listed_at_module_level[0], FIRST)
    assert set(module_tracer.run) == {"at_module_level", "listed_at_module_level[0]"}


def test_in_a_function() -> None:
    with net.trace(X) as tracer:
        h = net[0].output.save()
    assert_exactly(h, FIRST)
    assert tracer.run["h"] is h
    assert list(tracer.run) == ["h"]


def test_as_a_parameter_and_a_deleted_name() -> None:
    def fill(h: Any, gone: Any) -> Any:
        with net.trace(X):
            h = net[0].output.save()
            gone = h
            del gone
        return h

    assert_exactly(fill(None, None), FIRST)


def test_in_a_closure_and_a_nested_function() -> None:
    """Variables of the enclosing function, and those an inner one uses."""
    outer: Any = None

    def inner() -> Any:
        nonlocal outer
        with net.trace(X):
            outer = net[0].output.save()
            used_below = net[0].output.save()

        def below() -> Any:
            return used_below

        return below()

    assert_exactly(inner(), FIRST)
    assert_exactly(outer, FIRST)


def test_a_global_written_from_a_function() -> None:
    global SAVED_GLOBAL  # noqa: PLW0603
    LISTED_GLOBAL.clear()
    with net.trace(X):
        SAVED_GLOBAL = net[0].output.save()
        LISTED_GLOBAL.append(net[0].output.save())
    assert_exactly(SAVED_GLOBAL, FIRST)
    assert_exactly(LISTED_GLOBAL[0], FIRST)


def test_in_a_method_and_a_class_body() -> None:
    class Probe:
        with net.trace(X):
            in_body = net[0].output.save()

        def look(self) -> Any:
            with net.trace(X):
                h = net[0].output.save()
            return h

    assert_exactly(Probe.in_body, FIRST)
    assert_exactly(Probe().look(), FIRST)


def test_in_a_generator() -> None:
    """Also when the block itself waits at a `yield`."""

    def looks() -> Iterator[Any]:
        for _ in range(2):
            with net.trace(X):
                h = net[0].output.save()
                yield "inside"
            yield h

    first, second, third, fourth = looks()
    assert (first, third) == ("inside", "inside")
    assert_exactly(second, FIRST)
    assert_exactly(fourth, FIRST)


def test_in_a_loop_and_a_comprehension() -> None:
    """Names are written anew each time; a comprehension's list is filled."""
    for scale in (1.0, 2.0):
        with net.trace(X):
            h = (net[0].output * scale).save()
            parts = [(net[0].output + k).save() for k in range(3)]
            named = {k: net[k].output.save() for k in range(2)}
        assert_exactly(h, FIRST * scale)
        for k, part in enumerate(parts):
            assert_exactly(part, FIRST + k)
        assert_exactly(named[0], FIRST)


def test_through_exec() -> None:
    """As a notebook cell is run: names live in a dict of their own."""
    cell = "with net.trace(X) as tracer:\n    h = net[0].output.save()\n"
    names: dict[str, Any] = {"net": net, "X": X}
    exec(compile(cell, "<cell>", "exec"), names)
    assert_exactly(names["h"], FIRST)


class Pair(NamedTuple):
    one: Any
    other: Any


def test_containers_are_filled_in_place() -> None:
    """Lists, dicts and their relatives; tuples are made anew; nested as deep as one likes."""
    xs: list[Any] = []
    by_name: dict[str, list[Any]] = defaultdict(list)
    held = xs
    queue: deque[Any] = deque([None])
    with net.trace(X) as tracer:
        h = net[0].output
        xs.append(h.save())
        by_name["resid"].append((h + 1).save())
        ordered = OrderedDict(a={"b": [[(h * 2).save()]]})
        pair = Pair(one=(h * 3).save(), other="kept")
        mixed = (1, [h.save()], ("x", (h - 1).save()))
        queue[0] = h.save()

    assert held is xs
    assert_exactly(xs[0], FIRST)
    assert_exactly(by_name["resid"][0], FIRST + 1)
    assert_exactly(ordered["a"]["b"][0][0], FIRST * 2)
    assert isinstance(pair, Pair)
    assert_exactly(pair.one, FIRST * 3)
    assert pair.other == "kept"
    assert_exactly(mixed[1][0], FIRST)
    assert_exactly(mixed[2][1], FIRST - 1)
    assert_exactly(queue[0], FIRST)
    assert "ordered['a']['b'][0][0]" in tracer.run
    assert_exactly(tracer.run["xs"][0], FIRST)


def test_a_container_that_holds_itself_is_no_trap() -> None:
    loop: list[Any] = [None]
    loop.append(loop)
    big = [list(range(5_000)) for _ in range(200)]
    with net.trace(X):
        loop[0] = net[0].output.save()
    assert_exactly(loop[0], FIRST)
    assert len(big) == 200


def test_names_that_look_like_ours_are_yours() -> None:
    """A variable called `saved_0` does not lose to a value without a name."""
    with net.trace(X) as tracer:
        saved_0 = net[0].output.save()
        (net[0].output + 1).save()
    assert_exactly(saved_0, FIRST)
    assert_exactly(tracer.run["saved_0"], FIRST)
    assert len(tracer.run) == 2


def test_a_value_without_a_name_comes_back_numbered() -> None:
    with net.trace(X) as tracer:
        net[0].output.save()
        (net[0].output * 2).save()
    assert_exactly(tracer.run["saved_0"], FIRST)
    assert_exactly(tracer.run["saved_1"], FIRST * 2)


def test_a_saved_value_kept_elsewhere_acts_as_its_tensor() -> None:
    """On an attribute no name can be rebound; from the end of the block it is the tensor."""

    class Holder:
        h: Any = None

    holder = Holder()
    with net.trace(X):
        holder.h = net[0].output.save()
        lost = net[0].output * 2
    h = holder.h
    assert_exactly(h.value, FIRST)
    assert_exactly(h + 1, FIRST + 1)
    assert_exactly(1 - h, 1 - FIRST)
    assert_exactly(torch.stack([h, FIRST]), torch.stack([FIRST, FIRST]))
    assert_exactly(h[:, 0], FIRST[:, 0])
    assert h.tolist() == FIRST.tolist()
    assert (h.shape, len(h), float(h[0, 0])) == (FIRST.shape, 2, float(FIRST[0, 0]))
    assert f"{h[0, 0]:.3f}" == f"{FIRST[0, 0]:.3f}"
    assert bool((h == FIRST).all())
    assert repr(h) == repr(FIRST)
    with pytest.raises(nl.errors.NotSaved) as caught:
        lost + 1  # used too late
    assert_at(caught.value, "used too late")
    assert "save" in caught.value.hint


def test_a_name_saved_twice_and_two_names_for_one_value() -> None:
    with net.trace(X) as tracer:
        h = net[0].output
        h.save()
        other = h.save()
        third = h
    for value in (h, other, third):
        assert_exactly(value, FIRST)
    assert set(tracer.run) == {"h", "other", "third"}


def test_a_save_is_a_snapshot_of_its_line() -> None:
    """Edits below it do not change it, through whichever name they are made."""
    with net.trace(X):
        h = net[0].output
        first = h.save()
        h += 1
        second = h.save()
        second *= 2
        third = net[0].output.save()
        first[:, 0] = 0.0
        fourth = net[0].output.save()
        out = net.output.save()
    assert_exactly(first, FIRST)
    assert_exactly(second, FIRST + 1)
    assert_exactly(third, (FIRST + 1) * 2)
    by_hand = (FIRST + 1) * 2
    by_hand[:, 0] = 0.0
    assert_exactly(fourth, by_hand)
    assert_exactly(out, MODULE[1](by_hand).detach())


def test_names_of_a_run_stand_in_the_order_of_saving() -> None:
    with net.trace(X) as tracer:
        zebra = net[1].output.save()
        apple = net[0].output.save()
    assert list(tracer.run) == ["zebra", "apple"]
    assert len(zebra) == len(apple)


def test_what_is_not_saved_does_not_come_back() -> None:
    with net.trace(X) as tracer:
        h = net[0].output
        kept = net[1].output.save()
    assert list(tracer.run) == ["kept"]
    assert type(kept) is torch.Tensor
    with pytest.raises(nl.errors.NotSaved) as caught:
        torch.relu(h)  # not saved
    assert_at(caught.value, "not saved")
    with pytest.raises(nl.errors.NotSaved):
        _ = h.value
    with pytest.raises(nl.errors.NotSaved):
        h.save()


def test_an_edit_through_a_saved_name_goes_to_the_place_as_it_is_now() -> None:
    """Not to the snapshot: edits made in between are not undone."""
    with net.trace(X):
        h = net[0].output
        before = h.save()
        h += 10.0
        before += 1.0
        before[:, 1] *= 2.0
        there = net[0].output.save()
    by_hand = FIRST + 11.0
    by_hand[:, 1] *= 2.0
    assert_exactly(before, FIRST)
    assert_exactly(there, by_hand)
