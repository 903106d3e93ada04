"""Functions of the `nnsight` module that earlier versions had, in terms of the package's own."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

from nnsight_lab.errors import NotSupported
from nnsight_lab.tracing.show import show
from nnsight_lab.tracing.source import one_frame, user_line

__all__ = ["apply", "cond", "log", "older_name"]


@one_frame
def log(*values: Any) -> None:
    """Print values as soon as they exist, while the model runs."""
    for value in values:
        show(value)


@one_frame
def apply(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function on recorded values; what it does with torch is recorded."""
    return function(*args, **kwargs)


def cond(value: Any) -> Any:
    """`with nnsight.cond(value):` as `nl.cond`."""
    try:
        from nnsight_lab.tracing.control import cond as recorded
    except ImportError:  # pragma: no cover
        raise NotSupported(
            "nnsight.cond is not there yet.", hint="Write torch.where(value, a, b)."
        ).at(user_line()) from None
    return recorded(value)


def older_name(name: str) -> Any:
    """Names of 0.4 that stand for Python's own, or None: `nnsight.list()`, `nnsight.print`."""
    if name == "print":
        return log
    if name in ("list", "dict", "tuple", "set", "int", "float", "str", "bool"):
        return getattr(builtins, name)
    return None
