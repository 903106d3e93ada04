"""%%trace and %nnl: an experiment in a cell. `%load_ext nnsight_lab` adds them.

    %nnl connect http://127.0.0.1:8765 --token …
    %nnl use tiny

    %%trace "The capital of France is" --show lens
    h = lm.layers[2].output
    logits = lm.logits[:, -1]

The cell's body is the body of `with model.trace(prompt)`. What it assigns comes back as tensors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand
from IPython.display import display

from nnsight_lab.errors import LabError, MagicUsage, SourceLine
from nnsight_lab.jupyter.body import LAST, Body, as_python, begins_at_user, compile_body
from nnsight_lab.jupyter.flow import Flow, forget_flow
from nnsight_lab.jupyter.line import USAGE, TraceLine, parse_trace_line
from nnsight_lab.jupyter.live.following import draw_plots
from nnsight_lab.jupyter.lowering import FLOW
from nnsight_lab.models.lab import Lab, connect
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.models.run import Run
from nnsight_lab.models.traced import TracedModel
from nnsight_lab.tracing import Proxy, Tracer
from nnsight_lab.tracing.source import user_line

__all__ = ["TRACER", "TraceMagics", "register"]

TRACER = "tracer"
"""The variable that holds the cell's tracer, as in `with lm.trace(…) as tracer`."""


@magics_class
class TraceMagics(Magics):
    """The magics of one notebook; remembers the connected lab and the model in use."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._shell: Any = shell
        self.lab: Lab | None = None
        self.model: TracedModel | None = None

    @no_var_expand
    @line_cell_magic
    def trace(self, line: str, cell: str = "") -> None:
        magic = user_line()
        place = self._place(f"%%trace {line}\n{cell}", magic)
        with begins_at_user(place, magic, self._rendered):
            said = parse_trace_line(line)
            python = as_python(cell, self._shell.transform_cell)
            body = compile_body(python, place.file, first_line=2)
            model = self._model(said)
            tracer = self._tracer(model, said, body)
            run = self._carry_out(tracer, said, body)
            self._show(tracer, run, said, body)

    trace.__doc__ = USAGE

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

    # Which model, which prompt

    def _model(self, said: TraceLine) -> TracedModel:
        model = self._named(said.model) if said.model else self._default()
        return self._placed(model, said.on) if said.on else model

    def _named(self, expression: str) -> TracedModel:
        found = self._evaluated(expression)
        if not isinstance(found, TracedModel):
            raise MagicUsage(
                f"{expression} is a {type(found).__name__}, not a model.",
                hint="Load one: lm = nl.LanguageModel('tiny'), or put the prompt in quotes.",
            )
        return found

    def _default(self) -> TracedModel:
        if self.model is not None:
            return self.model
        space = self._shell.user_ns
        found = {id(value): value for value in space.values() if isinstance(value, TracedModel)}
        if len(found) == 1:
            return next(iter(found.values()))
        names = [name for name, value in space.items() if isinstance(value, TracedModel)]
        raise MagicUsage(
            f"Which model? There are {', '.join(names)}." if names else "There is no model yet.",
            hint="Name it, %%trace lm …, or choose one with %nnl use NAME.",
        )

    def _placed(self, model: TracedModel, on: str) -> TracedModel:
        if on == "local":
            return model if hasattr(model.executor, "module") else LanguageModel(model.name)
        lab = self._shell.user_ns.get(on)
        if not isinstance(lab, Lab):
            raise MagicUsage(
                f"--on {on}: no connected lab has that name.",
                hint="lab = nl.connect(url, token=…), then --on lab; or --on local.",
            )
        return lab.model(model.name)

    def _evaluated(self, expression: str) -> Any:
        try:
            return eval(expression, self._shell.user_ns)  # the user's own line, own kernel
        except NameError as exc:
            raise MagicUsage(
                f"{expression}: {exc}.", hint="Define it first, or put text in quotes."
            ) from None

    def _tracer(self, model: TracedModel, said: TraceLine, body: Body) -> Tracer[Run]:
        given = [self._evaluated(prompt) for prompt in said.prompts]
        if not given and not body.invokes:
            raise MagicUsage("There is no prompt.", hint='%%trace lm "The capital of France is"')
        options: dict[str, Any] = {"peek": not said.no_peek, **said.generation}
        if isinstance(model, LanguageModel):
            prompt = [given[0] if len(given) == 1 else given] if given else []
            return (model.generate if said.generation else model.trace)(*prompt, **options)
        if said.generation:
            raise MagicUsage(
                f"{model.name} is no language model; it generates nothing.", hint="Leave out -g."
            )
        traced: Tracer[Run] = model.trace(*given, **options)
        return traced

    # Running the body

    def _carry_out(self, tracer: Tracer[Run], said: TraceLine, body: Body) -> Run:
        space = self._shell.user_ns
        space.pop(LAST, None)
        other = space.get(TRACER, space)
        space[TRACER] = tracer
        before = dict(space)
        space[FLOW] = Flow(space)
        try:
            self._record(tracer, said, body, before)
        except BaseException:  # an interrupt as well; it goes on below
            _take_back(space, before)
            if other is not space:
                space[TRACER] = other
            else:
                space.pop(TRACER, None)
            raise
        finally:
            forget_flow(space)
        space[said.name] = tracer.run
        return tracer.run

    def _record(
        self, tracer: Tracer[Run], said: TraceLine, body: Body, before: dict[str, Any]
    ) -> None:
        space = self._shell.user_ns
        tracer.begin()
        try:
            body.run(space)
            # `%time h = …` assigns where the body's own text shows no assignment.
            others = (
                name for name in _changed(space, before) if name.isidentifier() and name[0] != "_"
            )
            assigned = tuple(dict.fromkeys((*body.assigned, *others)))
            for name in assigned if said.save is None else said.save:
                _save(space, name, asked=said.save is not None)
            _save(space, LAST, asked=False)
        finally:
            tracer.end()
        names = (*assigned, *(said.save or ()), LAST)
        tracer.finish({name: space[name] for name in names if name in space}, space.update)

    # Showing what came of it

    def _show(self, tracer: Tracer[Run], run: Run, said: TraceLine, body: Body) -> None:
        if said.graph:
            print(tracer.graph)
        if body.shows:
            last = self._shell.user_ns.pop(LAST, None)
            if last is not None:
                display(last)
        for view in said.show:
            display(getattr(run.fig, view)())
        if not said.quiet:
            print(_cost(run))

    @line_magic
    def nnl(self, line: str) -> Any:
        """%nnl connect URL [--token T] [--as NAME]   connect to a lab's server; it becomes `lab`
        %nnl use NAME [--as NAME]        the model %%trace uses by default; a served or bundled
                                         one becomes `lm`, a variable keeps its name
        %nnl code [RUN]                  the last run (`run`), or a run of that name, as plain
                                         PyTorch with hooks, which runs without this package
        """
        word, _, rest = line.strip().partition(" ")
        magic = user_line()
        with begins_at_user(self._place(f"%nnl {line}", magic), magic, self._rendered):
            if word == "connect":
                return self._connect(rest.split())
            if word == "use":
                return self._use(rest.split())
            if word == "code":
                return self._code(rest.split())
            raise MagicUsage(
                f"%nnl {word or '(nothing)'}?", hint="%nnl connect URL, %nnl use NAME, %nnl code"
            )

    def _connect(self, words: list[str]) -> Lab:
        urls, options = _options(words, {"--token": "", "--as": "lab"})
        if len(urls) > 1:
            raise MagicUsage("One address, please.", hint="%nnl connect URL --token T --as lab")
        self.lab = connect(urls[0] if urls else None, token=options["--token"] or None)
        self._shell.user_ns[options["--as"]] = self.lab
        return self.lab

    def _code(self, words: list[str]) -> None:
        """Print a run as a program; nothing is returned, so that it reads as code, not as text."""
        name = words[0] if words else "run"
        run = self._shell.user_ns.get(name)
        if len(words) > 1 or not isinstance(run, Run):
            raise MagicUsage(f"{name} is not a run.", hint="%nnl code, or %nnl code RUN")
        print(run.to_python())

    def _use(self, words: list[str]) -> TracedModel:
        names, options = _options(words, {"--as": "lm"})
        if len(names) != 1:
            raise MagicUsage("Which model?", hint="%nnl use tiny, or %nnl use VARIABLE")
        named = self._shell.user_ns.get(names[0])
        if isinstance(named, TracedModel):
            model = named
        else:
            model = self.lab.model(names[0]) if self.lab else LanguageModel(names[0])
            self._shell.user_ns[options["--as"]] = model
        self.model = model
        return model


def _options(words: list[str], options: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Words of a line magic apart from its options, and the options over their defaults."""
    plain: list[str] = []
    given = dict(options)
    rest = iter(words)
    for word in rest:
        if word in options:
            given[word] = next(rest, "")
        elif word.startswith("-"):
            raise MagicUsage(f"{word} is no option here.", hint=f"Options: {', '.join(options)}.")
        else:
            plain.append(word)
    if not given.get("--as", "name").isidentifier():
        raise MagicUsage(f"--as {given['--as']!r} is not a name.", hint="Give a Python name.")
    return plain, given


def _save(space: dict[str, Any], name: str, *, asked: bool) -> None:
    """Save what a name holds, as if the body had called `.save()` on it in its last line."""
    if asked and name not in space:
        raise MagicUsage(f"-s {name}: the cell assigns no {name}.", hint="Names: -s h,logits")
    for value in _recorded_in(space.get(name)):
        if value.recorder.open and value.saved_value is None:
            value.save()


_LONGEST = 10_000
"""Containers longer than this are data, not recorded values; they are not searched."""


def _recorded_in(value: Any, seen: set[int] | None = None) -> Iterator[Proxy]:
    """The recorded values a value is or holds, in order; named tuples are tuples."""
    seen = set() if seen is None else seen
    if isinstance(value, Proxy):
        yield value
    elif isinstance(value, list | tuple | dict | deque) and id(value) not in seen:
        seen.add(id(value))
        if len(value) <= _LONGEST:
            for item in value.values() if isinstance(value, dict) else value:
                yield from _recorded_in(item, seen)


def _changed(space: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Variables that are new, or hold another value than before."""
    return [name for name, value in space.items() if value is not before.get(name, space)]


def _take_back(space: dict[str, Any], before: dict[str, Any]) -> None:
    """Variables that a failed cell left with recorded values get what they held before."""
    for name in _changed(space, before):
        if name == LAST or next(_recorded_in(space[name]), None) is not None:
            if name in before:
                space[name] = before[name]
            else:
                del space[name]


def _cost(run: Run) -> str:
    names = [name for name in run if name != LAST]
    size = sum(_bytes(run[name]) for name in run)
    where = run.model.card.capabilities
    took = sum(run.seconds.values()) * 1e3
    how_far = f"{run.how_far}, " if run.how_far else ""
    peeks = f"{run.peeks} before ({run.peeks.seconds * 1e3:.0f} ms), " if run.peeks.count else ""
    saved = ", ".join(names[:6]) + (", …" if len(names) > 6 else "") if names else "nothing"
    return (
        f"{run.model.name} on {where.engine} ({where.device}): {took:.0f} ms, {how_far}"
        f"{peeks}saved {saved} ({_size(size)})"
    )


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, tuple | list):
        return sum(map(_bytes, value))
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return 0


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def register(shell: Any) -> None:
    """Add the magics to a shell."""
    shell.register_magics(TraceMagics(shell))
    draw_plots()
    if _with_body not in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.append(_with_body)


def _with_body(lines: list[str]) -> list[str]:
    """A `%%trace` line alone in its cell with an empty body, which IPython would refuse."""
    alone = len(lines) == 1 and lines[0].split()[:1] == ["%%trace"]
    return [*lines, "\n"] if alone and not lines[0].rstrip().endswith("?") else lines
