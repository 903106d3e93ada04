"""A tuple or dict written whole: `module.output = (new, *rest)`, `module.inputs = (args, kwargs)`.

Each item that is not what was there before is written by itself. What a graph cannot compute with
(a cache, a flag, None) stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from nnsight_lab.errors import OpNotAllowed, ShapeMismatch
from nnsight_lab.kernels import Unknown
from nnsight_lab.passes.shapes import describe
from nnsight_lab.tracing.cells import Cell
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.source import user_line

if TYPE_CHECKING:
    from nnsight_lab.tracing.recorder import Recorder

__all__ = ["is_written_by_items", "write_items"]


def is_written_by_items(value: Any, held: Any) -> bool:
    """Whether a value is a container of what it is to replace."""
    if isinstance(value, dict):
        return isinstance(held, dict)
    return isinstance(value, tuple | list) and isinstance(held, tuple | list)


def write_items(recorder: Recorder, whole: Proxy, items: Any) -> None:
    """Put the items of a container in the place of those that a recorded value has.

    Raises:
        ShapeMismatch: they are not as many, or not called the same; or None would replace a value.
    """
    # All of them are looked at first: what one of them reads is as it was before this line.
    for view, key, item in list(_changed(recorder, whole, items)):
        view[key] = item


def _changed(
    recorder: Recorder, whole: Proxy, items: Any
) -> Iterator[tuple[Proxy, int | str, Proxy]]:
    held = whole.now().meta
    _check_keys(whole, items, held)
    for key, item in items.items() if isinstance(items, dict) else enumerate(items):
        there = held[key]
        if isinstance(item, Proxy) and item.views(whole, key):
            continue
        if _is_empty(item) and _is_empty(there):
            continue
        if is_written_by_items(item, there):
            yield from _changed(recorder, whole[key], item)
        elif isinstance(there, Unknown) and not isinstance(item, Proxy | torch.Tensor | None):
            raise OpNotAllowed(
                f"A {type(item).__name__} cannot take the place of what [{key!r}] holds.",
                hint="Hand on what was there: (new, *module.output[1:]), or None for unchanged.",
            ).at(user_line())
        elif item is not None:
            yield whole, key, Proxy(recorder, Cell(recorder.value_of(item, like=there)))
        elif not isinstance(there, Unknown):
            raise ShapeMismatch(
                f"None cannot replace {describe(there)}, which is what [{key!r}] holds.",
                hint="Give the value that was there, or a new one.",
            ).at(user_line())


def _is_empty(value: Any) -> bool:
    return isinstance(value, tuple | list | dict) and not value


def _check_keys(whole: Proxy, items: Any, held: Any) -> None:
    if isinstance(held, dict) and set(items) != set(held):
        raise ShapeMismatch(
            f"{', '.join(map(repr, set(items) ^ set(held)))}: there must be the same names as"
            " before.",
            hint=f"They are {', '.join(map(repr, held)) or 'none'}; write one of them by itself.",
        ).at(user_line())
    if len(items) != len(held):
        raise ShapeMismatch(
            f"{whole!r} has {len(held)} items; {len(items)} cannot replace them.",
            hint="Write one item: module.output[0] = value.",
        ).at(user_line())
