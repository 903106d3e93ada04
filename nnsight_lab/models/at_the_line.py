"""Errors of a model or a lab as they leave the package: at the user's own line, and short."""

from __future__ import annotations

from nnsight_lab.errors import LabError
from nnsight_lab.tracing.source import for_the_user

__all__ = ["at_the_line"]


def at_the_line(exc: LabError) -> LabError:
    """The error at the user's line; its cause is kept, without frames and further causes.

    raise at_the_line(exc) from exc.__cause__
    """
    cause = exc.__cause__
    if cause is not None:
        cause.__cause__ = cause.__context__ = cause.__traceback__ = None
    exc.__context__ = cause
    return for_the_user(exc)
