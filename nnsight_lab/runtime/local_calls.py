"""Calls of the user's own Python functions, on real values, in the process that holds them."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nnsight_lab.errors import NotSupported, OpFailed
from nnsight_lab.ir import LocalCall
from nnsight_lab.runtime.host import Host
from nnsight_lab.runtime.values import copied

__all__ = ["called"]

_NOT_THE_USER = tuple(
    str(Path(file).parent) + os.sep for file in (Path(__file__).parent, torch.__file__)
)


def called(
    node: LocalCall,
    functions: Mapping[str, Callable[..., Any]],
    host: Host,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """What the function of a local call gives. It gets copies, and gives one.

    Raises:
        NotSupported: the function did not come with the graph.
        OpFailed: the function raised; its own exception is the cause.
    """
    function = functions.get(node.function)
    if function is None:
        raise NotSupported(
            f"The graph calls the local function {node.function!r}, which is not here.",
            hint="A function stays with the graph it was recorded in; bytes do not hold it. "
            "run.save(path) keeps it, and nl.load(path, trust=True) brings it back.",
        )
    try:
        return copied(host.aside(function, copied(args), copied(dict(kwargs))))
    except Exception as exc:  # a seam: a function of the user's may raise anything
        raise OpFailed(
            f"{node.function} raised {type(exc).__name__}: {exc}\n  in {_line_of(exc)}",
            hint="The line below called it. Its own error is shown above this one.",
            node=node.id,
        ).at(node.where) from exc


def _line_of(exc: BaseException) -> str:
    """The innermost line of the user's function that the exception came through."""
    frames = traceback.extract_tb(exc.__traceback__)
    mine = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_USER)]
    own = mine or frames
    text = f":  {own[-1].line}" if own[-1].line else ""
    return f"{own[-1].filename}, line {own[-1].lineno}{text}"
