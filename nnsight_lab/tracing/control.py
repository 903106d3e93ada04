"""`nl.cond`, `nl.foreach`, `nl.while_`: choices and loops that the graph itself makes.

    y = nl.cond(h.norm() > 5, lambda: h * 2, lambda: h)
    rows = nl.foreach(ids, lambda i: lm.embed.weight[i])
    total, rows = nl.foreach(ids, step, start)      # step(item, carry) gives (carry, row)
    x = nl.while_(lambda x: x.norm() > 1, lambda x: x / 2, h, limit=100)

Each function is called while recording, and what it records becomes a block of the graph. A test
or an iterable that is plain Python needs no graph: then plain Python happens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from nnsight_lab.errors import BadInput, GraphError, OpFailed, SourceLine
from nnsight_lab.passes.blocks import check_single, items_of
from nnsight_lab.tracing.branches import choice, result_of
from nnsight_lab.tracing.cells import Cell, Value
from nnsight_lab.tracing.loops import Loop, Turn
from nnsight_lab.tracing.nests import Differ, Leaf, collected, rebuilt, settled, stand_ins
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.recorder import Recorder
from nnsight_lab.tracing.regions import taped
from nnsight_lab.tracing.source import at_line, user_line

__all__ = [
    "Items",
    "chosen",
    "cond",
    "foreach",
    "is_recorded",
    "made_by",
    "single",
    "taken_apart",
    "while_",
]


class Items(Proxy):
    """What a loop of unknown length made: a recorded tuple. Saved, it comes back as a tuple."""

    __slots__ = ()

    def stack(self, dim: int = 0) -> Any:
        """The items along a new axis, as `torch.stack`."""
        return self.recorder.record("torch.stack", (self, dim), {})

    def cat(self, dim: int = 0) -> Any:
        """The items one after another, as `torch.cat`."""
        return self.recorder.record("torch.cat", (self, dim), {})


def is_recorded(value: Any) -> bool:
    """Whether a value is only there when the model runs."""
    return isinstance(value, Proxy) and value.recorder.open


def single(test: Proxy, where: SourceLine | None) -> Value:
    """The value of a test. Raises `ShapeMismatch` unless it is a single one."""
    value = test.recorder.value_of(test)
    at_line(where, check_single, value.meta)
    return value


def cond(
    test: Any, then: Callable[..., Any], otherwise: Callable[..., Any] | None = None, *args: Any
) -> Any:
    """`then(*args)` if `test` is true, else `otherwise(*args)`; without one, None.

    Both are called while recording. They give values, or any tuples, lists and dicts of them, of
    the same structure. Edits of the model in a branch happen if the branch is taken.

    Raises:
        ShapeMismatch: the test is not a single value.
        GraphError: the branches give different things.
    """
    where = user_line()
    _check_functions("cond", then, otherwise if otherwise is not None else _nothing)
    try:
        return _branched(test, partial(then, *args), partial(otherwise or _nothing, *args))
    except Differ as differ:
        raise _unlike(differ).at(where) from None


def chosen(test: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """As `cond`; where the branches give different things Python chooses, by a peek if it may.

    Raises:
        GraphError: the branches give different things, and nothing may be peeked.
    """
    where = user_line()
    try:
        return _branched(test, then, otherwise)
    except Differ as differ:
        if test.recorder.peeks is None:
            raise _unlike(differ).at(where) from None
    return then() if test else otherwise()


def _branched(test: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    if not is_recorded(test):
        return then() if test else otherwise()
    recorder, where = test.recorder, user_line()
    value = single(test, where)
    tapes, results = [], []
    for branch in (then, otherwise):
        with taped(recorder) as tape:
            results.append(settled(recorder, branch()))
        tapes.append(tape)
    return choice(recorder, value, (tapes[0], tapes[1]), (results[0], results[1]), where)


def _unlike(differ: Differ) -> GraphError:
    return GraphError(
        f"The two branches give different things: {differ}.",
        hint="Give the same from both: values, or tuples and dicts of equally many.",
    )


def _check_functions(verb: str, *given: Any) -> None:
    """Refuse values where functions are meant. Raises `BadInput`."""
    for function in given:
        if not callable(function):
            raise BadInput(
                f"nl.{verb} is given a {type(function).__name__} in place of a function.",
                hint=_SPELLED[verb],
            ).at(user_line())


_SPELLED = {
    "cond": "nl.cond(test, lambda: one, lambda: other); of two values torch.where chooses.",
    "foreach": "nl.foreach(items, lambda item: …)",
    "while_": "nl.while_(lambda x: x.norm() > 1, lambda x: x / 2, h)",
}


def _nothing(*_: Any) -> None:
    """The branch that is not there."""


_NONE = object()


def foreach(items: Any, body: Callable[..., Any], carry: Any = _NONE) -> Any:
    """`[body(item) for item in items]`; with a carry, `(last carry, list)`.

    body: `body(item)` gives what is made of an item. With a carry, `body(item, carry)` gives
        `(new carry, made)`. It is called while recording, more than once where it carries
        something or edits the model.

    Where the length is known the result is a list. Where it is not, each value that `body` makes
    stands for the recorded tuple of it over all items, with `.stack()` and `.cat()`.

    Raises:
        ShapeMismatch: the value has no items.
        GraphError: a carry does not keep its structure.
    """
    _check_functions("foreach", body)
    if not is_recorded(items):
        return _plain_foreach(items, body, carry)
    recorder, where = items.recorder, user_line()
    over = recorder.value_of(items)
    length, item = at_line(where, items_of, over.meta)
    if length == 0:
        return [] if carry is _NONE else (carry, [])
    begins: list[Leaf] = []
    shape = collected(recorder, () if carry is _NONE else settled(recorder, carry), begins)
    loop = Loop(recorder, [leaf.value for leaf in begins], where)
    for _ in range(_MOST_PASSES):
        with loop.turn(over, item) as turn:
            given = stand_ins(recorder, begins, turn.carried)
            assert turn.item is not None, "this loop goes over something"
            args = [Proxy(recorder, Cell(turn.item))]
            args += [] if carry is _NONE else [rebuilt(shape, given)]
            result = settled(recorder, body(*args))
        kept, result = ((), result) if carry is _NONE else _pair(result, where)
        ends = _alike(recorder, kept, shape, where)
        if loop.lasts(turn, [leaf.value for leaf in ends]):
            break
    leaves: list[Leaf] = []
    made = collected(recorder, result, leaves)
    new, tuples = loop.foreach(
        over, length, turn, [leaf.value for leaf in ends], [leaf.value for leaf in leaves]
    )
    found = taken_apart(recorder, made, tuples, length)
    if carry is _NONE:
        return found
    return rebuilt(shape, made_by(recorder, new, turn, begins, ends)), found


_MOST_PASSES = 1_000
"""Shapes settle after a few; each pass makes at least one more unknown."""


def _plain_foreach(items: Any, body: Callable[..., Any], carry: Any) -> Any:
    if carry is _NONE:
        return [body(item) for item in items]
    found = []
    for item in items:
        carry, made = body(item, carry)
        found.append(made)
    return carry, found


def _pair(result: Any, where: SourceLine | None) -> tuple[Any, Any]:
    if isinstance(result, tuple) and len(result) == 2:
        return result[0], result[1]
    raise GraphError(
        "The body of this loop does not give a carry and a value.",
        hint="return carry, made; without something to make: return carry, None.",
    ).at(where)


def _alike(recorder: Recorder, nest: Any, shape: Any, where: SourceLine | None) -> list[Leaf]:
    """The values in what a turn carries on. Raises `GraphError` where it is not of this shape."""
    leaves: list[Leaf] = []
    if collected(recorder, nest, leaves) != shape:
        raise GraphError(
            "What this loop carries does not keep its structure from turn to turn.",
            hint="Carry the same number of values each time, in the same tuples and dicts.",
        ).at(where)
    return leaves


def made_by(
    recorder: Recorder, ends: list[Value], turn: Turn, begins: list[Leaf], last: list[Leaf]
) -> list[Any]:
    """What a loop carried to its end, as recorded values."""
    pairs = zip(ends, begins, last, strict=True)
    return [result_of(recorder, end, [turn.tape], leaves) for end, *leaves in pairs]


def taken_apart(recorder: Recorder, made: Any, tuples: list[Value], length: int | None) -> Any:
    """What a loop made of each item: a list, or for unknown length recorded tuples."""
    if length is None:
        return rebuilt(made, [Items(recorder, Cell(value)) for value in tuples])
    wholes = [Proxy(recorder, Cell(value)) for value in tuples]
    return [rebuilt(made, [whole[index] for whole in wholes]) for index in range(length)]


def while_(test: Callable[..., Any], body: Callable[..., Any], *init: Any, limit: int = 100) -> Any:
    """`while test(*state): state = body(*state)`, beginning with `init`; gives the last state.

    With one `init`, the state is that value and `body` gives one; with several, a tuple of them;
    with none, the body only edits the model.

    Raises:
        ShapeMismatch: the test is not a single value.
        GraphError: the state does not keep its structure.
        OpFailed: after `limit` turns the test is still true.
    """
    _check_functions("while_", test, body)
    if limit < 1:
        raise BadInput(
            f"limit={limit!r} is no number of turns.", hint="Give a whole number from 1 on."
        ).at(user_line())
    state, turns, where = init, 0, user_line()
    while True:
        holds = test(*state)
        if is_recorded(holds):
            return _one(_while(holds.recorder, test, body, state, limit, where))
        if not holds:
            return _one(state)
        if turns == limit:
            raise OpFailed(
                f"The loop went on after {limit} turns.",
                hint="Allow it more with limit=, or mend its test.",
            ).at(where)
        state, turns = _state(body(*state), len(init), where), turns + 1


def _one(state: tuple[Any, ...]) -> Any:
    return state[0] if len(state) == 1 else state


def _state(result: Any, count: int, where: SourceLine | None) -> tuple[Any, ...]:
    if count == 1:
        return (result,)
    if count == 0 and result is None:
        return ()
    if isinstance(result, tuple | list) and len(result) == count:
        return tuple(result)
    raise GraphError(
        f"The body of this loop does not give back its {count} values.",
        hint="Give a new value for each, in order: return x, y.",
    ).at(where)


def _while(
    recorder: Recorder,
    test: Callable[..., Any],
    body: Callable[..., Any],
    init: tuple[Any, ...],
    limit: int,
    where: SourceLine | None,
) -> tuple[Any, ...]:
    begins: list[Leaf] = []
    shape = collected(recorder, settled(recorder, init), begins)
    loop = Loop(recorder, [leaf.value for leaf in begins], where)
    for _ in range(_MOST_PASSES):
        with loop.turn() as look:
            holds = test(*_given(recorder, shape, begins, look))
            held = _test_of(recorder, holds, where)
        with loop.turn() as turn:
            result = _state(body(*_given(recorder, shape, begins, turn)), len(init), where)
            kept = settled(recorder, result)
        ends = _alike(recorder, kept, shape, where)
        if loop.lasts(turn, [leaf.value for leaf in ends]):
            break
    new = loop.while_(look, held, turn, [leaf.value for leaf in ends], limit)
    found: tuple[Any, ...] = rebuilt(shape, made_by(recorder, new, turn, begins, ends))
    return found


def _test_of(recorder: Recorder, holds: Any, where: SourceLine | None) -> Value:
    if is_recorded(holds):
        return single(holds, where)
    return recorder.constant(torch.tensor(bool(holds)))


def _given(recorder: Recorder, shape: Any, begins: list[Leaf], turn: Turn) -> tuple[Any, ...]:
    given: tuple[Any, ...] = rebuilt(shape, stand_ins(recorder, begins, turn.carried))
    return given
