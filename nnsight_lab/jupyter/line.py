"""The line of a `%%trace`, read: a model, prompts, options.

    %%trace lm "The capital of France is" -s h --show lens

Prompts are Python string literals, or `{expressions}`; nothing inside a plain string is expanded,
so quotes, braces, `$`, emoji and trailing spaces mean themselves. This file knows no notebook.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from nnsight_lab.errors import MagicUsage

__all__ = ["OPTIONS", "USAGE", "VALUED", "VIEWS", "TraceLine", "parse_trace_line", "pieces"]

USAGE = """%%trace [MODEL] [PROMPT …] [options]

MODEL    a variable that holds a model (default: %nnl use NAME, else the only one there is)
PROMPT   "text", or {expression}; several make a padded batch
         left out, the body brings its own: with tracer.invoke(prompt):
-g, --generate N generate at most N tokens; the body stands in every step (tracer.iter)
--temperature T, --top-k K, --top-p P   sample; otherwise the likeliest token is taken
--seed S         makes sampling repeat itself
-s, --save a,b   bring back only these names (default: every assigned name with a recorded value)
--then RUN       the prompt of an earlier run, after its edits; in place of a prompt
--on NAME        where to run: local, or the variable of a connected lab
--bg             go on at once; the run fills in behind: run.wait(), await run, %nnl cancel
--live           show tokens and saved values while the model runs; sliders move it again
--timeout S      cancel what has not ended after S seconds
--scan           shapes only: nothing runs
--explain        what would run, where, and what it costs: nothing runs
--no-peek        refuse what needs a value while the cell is recorded
--graph          show the recorded intervention graph
--as NAME        the variable for the run (default: run)
--show a,b       draw under the cell: lens, attn, probs, norms, tokens, none
--diff RUN       compare what is saved with the same names of an earlier run
-q, --quiet      no cost line"""

_VALUED = {
    "-s": "save", "--save": "save", "--on": "on", "--as": "name", "--show": "show",
    "--timeout": "timeout", "--diff": "diff", "--then": "then",
}  # fmt: skip
_FLAGS = {
    "--graph": "graph", "--no-peek": "no_peek", "-q": "quiet", "--quiet": "quiet",
    "--bg": "background", "--live": "live", "--scan": "scan", "--explain": "explain",
}  # fmt: skip
"""Options without a value, and the field of `TraceLine` that each sets."""

VIEWS = ("lens", "attn", "probs", "norms", "tokens")
"""What `--show` can draw."""

_GENERATING: dict[str, tuple[str, type[int | float]]] = {
    "-g": ("max_new_tokens", int),
    "--generate": ("max_new_tokens", int),
    "--temperature": ("temperature", float),
    "--top-k": ("top_k", int),
    "--top-p": ("top_p", float),
    "--seed": ("seed", int),
}
"""Options of a generation: their names for `lm.generate`, and the numbers they take."""

OPTIONS = (*_FLAGS, *_VALUED, *_GENERATING)
"""Every option of the line, as it is written."""

VALUED = (*_VALUED, *_GENERATING)
"""Those that the word after them belongs to."""


@dataclass(frozen=True)
class TraceLine:
    """What a `%%trace` line says.

    model: a Python expression, or "". prompts: Python expressions, one a prompt.
    save: names to bring back, or None for all. on: "" when not said.
    generation: options for `lm.generate`; empty for a trace.
    timeout: seconds, or None. diff, then: expressions for a run, or "".
    """

    model: str = ""
    prompts: tuple[str, ...] = ()
    save: tuple[str, ...] | None = None
    on: str = ""
    name: str = "run"
    show: tuple[str, ...] = ()
    graph: bool = False
    no_peek: bool = False
    quiet: bool = False
    background: bool = False
    live: bool = False
    scan: bool = False
    explain: bool = False
    timeout: float | None = None
    diff: str = ""
    then: str = ""
    generation: Mapping[str, int | float] = field(default_factory=dict)


def parse_trace_line(line: str) -> TraceLine:
    """Read the line of a `%%trace`.

    Raises:
        MagicUsage: an unknown option, an unclosed quote or brace, or too many models.
    """
    words: list[str] = []
    prompts: list[str] = []
    options: dict[str, str | bool] = {}
    numbers: dict[str, int | float] = {}
    rest = pieces(line)
    for kind, text in rest:
        if kind == "string":
            prompts.append(text)
        elif kind == "braces":
            prompts.append(text[1:-1].strip())
        elif text.partition("=")[0] in _GENERATING:
            _read_number(text, rest, numbers)
        elif text.startswith("-") and len(text) > 1:
            _read_option(text, rest, options)
        else:
            words.append(text)
    if len(words) > 1:
        raise MagicUsage(
            f"One model, not {len(words)}: {', '.join(words)}.",
            hint='Put prompts in quotes: %%trace lm "The capital of France is".',
        )
    if numbers and "max_new_tokens" not in numbers:
        raise MagicUsage(
            f"{', '.join(numbers)}: how to generate, but not that it should.",
            hint="Say how many tokens: -g 20.",
        )
    return replace(_line(words, prompts, options), generation=numbers)


def _line(words: list[str], prompts: list[str], options: dict[str, str | bool]) -> TraceLine:
    save, show = options.get("save"), str(options.get("show", ""))
    shown = _names(show)
    for part in shown:
        if part not in (*VIEWS, "none"):
            hint = f"Views: {', '.join(VIEWS)}, none."
            raise MagicUsage(f"--show {part} is not a view.", hint=hint)
    name = str(options.get("name", "run"))
    if not name.isidentifier():
        raise MagicUsage(f"--as {name} is not a name.", hint="Give a Python name: --as patched.")
    flags: dict[str, Any] = {field: True for field in _FLAGS.values() if options.get(field)}
    said = TraceLine(
        model=words[0] if words else "",
        prompts=tuple(prompts),
        save=None if save is None else _names(str(save)),
        on=str(options.get("on", "")),
        name=name,
        show=tuple(part for part in shown if part != "none"),
        timeout=_seconds(options.get("timeout")),
        diff=str(options.get("diff", "")),
        then=str(options.get("then", "")),
        **flags,
    )
    _check_together(said)
    return said


def _seconds(value: str | bool | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < _LONGEST_S:
        raise MagicUsage(f"--timeout takes a number of seconds, not {value}.", hint="--timeout 30")
    return seconds


_LONGEST_S = 1e7
"""The longest timeout; more cannot be waited for, nor need be."""


def _check_together(said: TraceLine) -> None:
    """Raise `MagicUsage` for options that ask for a run and for none."""
    without = [name for name in ("--scan", "--explain") if getattr(said, _FLAGS[name])]
    given = {"--bg": said.background, "--live": said.live, "--diff": said.diff, "--show": said.show}
    given["--timeout"] = said.timeout
    asked = [name for name, value in given.items() if value]
    if len(without) > 1 or (without and asked):
        raise MagicUsage(
            f"{without[0]} runs nothing, so it does not go with {(without[1:] + asked)[0]}.",
            hint="Leave one of them out.",
        )


def _names(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _read_number(
    text: str, rest: Iterator[tuple[str, str]], numbers: dict[str, int | float]
) -> None:
    option, equals, value = text.partition("=")
    name, kind = _GENERATING[option]
    if not equals:
        value = next(rest, ("word", ""))[1]
    try:
        numbers[name] = kind(_unquoted(value))
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        said = f"not {value!r}" if value else "and has none"
        raise MagicUsage(f"{option} takes {what}, {said}.", hint="%%trace lm -g 20 …") from None


def _read_option(
    text: str, rest: Iterator[tuple[str, str]], options: dict[str, str | bool]
) -> None:
    option, equals, value = text.partition("=")
    if option in _FLAGS and not equals:
        options[_FLAGS[option]] = True
    elif option in _VALUED:
        if not equals:
            value = next(rest, ("word", ""))[1]
        value = _unquoted(value)
        if not value:
            raise MagicUsage(f"{option} needs a value.", hint="%%trace? lists the options.")
        options[_VALUED[option]] = value
    else:
        near = get_close_matches(option, OPTIONS, 1, 0.5)
        hint = f"Did you mean {near[0]}?" if near else "%%trace? lists the options."
        raise MagicUsage(f"%%trace has no option {option}.", hint=hint)


def _unquoted(value: str) -> str:
    """The value of an option without the quotes it may be written in."""
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in ("'", '"')
    return value[1:-1].strip() if quoted else value


def pieces(line: str) -> Iterator[tuple[str, str]]:
    """The line cut into `("string", …)`, `("braces", …)` and `("word", …)`.

    Raises:
        MagicUsage: at a quote or brace that is not closed.
    """
    place = 0
    while place < len(line):
        if line[place].isspace():
            place += 1
            continue
        kind, end = _piece_at(line, place)
        yield kind, line[place:end]
        place = end


def _piece_at(line: str, place: int) -> tuple[str, int]:
    if line[place] == "{":
        return "braces", _end_of_braces(line, place)
    prefix = 0
    while prefix < 2 and line[place + prefix : place + prefix + 1] in tuple("rRfFuU"):
        prefix += 1
    if line[place + prefix : place + prefix + 1] in ('"', "'"):
        return "string", place + _end_of_string(line[place:])
    end = place
    while end < len(line) and not line[end].isspace():
        end += 1
    return "word", end


def _end_of_string(text: str) -> int:
    """Where the string literal that `text` begins with ends, by Python's own tokenizer."""
    depth = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            name = tokenize.tok_name[token.type]
            depth += (name == "FSTRING_START") - (name == "FSTRING_END")
            if token.type == tokenize.STRING or (name == "FSTRING_END" and depth == 0):
                return len(text[: token.end[1]])
            if depth == 0 and token.type == tokenize.ERRORTOKEN:
                break
    except tokenize.TokenError:
        pass
    raise MagicUsage("A quote in the %%trace line is not closed.", hint='Close it with ".')


def _end_of_braces(line: str, place: int) -> int:
    """The first closing brace up to which there is a whole Python expression."""
    for end in range(place + 1, len(line)):
        if line[end] == "}":
            try:
                ast.parse(line[place + 1 : end].strip(), mode="eval")
            except SyntaxError:
                continue
            return end + 1
    raise MagicUsage(
        "A { in the %%trace line holds no Python expression.",
        hint='Write {variable}, or put text in quotes: "{like this}".',
    )
