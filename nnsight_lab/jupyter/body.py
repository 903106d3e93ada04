"""The cell under a `%%trace`, run as the body of a trace, with the user's own line numbers.

The body runs once, in the user's namespace, while a recording is open. The value of a last
expression is kept to be displayed. Tracebacks begin at the user's line.
"""

from __future__ import annotations

import ast
import contextlib
import io
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from types import CodeType, TracebackType
from typing import Any

from nnsight_lab.errors import LabError, MagicUsage, SourceLine
from nnsight_lab.jupyter.lowering import lower
from nnsight_lab.tracing.again import rewritten
from nnsight_lab.tracing.source import forget_cause, leave_one_frame

__all__ = ["LAST", "Body", "as_python", "begins_at_user", "compile_body"]

LAST = "last line"
"""The name a last expression is saved under; a space, so that no variable can have it."""


@dataclass(frozen=True)
class Body:
    """A compiled cell body.

    assigned: top-level names it assigns, in order. shows: whether it ends in an expression to
    display; one that ends in `;` is not displayed. tree: what runs. invokes: whether it brings
    prompts of its own.
    """

    code: CodeType
    assigned: tuple[str, ...]
    shows: bool
    tree: ast.Module
    invokes: bool

    def run(self, namespace: dict[str, Any]) -> None:
        """Run the body in the user's namespace."""
        with rewritten(self.code.co_filename, self.tree):
            exec(self.code, namespace)  # the user's own cell, in the user's own kernel


def _is_shown(line: ast.stmt) -> bool:
    """Whether a line is `nl.show(…)`, which prints its value by itself."""
    call = line.value if isinstance(line, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func) in ("nl.show", "show")


def compile_body(text: str, filename: str, first_line: int) -> Body:
    """Compile a cell body whose first line is line `first_line` of `filename`.

    Raises:
        SyntaxError: at the user's own line.
        MagicUsage: the body awaits something.
    """
    padded = "\n" * (first_line - 1) + text
    tree = ast.parse(padded, filename)
    _check_waits_for_nothing(tree, filename)
    assigned = tuple(dict.fromkeys(name for node in tree.body for name in _targets(node)))
    shows = bool(tree.body) and isinstance(tree.body[-1], ast.Expr) and not _is_quiet(text)
    shows = shows and not _is_shown(tree.body[-1])
    if shows:
        last = tree.body[-1]
        assert isinstance(last, ast.Expr)
        keep = ast.Assign(targets=[ast.Name(LAST, ast.Store())], value=last.value)
        tree.body[-1] = ast.fix_missing_locations(ast.copy_location(keep, last))
    invokes = any(
        isinstance(node, ast.Attribute) and node.attr == "invoke" for node in ast.walk(tree)
    )
    lowered = lower(tree)
    return Body(compile(lowered, filename, "exec"), assigned, shows, lowered, invokes)


def _check_waits_for_nothing(tree: ast.Module, filename: str) -> None:
    """Raise `MagicUsage` at an `await` of the body itself: it is recorded in one go."""
    nodes: list[ast.AST] = list(tree.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Await | ast.AsyncWith | ast.AsyncFor):
            raise MagicUsage(
                "A %%trace cell is recorded in one go, so it cannot await.",
                where=SourceLine(filename, node.lineno),
                hint="Await in a cell above, or trace in a plain cell, which may await before and after: "
                "with lm.trace(prompt): (async with lets others go on meanwhile).",
            )
        nodes += ast.iter_child_nodes(node)


def _is_quiet(text: str) -> bool:
    """Whether Python text ends in `;`, as notebooks are told not to display a value."""
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    written = [token.string for token in tokens if token.type not in blank]
    return written[-1:] == [";"]


def as_python(text: str, transform: Callable[[str], str]) -> str:
    """A cell body with its `!commands`, `%magics` and `?` made Python, each on its own line.

    transform: what the notebook turns a cell with. It drops blank lines at the top, and makes
    one line of a command that goes on over several; both are given their lines back.

    Raises:
        MagicUsage: the body is another cell magic.
    """
    if text.lstrip().startswith("%%"):
        magic = text.split(maxsplit=1)[0]
        raise MagicUsage(
            f"{magic} cannot stand inside %%trace.", hint=f"Put {magic} above %%trace."
        )
    before = text.splitlines(keepends=True)
    after = transform(text).splitlines(keepends=True)
    lines: list[str] = []
    for _, start, end, first, stop in SequenceMatcher(
        None, before, after, autojunk=False
    ).get_opcodes():
        lines += after[first:stop]
        lines += ["\n"] * ((end - start) - (stop - first))
    return "".join(lines)


def _targets(node: ast.stmt) -> Iterator[str]:
    """Names a statement binds at the top level; not inside functions and classes."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id


@contextlib.contextmanager
def begins_at_user(
    cell: SourceLine,
    magic: SourceLine | None,
    render: Callable[[BaseException, TracebackType | None], list[str]],
) -> Iterator[None]:
    """Show an error from the user's line on, with at most one frame of ours below it.

    cell: the first line of the cell, which an error of the magic's own line is put at.
    magic: where the notebook called the magic, as it sees itself.
    render: turns an error and a traceback into the lines a notebook shows.
    """
    filename = cell.file
    try:
        yield
    except SyntaxError as exc:
        lines = render(exc, None)
        error = MagicUsage(
            f"The cell is not Python: {exc.msg}.", where=replace(cell, line=exc.lineno or 1)
        )
        error._render_traceback_ = lambda: lines  # type: ignore[attr-defined]
        raise error from None
    except Exception as exc:  # the seam between a cell and the notebook that shows its error
        forget_cause(exc)
        if isinstance(exc, LabError) and (exc.where is None or exc.where == magic):
            exc.where = cell
        elif isinstance(exc, MagicUsage) and exc.where is not None:
            exc.where = replace(exc.where, cell=cell.cell)
        trace = _from_user(exc.__traceback__, filename)
        lines = render(exc, trace)
        exc._render_traceback_ = lambda: lines  # type: ignore[attr-defined]
        raise


def _from_user(trace: TracebackType | None, filename: str) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename != filename:
        trace = trace.tb_next
    leave_one_frame(trace)
    return trace
