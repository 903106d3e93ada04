"""Errors of a recipe or a figure, put at the line of the user who asked for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from nnsight_lab.errors import LabError
from nnsight_lab.tracing.source import for_the_user

__all__ = ["fails_at_caller"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def fails_at_caller(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The function, with its typed errors at the user's line and one frame of ours at most."""

    @wraps(function)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except LabError as exc:
            failure, cause = for_the_user(exc), exc.__cause__
        raise failure from cause

    return called
