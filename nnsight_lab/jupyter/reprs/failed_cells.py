"""A cell that ends in an error of ours: a card with the user's line, then the error in two lines.

IPython's own hook for classes of exceptions; used in a notebook only, where nobody else uses it,
and given back when the extension is unloaded. The whole traceback is folded into the card, and is
its plain text where no HTML is shown. `%tb` and `%debug` see the error as ever.
"""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any

from IPython.display import display

from nnsight_lab.errors import LabError
from nnsight_lab.jupyter.reprs.faults import error_html

__all__ = ["forget_failed_cells", "show_failed_cells"]

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_OURS = (LabError,)


def _show_failed(
    shell: Any,
    kind: type[BaseException],
    error: LabError,
    trace: TracebackType | None,
    tb_offset: int | None = None,
) -> None:
    """Show the card, and leave two lines to the error itself."""
    own = vars(error).get("_render_traceback_")
    lines = own() if own else shell.InteractiveTB.structured_traceback(
        kind, error, trace, tb_offset=tb_offset
    )  # fmt: skip
    text = _COLOURS.sub("", "\n".join(lines))
    display({"text/html": str(error_html(error, text)), "text/plain": text}, raw=True)
    short = [f"\x1b[31m{kind.__name__}\x1b[39m: {error.message}"]
    if error.where is not None:
        short.append(f"  at {error.where}:  {error.where.text}")
    error._render_traceback_ = lambda: short  # type: ignore[attr-defined]
    try:
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
    finally:
        del error._render_traceback_  # type: ignore[attr-defined]
        if own:
            error._render_traceback_ = own  # type: ignore[attr-defined]


def show_failed_cells(shell: Any) -> None:
    """From now on, in a notebook; where somebody has said what is done with errors, that stays."""
    if hasattr(shell, "kernel") and not shell.custom_exceptions:
        shell.set_custom_exc(_OURS, _show_failed)


def forget_failed_cells(shell: Any) -> None:
    """Errors are shown by IPython alone again."""
    if shell.custom_exceptions == _OURS:
        shell.set_custom_exc((), None)
