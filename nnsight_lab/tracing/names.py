"""Which variable holds which saved value: names for a graph's outputs, and tensors put back.

The frame of the `with` block is looked at once, when the block ends. A variable bound to a saved
value gives its name and receives the tensor; lists and dicts of saved values are filled in place.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from nnsight_lab.ir import NodeId
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.recorder import Recorder

__all__ = ["assign_in_frame", "filled", "names_of_saved"]

_DEEPEST = 4
_LONGEST = 10_000
"""Containers deeper or longer than this are not searched; they are data, not saved values."""
_SHELL = re.compile(r"_+|_\d+|_i{1,3}|_i\d+|_oh|_dh|_ih|Out|In")
"""Names an interactive shell keeps for itself."""


def names_of_saved(recorder: Recorder, variables: dict[str, Any]) -> dict[str, NodeId]:
    """Names for every saved value: variables first, `xs[0]` inside containers, else `saved_0`."""
    names: dict[str, NodeId] = {}
    named: set[NodeId] = set()
    for name, value in variables.items():
        if _SHELL.fullmatch(name):
            continue
        for full, proxy in _saved_in(name, value, recorder, 0):
            assert proxy.saved_value is not None
            names[full] = proxy.saved_value.node
            named.add(proxy.saved_value.node)
    count = 0
    for proxy in recorder.saved:
        saved = proxy.saved_value
        if saved is not None and saved.node not in named:
            names[f"saved_{count}"] = saved.node
            named.add(saved.node)
            count += 1
    return names


def _saved_in(
    name: str, value: Any, recorder: Recorder, depth: int
) -> Iterator[tuple[str, Proxy]]:
    if isinstance(value, Proxy):
        if value.recorder is recorder and value.saved_value is not None:
            yield name, value
    elif depth >= _DEEPEST or not _is_container(value):
        return
    elif type(value) is not dict:
        for index, item in enumerate(value):
            yield from _saved_in(f"{name}[{index}]", item, recorder, depth + 1)
    else:
        for key, item in value.items():
            yield from _saved_in(f"{name}[{key!r}]", item, recorder, depth + 1)


def _is_container(value: Any) -> bool:
    return type(value) in (list, tuple, dict) and len(value) <= _LONGEST


def filled(recorder: Recorder, variables: dict[str, Any]) -> dict[str, Any]:
    """The variables that get a new value; lists and dicts among them are filled in place."""

    def tensor_of(proxy: Proxy) -> Any:
        saved = proxy.saved_value
        assert saved is not None
        return recorder.results[saved.node]

    changed = {}
    for name, value in variables.items():
        if _SHELL.fullmatch(name):
            continue
        new = _filled(value, recorder, tensor_of, 0)
        if new is not value:
            changed[name] = new
    return changed


def _filled(
    value: Any, recorder: Recorder, tensor_of: Callable[[Proxy], Any], depth: int
) -> Any:
    """The value with saved proxies replaced; lists and dicts in place, tuples anew."""
    if isinstance(value, Proxy):
        mine = value.recorder is recorder and value.saved_value is not None
        return tensor_of(value) if mine else value
    if depth >= _DEEPEST or not _is_container(value):
        return value
    if type(value) is list:
        value[:] = [_filled(item, recorder, tensor_of, depth + 1) for item in value]
    elif type(value) is dict:
        for key, item in value.items():
            value[key] = _filled(item, recorder, tensor_of, depth + 1)
    elif type(value) is tuple:
        items = tuple(_filled(item, recorder, tensor_of, depth + 1) for item in value)
        if any(new is not old for new, old in zip(items, value, strict=True)):
            return items
    return value


def assign_in_frame(frame: FrameType, changed: dict[str, Any]) -> None:
    """Rebind variables of a frame, be it a module or a function."""
    frame.f_locals.update(changed)
    if sys.version_info < (3, 13) and frame.f_locals is not frame.f_globals:
        # Before PEP 667 a function's f_locals is a copy; this writes it through.
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
