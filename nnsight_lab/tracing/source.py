"""The user's own line: the first frame up the stack that is neither ours nor torch's."""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache, wraps
from pathlib import Path
from types import FrameType, TracebackType
from typing import ParamSpec, TypeVar

import torch

from nnsight_lab.errors import LabError, SourceLine

__all__ = [
    "at_line",
    "for_the_user",
    "forget_cause",
    "is_ours",
    "leave_one_frame",
    "one_frame",
    "shorten_traceback",
    "standing_at",
    "user_frame",
    "user_line",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_PACKAGE = str(Path(__file__).parents[1]) + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep
_SKIPPED = (_PACKAGE, _TORCH, copy.__file__)
_BETWEEN = ("/IPython/core/", "/site-packages/numpy/", "/site-packages/einops/")
_standing: ContextVar[SourceLine | None] = ContextVar("standing_at", default=None)


@contextmanager
def standing_at(where: SourceLine | None) -> Iterator[None]:
    """For what is recorded on behalf of an earlier line: until the end, that is the user's line."""
    token = _standing.set(where)
    try:
        yield
    finally:
        _standing.reset(token)


def is_ours(filename: str) -> bool:
    """Whether a file belongs to this package."""
    return filename.startswith(_PACKAGE)


def user_frame() -> FrameType | None:
    """The frame of the user's code that called into the package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_skipped(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


@lru_cache(1024)
def _is_skipped(file: str) -> bool:
    """Ours, torch's, or a library's or notebook's machinery between the user's line and ours."""
    return file.startswith(_SKIPPED) or any(folder in file for folder in _BETWEEN)


def user_line() -> SourceLine | None:
    """The user's file (or notebook cell) and line."""
    standing = _standing.get()
    if standing is not None:
        return standing
    frame = user_frame()
    if frame is None:
        return None
    file = frame.f_code.co_filename
    return _line(file, frame.f_lineno, _cell_number(file))


_line = lru_cache(4096)(SourceLine)
"""A line is a value: one object serves every node that was recorded there."""


def _cell_number(file: str) -> int | None:
    """The number of the notebook cell a code file stands for, if it is one.

    IPython names the file of each cell itself, and knows the number behind the name. It is looked
    up only where it is already loaded: a script never pays for it.
    """
    ipython = sys.modules.get("IPython")
    if ipython is None:
        return None
    shell = ipython.get_ipython()
    name_of = getattr(getattr(shell, "compile", None), "format_code_name", None)
    named = name_of(file) if name_of is not None else None
    found = re.search(r"\d+", str(named[1])) if named else None
    return int(found.group()) if found else None


def forget_cause(exc: BaseException) -> None:
    """Keep what an error of ours was caused by, with the user's own frames only, in place."""
    for behind in (exc.__cause__, exc.__context__):
        if behind is not None and isinstance(exc, LabError):
            behind.__traceback__ = _frames_of_the_user(behind.__traceback__)


def _frames_of_the_user(trace: TracebackType | None) -> TracebackType | None:
    """The user's part of a traceback. What the others hold is let go: one may hold the error."""
    kept: list[TracebackType] = []
    while trace is not None:
        if not _is_skipped(trace.tb_frame.f_code.co_filename):
            kept.append(trace)
        else:
            with suppress(RuntimeError):  # one that still runs
                trace.tb_frame.clear()
        trace = trace.tb_next
    found: TracebackType | None = None
    for step in reversed(kept):
        found = TracebackType(found, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return found


def for_the_user(exc: LabError) -> LabError:
    """An error as it leaves the package: at the user's line, without the frames it came through."""
    forget_cause(exc)
    _frames_of_the_user(exc.__traceback__)
    return exc.at(user_line()).with_traceback(None)


def at_line(
    where: SourceLine | None, check: Callable[_P, _T], *args: _P.args, **kw: _P.kwargs
) -> _T:
    """Run a check; an error it raises gets the user's line."""
    try:
        return check(*args, **kw)
    except LabError as exc:
        raise exc.at(where)


def one_frame(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """A way into the package: an error of ours leaves it at the user's line, in one frame."""

    @wraps(function)
    def enter(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except LabError as exc:
            failure, cause = for_the_user(exc), exc.__cause__
        try:
            raise failure from cause
        finally:
            del failure, cause  # an error that its own frame holds is never let go

    return enter


def shorten_traceback(exc: BaseException) -> None:
    """Leave at most one frame of ours below the user's own, in place."""
    forget_cause(exc)
    leave_one_frame(exc.__traceback__)


def leave_one_frame(trace: TracebackType | None) -> None:
    """The same for a traceback. Where ours called the user's functions, those frames stay."""
    while trace is not None and trace.tb_next is not None:
        below: TracebackType | None = trace.tb_next
        file = trace.tb_next.tb_frame.f_code.co_filename
        while below is not None and is_ours(below.tb_frame.f_code.co_filename):
            below = below.tb_next
        if is_ours(file) and (below is None or not file.endswith(_CALL_BACK)):
            trace.tb_next.tb_next = None
            return
        if is_ours(file) and below is not None and _same_line(trace, below):
            trace.tb_next = below.tb_next
            continue
        trace.tb_next = below
        trace = below


def _same_line(trace: TracebackType, below: TracebackType) -> bool:
    """Whether a lambda stands in the very line that handed it over; one of them is shown."""
    one, other = trace.tb_frame.f_code, below.tb_frame.f_code
    same = one.co_filename == other.co_filename and trace.tb_lineno == below.tb_lineno
    return same and other.co_name == "<lambda>"


_CALL_BACK = (f"tracing{os.sep}control.py", f"jupyter{os.sep}flow.py")
"""Files of ours that call functions of the user, which a traceback must go on to show."""
