"""%%trace and %nnl: an experiment in a cell. `%load_ext nnsight_lab` adds them.

    %nnl connect http://127.0.0.1:8765 --token …
    %nnl use tiny

    %%trace "The capital of France is" --show lens
    h = lm.layers[2].output
    logits = lm.logits[:, -1]

The cell's body is the body of `with model.trace(prompt)`. What it assigns comes back as tensors.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand

from nnsight_lab.errors import LabError, SourceLine
from nnsight_lab.jupyter.bar import bars_in, loading
from nnsight_lab.jupyter.body import as_python, begins_at_user, compile_body
from nnsight_lab.jupyter.chosen import chosen_model, tracer_for
from nnsight_lab.jupyter.commands import Commands
from nnsight_lab.jupyter.completion import complete_in
from nnsight_lab.jupyter.late import Late
from nnsight_lab.jupyter.line import USAGE, parse_trace_line
from nnsight_lab.jupyter.live.following import draw_plots
from nnsight_lab.jupyter.recording import Recording
from nnsight_lab.jupyter.shown import other_run, show_cell
from nnsight_lab.tracing.source import user_line

__all__ = ["TraceMagics", "register"]


@magics_class
class TraceMagics(Magics):
    """The magics of one notebook."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._shell: Any = shell
        self.commands = Commands(shell.user_ns, shell)

    @no_var_expand
    @line_cell_magic
    def trace(self, line: str, cell: str = "") -> None:
        magic = user_line()
        place = self._place(f"%%trace {line}\n{cell}", magic)
        with begins_at_user(place, magic, self._rendered):
            said = parse_trace_line(line)
            python = as_python(cell, self._shell.transform_cell)
            body = compile_body(python, place.file, first_line=2)
            space = self._shell.user_ns
            other = other_run(space, said.diff)  # before this run may take its name
            with loading(said.model or "the model", self._shell):
                model = chosen_model(space, said, self.commands.model)
            tracer = tracer_for(space, model, said, body)
            recording = Recording(space, model, tracer, said)
            run = recording.go(body)
            if said.background:
                Late(recording, said, other, place, self._rendered).follow(run)
            else:
                show_cell(space, tracer, run, said, body, other)

    trace.__doc__ = USAGE

    @line_magic
    def nnl(self, line: str) -> Any:
        """%nnl connect URL [--token T] [--as NAME]   connect to a lab's server; it becomes `lab`
        %nnl use NAME [--as NAME]        the model %%trace uses by default; a served or bundled
                                         one becomes `lm`, a variable keeps its name
        %nnl code [RUN]                  the last run (`run`), or a run of that name, as plain
                                         PyTorch with hooks, which runs without this package
        %nnl runs                        the runs that have not ended
        %nnl cancel [ID | RUN | all]     cancel one of them, by id or variable, or all
        """
        magic = user_line()
        with begins_at_user(self._place(f"%nnl {line}", magic), magic, self._rendered):
            return self.commands.do(line)

    def _rendered(self, exc: BaseException, trace: TracebackType | None) -> list[str]:
        if isinstance(exc, SyntaxError):
            lines: list[str] = self._shell.SyntaxTB.structured_traceback(type(exc), exc, [])
            return lines
        if trace is None and isinstance(exc, LabError):
            return [f"{type(exc).__name__}: {exc}"]
        shown: list[str] = self._shell.InteractiveTB.structured_traceback(
            type(exc), exc, trace, tb_offset=0
        )
        return shown

    def _place(self, text: str, magic: SourceLine | None) -> SourceLine:
        """The first line of this cell, by a file name that knows the cell's text."""
        number = magic.cell if magic is not None else None
        file = self._shell.compile.cache(text, number or self._shell.execution_count)
        return SourceLine(file, 1, number)


def register(shell: Any) -> None:
    """Add the magics to a shell."""
    shell.register_magics(TraceMagics(shell))
    bars_in(shell)
    complete_in(shell)
    draw_plots()
    if _with_body not in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.append(_with_body)


def _with_body(lines: list[str]) -> list[str]:
    """A `%%trace` line alone in its cell with an empty body, which IPython would refuse."""
    alone = len(lines) == 1 and lines[0].split()[:1] == ["%%trace"]
    return [*lines, "\n"] if alone and not lines[0].rstrip().endswith("?") else lines
