"""`nl.local_fn(f)(value)`: any Python function on the real tensors, while the model runs here.

A graph is data and holds only the function's name. The function itself travels beside it: the
recorder collects the functions, and this process remembers them with the graph, for as long as
the graph lives. A server is sent no functions and refuses such a graph.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import update_wrapper
from typing import Any

from nnsight_lab.errors import BadInput
from nnsight_lab.ir import Graph, LocalCall
from nnsight_lab.kernels import Unknown
from nnsight_lab.tracing.cells import Cell
from nnsight_lab.tracing.proxy import Proxy, after
from nnsight_lab.tracing.recorder import Recorder
from nnsight_lab.tracing.source import one_frame, user_line

__all__ = ["LocalFunction", "functions_of", "local_fn", "names_beside", "remember"]


class LocalFunction:
    """A function that a trace calls on real values. Outside a trace it is the function itself."""

    def __init__(self, function: Callable[..., Any], like: Any = None) -> None:
        update_wrapper(self, function, updated=())
        self._function = function
        self._like = like

    @one_frame
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Record the call; without a recorded value among the arguments, make it."""
        given = next(_recorded((args, kwargs, self._like)), None)
        if given is None:
            return self._function(*args, **kwargs)
        if not given.recorder.open:
            return self._function(*after(args), **after(kwargs))
        return _recorded_call(given.recorder, self._function, args, kwargs, self._like)

    def __repr__(self) -> str:
        return f"<local function {_name_of(self._function)}>"


@one_frame
def local_fn(function: Callable[..., Any] | None = None, *, like: Any = None) -> Any:
    """A Python function as one that a trace can call on the real tensors, in this process only.

        clean = nl.local_fn(my_clean)                 # or @nl.local_fn over its definition
        with lm.trace(prompt):
            h = lm.layers[2].output
            lm.layers[2].output = nl.local_fn(my_clean, like=h)(h)

    function: gets tensors, may do anything, and gives tensors, or tuples, lists and dicts of them.
        It is called once for each time it is written, also when nobody uses what it gives.
    like: a value whose shape and dtype the result has; without it the shape is known when it runs.

    Raises:
        BadInput: it is not a function.
    """
    if function is None:
        return lambda found: local_fn(found, like=like)
    if not callable(function):
        raise BadInput(
            f"A {type(function).__name__} is not a function.",
            hint="Give the function itself: nl.local_fn(f)(value).",
        )
    return LocalFunction(function, like)


def _recorded(value: Any) -> Any:
    """The recorded values among arguments, in order."""
    if isinstance(value, Proxy):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _recorded(item)
    elif isinstance(value, dict):
        yield from _recorded(list(value.values()))


def _recorded_call(
    recorder: Recorder,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    like: Any,
) -> Proxy:
    key = _key(recorder.functions, function, _name_of(function))
    plain, named, moment = recorder.prepared(args, kwargs)
    node = LocalCall(
        id=recorder.next_id,
        function=key,
        args=plain,
        kwargs=tuple(named.items()),
        where=user_line(),
    )
    result = Proxy(recorder, Cell(recorder.add(node, Unknown(), *moment)))
    recorder.functions[key] = function
    if like is None:
        return result
    shaped: Proxy = recorder.record("lab.like", (result, like), {})
    return shaped


def names_beside(
    known: Mapping[str, Callable[..., Any]], more: Mapping[str, Callable[..., Any]]
) -> dict[str, str]:
    """New names for functions of another graph, which may be called like those of this one."""
    taken, found = dict(known), dict[str, str]()
    for name, function in more.items():
        found[name] = _key(taken, function, name)
        taken[found[name]] = function
    return found


def _key(known: Mapping[str, Callable[..., Any]], function: Callable[..., Any], name: str) -> str:
    """The function's name, with a number where another function of this trace has it."""
    key = name
    count = 1
    while key in known and known[key] is not function:
        count += 1
        key = f"{name}_{count}"
    return key


def _name_of(function: Callable[..., Any]) -> str:
    name = str(getattr(function, "__name__", type(function).__name__))
    return name if name.isidentifier() else "function"


_kept: dict[int, Mapping[str, Callable[..., Any]]] = {}
"""By the graph object itself: two graphs that say the same may mean different functions."""


def remember(graph: Graph, functions: Mapping[str, Callable[..., Any]]) -> Graph:
    """Note what the local calls of a graph mean, until the graph is gone. Gives the graph."""
    if functions and id(graph) not in _kept:
        weakref.finalize(graph, _kept.pop, id(graph), None)
    if functions:
        _kept[id(graph)] = dict(functions)
    return graph


def functions_of(graph: Graph) -> dict[str, Callable[..., Any]]:
    """The functions a graph was recorded with; none for one that came as bytes."""
    return dict(_kept.get(id(graph), {}))
