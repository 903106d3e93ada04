"""`nnsight.save(x)`, and `.save()` on lists, dicts and numbers while a block of this module is open.

nnsight gives every object of a process a `save` method for good. Here plain Python values have one
from the first open block to the end of the last, and none otherwise: `list().save()` works where
it is written, and nothing is left behind. `CONFIG.APP.PYMOUNT = False` does without; then write
`nnsight.save(list())`.
"""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.overrides import get_overridable_functions

from nnsight_lab.compat.settings import CONFIG
from nnsight_lab.tracing.proxy import Proxy
from nnsight_lab.tracing.saving import save as save_recorded
from nnsight_lab.tracing.source import one_frame

__all__ = ["plain_values_save", "save"]

ValueT = TypeVar("ValueT")

_PLAIN = (list, dict, tuple, set, int, float, str, torch.Tensor)
_blocks = 0
_counting = threading.Lock()


@one_frame
def save(value: ValueT) -> ValueT:
    """Ask for a value back after the block: a recorded one, or what a list or dict comes to hold.

    A value that is there already, such as a shape or a number, is given back as it is.
    """
    if isinstance(value, Proxy | list | dict | tuple):
        return _save_held(value)
    return value


def _save_held(value: ValueT) -> ValueT:
    if isinstance(value, tuple) and not any(isinstance(item, Proxy) for item in value):
        return value
    return save_recorded(value)


@contextmanager
def plain_values_save() -> Iterator[None]:
    """While this is open, plain Python values have `.save()`."""
    global _blocks  # noqa: PLW0603  (blocks of all threads are counted together)
    mounting = CONFIG.APP.PYMOUNT
    with _counting:
        if mounting and not _blocks:
            _mount()
        _blocks += mounting
    try:
        yield
    finally:
        with _counting:
            _blocks -= mounting
            if mounting and not _blocks:
                _unmount()


def _mount() -> None:
    get_overridable_functions()  # torch keeps the list of its methods: let it be made without ours
    for kind in _PLAIN:
        _names_of(kind)["save"] = save
        _forget_lookups(kind)


def _unmount() -> None:
    for kind in _PLAIN:
        _names_of(kind).pop("save", None)
        _forget_lookups(kind)


def _names_of(kind: type) -> dict[str, Any]:
    """The names a type really has: `kind.__dict__` is a view of it that cannot be written to."""
    found: dict[str, Any] = gc.get_referents(kind.__dict__)[0]
    return found


def _forget_lookups(kind: type) -> None:
    """CPython keeps what it found on a type, and has to be told that this changed."""
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))
