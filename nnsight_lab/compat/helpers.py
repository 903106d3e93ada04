"""Functions of the `nnsight` module that earlier versions had, in terms of the package's own."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

from nnsight_lab.compat.elsewhere import without
from nnsight_lab.tracing.control import cond as branch
from nnsight_lab.tracing.show import show
from nnsight_lab.tracing.source import one_frame

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


@one_frame
def cond(value: Any, then: Any = None, otherwise: Any = None) -> Any:
    """A branch in the graph: `nnsight.cond(value, then, otherwise)`, as `nl.cond`.

    Raises:
        NotSupported: it is written as a block; an `if` does that here.
    """
    if then is None:
        raise without(
            "with nnsight.cond(value):",
            "Write if value: …, which looks at the value; or nl.cond(value, then, otherwise).",
        )
    return branch(value, then, otherwise)


def older_name(name: str) -> Any:
    """Names of 0.4 that stand for Python's own, or None: `nnsight.list()`, `nnsight.print`."""
    if name == "print":
        return log
    if name in ("list", "dict", "tuple", "set", "int", "float", "str", "bool"):
        return getattr(builtins, name)
    return None
