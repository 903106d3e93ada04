"""Which variable holds which saved value: names for a graph's outputs, and tensors put back.

The frame of the `with` block is looked at once, when the block ends. A variable bound to a saved
value gives its name and receives the tensor; lists and dicts of saved values are filled in place.
"""

from __future__ import annotations

import ctypes
import inspect
import re
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from nnsight_lab.ir import NodeId
from nnsight_lab.tracing.fields import Fields
from nnsight_lab.tracing.proxy import Proxy

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = [
    "assign_in_frame",
    "filled",
    "forget_variables",
    "keep_results",
    "names_of_saved",
    "variables_of",
]

_LONGEST = 10_000
"""Containers longer than this are not searched; they are data, not saved values."""
_MOST_ITEMS = 50_000
"""Items looked at in all containers together, those nearest to a variable first."""
_HOLDERS = (Proxy, list, tuple, dict, deque)
"""What may be a saved value, or hold some."""
_SHELL = re.compile(r"_+|_\d+|_i{1,3}|_i\d+|_oh|_dh|_ih|Out|In")
"""Names an interactive shell keeps for itself."""


def variables_of(frame: FrameType) -> dict[str, Any]:
    """What the code of a block can name: its own variables, then the globals it mentions."""
    own = dict(frame.f_locals)
    mentioned = (name for name in frame.f_code.co_names if name in frame.f_globals)
    return own | {name: frame.f_globals[name] for name in mentioned if name not in own}


def names_of_saved(recorder: Recorder, variables: dict[str, Any]) -> dict[str, NodeId]:
    """Names for every saved value: variables first, `xs[0]` inside containers, else `saved_0`."""
    names: dict[str, NodeId] = {}
    for slot in _slots(variables):
        node = _saved_node(slot.value, recorder)
        if node is not None:
            names[_unused(slot.name, names)] = node
    order = {node: place for place, node in enumerate(recorder.saved)}
    named = set(names.values())
    for count, node in enumerate(node for node in order if node not in named):
        names[_unused(f"saved_{count}", names)] = node
    return dict(sorted(names.items(), key=lambda pair: order[pair[1]]))


def _unused(name: str, names: dict[str, NodeId]) -> str:
    """The name, or where two values claim it (`{1: a, "1": b}` never; odd keys may), the next."""
    free, count = name, 1
    while free in names:
        count += 1
        free = f"{name}#{count}"
    return free


def _saved_node(value: Any, recorder: Recorder) -> NodeId | None:
    if not isinstance(value, Proxy) or value.recorder is not recorder:
        return None
    saved = value.saved_value
    return None if saved is None else saved.node


@dataclass(slots=True, eq=False)
class _Slot:
    """A place that holds a value: a variable, or a key of a container in the slot `inside`.

    new_items: what a tuple, which cannot be filled in place, is to hold instead.
    """

    key: Any
    value: Any
    inside: _Slot | None = None
    new_items: dict[Any, Any] | None = None

    @property
    def name(self) -> str:
        """`x`, or `x[0]['a']` inside containers. Put together when asked for: few are."""
        slot, keys = self, list[str]()
        while slot.inside is not None:
            keys.append(f"[{slot.key!r}]")
            slot = slot.inside
        return f"{slot.key}{''.join(reversed(keys))}"


def _slots(variables: dict[str, Any]) -> Iterator[_Slot]:
    """Every recorded value and container within reach, containers before what they hold."""
    queue = deque(
        _Slot(name, value)
        for name, value in variables.items()
        if isinstance(value, _HOLDERS) and not _SHELL.fullmatch(name)
    )
    seen: set[int] = set()
    left = _MOST_ITEMS
    while queue:
        slot = queue.popleft()
        yield slot
        held = slot.value
        if isinstance(held, Proxy) or id(held) in seen or len(held) > min(left, _LONGEST):
            continue
        if not isinstance(held, tuple):  # only what can change can hold itself
            seen.add(id(held))
        left -= len(held)
        pairs = held.items() if isinstance(held, dict) else enumerate(held)
        queue.extend(_Slot(key, item, slot) for key, item in pairs if isinstance(item, _HOLDERS))


def keep_results(recorder: Recorder, run: Any, names: dict[str, NodeId]) -> None:
    """Values under the recorder's own node ids, for proxies that have no variable."""
    missing = set(getattr(run, "missing", ()))
    for name, node in names.items():
        if name in missing:
            recorder.missing.add(node)
        else:
            recorder.results[node] = Fields.of(run[name])


def filled(recorder: Recorder, variables: dict[str, Any]) -> dict[str, Any]:
    """The variables that get a new value; lists and dicts among them are filled in place.

    Values of steps that did not happen leave their lists; a variable keeps the recorded value.
    """
    changed: dict[str, Any] = {}
    for slot in reversed(list(_slots(variables))):
        node = _saved_node(slot.value, recorder)
        if node is not None and node in recorder.missing:
            _take_out(slot)
            continue
        if node is not None:
            new = recorder.results[node]
        elif slot.new_items:
            new = _tuple_with(slot.value, slot.new_items)
        else:
            continue
        if slot.inside is None:
            changed[slot.key] = new
        elif isinstance(slot.inside.value, tuple):
            if slot.inside.new_items is None:
                slot.inside.new_items = {}
            slot.inside.new_items[slot.key] = new
        else:
            slot.inside.value[slot.key] = new
    return changed


def _take_out(slot: _Slot) -> None:
    """A list or dict loses what did not happen; items come here from the last to the first."""
    if slot.inside is not None and not isinstance(slot.inside.value, tuple):
        del slot.inside.value[slot.key]


def _tuple_with(old: Any, new_items: dict[int, Any]) -> Any:
    items = [new_items.get(place, item) for place, item in enumerate(old)]
    return type(old)(*items) if hasattr(old, "_fields") else type(old)(items)


def assign_in_frame(frame: FrameType, changed: dict[str, Any]) -> None:
    """Rebind variables of a frame, be it a module or a function, and globals it mentions."""
    own = frame.f_locals  # asked for once: before PEP 667 asking again would undo what we write
    code = frame.f_code
    known = {*own, *code.co_varnames, *code.co_cellvars, *code.co_freevars}
    for name, value in changed.items():
        (own if name in known else frame.f_globals)[name] = value
    if sys.version_info < (3, 13) and own is not frame.f_globals:
        # Before PEP 667 a function's f_locals is a copy; this writes it through.
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))


def forget_variables(frame: FrameType) -> None:
    """Let go of the copy of a function's variables that looking at them made.

    Before PEP 667 the frame keeps that copy, so that `del lm` would not let a model go.
    """
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        frame.f_locals.clear()
