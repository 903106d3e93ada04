"""`nl.show(value)`: print a value during the run, as soon as it exists, here or from a server.

A shown value is an output of the graph under a name that no variable can have. Whoever collects
a run's values prints it and hands it to nobody.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from nnsight_lab.errors import BadInput, NotSaved
from nnsight_lab.ir import NodeId
from nnsight_lab.kernels.summary import summary_of
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.regions import refuse_inside
from nnsight_lab.tracing.source import one_frame, user_line

__all__ = [
    "is_plotted",
    "is_shown",
    "label_of",
    "live_plot",
    "note_needed",
    "note_shown",
    "print_shown",
    "show",
]

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

ValueT = TypeVar("ValueT")

_PREFIX = "show "
_PLOTTED = "show p"
"""A number follows the one, `p` and a number the other."""
_NEEDED = "show n"
"""Likewise."""
_LONGEST = 80
_SHORTENED = 1000
"""Of more elements torch prints some only, so the numbers of all of them are printed, too."""


@one_frame
def live_plot(value: ValueT, name: str | None = None) -> ValueT:
    """Draw a number or a vector while the model runs: one more point each time it is made.

    name: of the curve; by default what stands in the brackets. In a notebook with
        `%load_ext nnsight_lab`, a view under the cell draws it; elsewhere nothing is drawn.

        with lm.generate(prompt, max_new_tokens=20) as tracer:
            for step in tracer.iter[:]:
                nl.live_plot(lm.layers[2].output[:, -1].norm(), "stream")

    Returns the value. Nothing of it is saved.
    """
    if name is not None and not isinstance(name, str):
        raise BadInput(
            f"A name is a text, not a {type(name).__name__}.", hint='live_plot(h, "norm")'
        )
    label = _written("live_plot") if name is None else name
    for part, node, recorder in _to_show(value, label, "Nothing can be drawn"):
        note_shown(recorder, part, node, plotted=True)
    return value


@one_frame
def show(value: ValueT, label: str | None = None) -> ValueT:
    """Print a value as soon as it exists, while the model runs; a plain Python value at once.

    label: printed before it; by default what stands in the brackets.

        with lm.trace(prompt):
            nl.show(lm.layers[2].output.norm())

    Returns the value, so that it can stand inside a longer line. Nothing of it is saved.
    """
    if label is not None and not isinstance(label, str):
        raise BadInput(f"A label is a text, not a {type(label).__name__}.", hint='show(h, "norm")')
    name = _written() if label is None else label
    if next(_recorded_in(value, name), None) is None:
        _print(name, value)
    for part, node, recorder in _to_show(value, name, "Nothing can be shown"):
        note_shown(recorder, part, node)
    return value


def _to_show(value: Any, label: str, refusal: str) -> Iterator[tuple[str, NodeId, Recorder]]:
    """The recorded values a value is or holds: label, node, recording."""
    for part, proxy in _recorded_in(value, label):
        recorder = proxy.recorder
        if not recorder.open:
            raise NotSaved(
                "This value belongs to a block that has ended, and was not saved.",
                hint="Show it inside the block, or save it there.",
            )
        hint = "Give the value back from it, and show the result: nl.show(nl.cond(...))."
        refuse_inside(recorder, refusal, hint)
        yield part[:_LONGEST], proxy.now().node, recorder


def note_shown(recorder: Recorder, label: str, node: NodeId, *, plotted: bool = False) -> None:
    """A value of a recording is to be printed, or drawn, under a label."""
    kind = _PLOTTED if plotted else _PREFIX
    recorder.shown.append((f"{kind}{len(recorder.shown)} {label}", node))


def note_needed(recorder: Recorder, node: NodeId) -> None:
    """A value of a recording is to be computed, and nobody sees it."""
    recorder.shown.append((f"{_NEEDED}{len(recorder.shown)} needed", node))


def label_of(name: str) -> str:
    """The label under which an output of that kind is printed."""
    return name.removeprefix(_PREFIX).partition(" ")[2]


def _recorded_in(value: Any, name: str) -> Iterator[tuple[str, Proxy]]:
    """The recorded values a value is or holds. One that came back is its tensor by now."""
    if isinstance(value, Proxy) and not value.came_back:
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _recorded_in(item, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _recorded_in(item, f"{name}[{place}]")


def _written(function: str = "show") -> str:
    """The argument as it stands in the user's line, or the line's number."""
    where = user_line()
    try:
        code = ast.parse(where.text if where is not None else "")
    except SyntaxError:  # one line of several
        code = ast.Module([], [])
    for node in ast.walk(code):
        if isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rsplit(".", 1)[-1]
            if called == function:
                return ast.unparse(node.args[0])
    return f"line {where.line}" if where is not None else "value"


def is_shown(name: str) -> bool:
    """Whether an output is not handed back, but printed, drawn, or only computed."""
    return name.startswith(_PREFIX)


def is_plotted(name: str) -> bool:
    """Whether an output is to be drawn, and neither printed nor handed back."""
    return name.startswith(_PLOTTED)


def print_shown(name: str, value: Any) -> None:
    """Print an output of that kind; one that is drawn is drawn by who watches the run."""
    if not name.startswith((_PLOTTED, _NEEDED)):
        _print(label_of(name), value)


def _print(label: str, value: Any) -> None:
    text = repr(value)
    found = summary_of(value)
    if found is not None and found.count > _SHORTENED:
        text = f"{found}\n{text}"
    between = "\n" if "\n" in text else " "
    print(f"{label}:{between}{text}", flush=True)  # noqa: T201
