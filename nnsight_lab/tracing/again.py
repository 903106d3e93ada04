"""`with tracer.iter[1:3]:` the body of a `with` block, run once more for each further step.

Python runs such a body once. Its source is looked up where the block stands, and run again in the
same variables, so lists, counters and conditions do what they do in a loop. Where there is no
source to look up, or the body leaves the block by itself, the loop is the way to say it. A notebook
that rewrites a cell says what became of it (`rewritten`).
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from nnsight_lab.errors import GraphError
from nnsight_lab.tracing.names import assign_in_frame
from nnsight_lab.tracing.source import user_line

__all__ = ["Body", "rewritten"]

_rewritten: dict[str, ast.Module] = {}
"""The code of cells that run now and are not what their text says, by file."""

_LEAVES = (ast.Return, ast.Break, ast.Continue, ast.Yield, ast.YieldFrom, ast.Await)


@contextmanager
def rewritten(file: str, tree: ast.Module) -> Iterator[None]:
    """While this is open, the code of `file` is `tree`, whatever its text says."""
    _rewritten[file] = tree
    try:
        yield
    finally:
        del _rewritten[file]


class Body:
    """The body of the `with` block that a frame is entering."""

    def __init__(self, frame: FrameType) -> None:
        self._frame = frame
        block = _block_at(frame)
        self._code = compile(
            ast.Module(block.body, type_ignores=[]), frame.f_code.co_filename, "exec"
        )
        names = [node for part in block.body for node in ast.walk(part)]
        self._bound = {node.id for node in names if isinstance(node, ast.Name) and _is_set(node)}
        target = block.items[-1].optional_vars
        self._step = target.id if isinstance(target, ast.Name) else ""

    def run(self, step: int) -> None:
        """Run it once more, as if the block had been entered for `step`."""
        frame = self._frame
        if frame.f_locals is frame.f_globals:
            own = frame.f_globals
            own.update({self._step: step} if self._step else {})
            _execute(self._code, own)
            return
        # One dict for both, so that functions within the body see the variables around it.
        names = {**frame.f_globals, **frame.f_locals}
        if self._step:
            names[self._step] = step
        _execute(self._code, names)
        changed = {name for name in (*self._bound, self._step) if name in names}
        assign_in_frame(frame, {name: names[name] for name in sorted(changed)})


def _execute(code: CodeType, names: dict[str, Any]) -> None:
    exec(code, names)  # noqa: S102 - the user's own lines, where they stand


def _is_set(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def _block_at(frame: FrameType) -> ast.With:
    """The `with` statement whose last item is on the line the frame is at."""
    found = [
        node
        for node in ast.walk(_tree_of(frame))
        if isinstance(node, ast.With) and _spans(node.items[-1].context_expr, frame.f_lineno)
    ]
    leaves = any(isinstance(node, _LEAVES) for block in found for node in ast.walk(block))
    if len(found) != 1 or leaves:
        why = "it leaves the block by itself" if leaves else "its source is not at hand"
        raise GraphError(
            f"The body of this block cannot be run for several steps: {why}.",
            hint="Write a loop: for step in tracer.iter[:]: …",
        ).at(user_line())
    return found[0]


def _tree_of(frame: FrameType) -> ast.Module:
    """The code that a frame runs; nothing where it cannot be had."""
    file = frame.f_code.co_filename
    if file in _rewritten:
        return _rewritten[file]
    try:
        return ast.parse("".join(linecache.getlines(file, frame.f_globals)))
    except SyntaxError:
        return ast.Module([], type_ignores=[])


def _spans(node: ast.expr, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)
