"""Errors at the user's own line: the line that carries a marker comment in the test's file."""

from __future__ import annotations

import inspect
import traceback
from pathlib import Path

import nnsight_lab
from nnsight_lab.errors import LabError

__all__ = ["assert_at", "frames_of_ours"]


def assert_at(error: LabError, marker: str) -> None:
    """The error names the file of the calling test, and the one line marked `# <marker>`."""
    caller = inspect.stack()[1].filename
    lines = Path(caller).read_text(encoding="utf-8").splitlines()
    marked = [number for number, line in enumerate(lines, 1) if line.endswith(f"# {marker}")]
    assert len(marked) == 1, f"mark exactly one line with {marker!r}"
    assert error.where is not None
    assert (error.where.file, error.where.line) == (caller, marked[0])
    assert str(error.where.line) in str(error)


def frames_of_ours(error: BaseException) -> int:
    """How many frames of the package a printed traceback would show."""
    home = str(Path(nnsight_lab.__file__).parent)
    shown = "".join(traceback.format_exception(error))
    return shown.count(f'File "{home}')
