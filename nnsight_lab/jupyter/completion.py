"""What Tab offers: options and models on a line of ours, modules and names of values in any cell.

    %%trace lm --sh<Tab>          options, models, views, labs, runs
    lm.layers[0].at<Tab>          modules, standard names and values, without running anything
    lm.get("model.layers.0.<Tab>  module paths

Only names, attributes and numbers in brackets are followed, and only from a model on, so that
looking at what could be written never runs it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from IPython.core.completer import (
    CompletionContext,
    SimpleCompletion,
    SimpleMatcherResult,
    context_matcher,
)

from nnsight_lab.errors import LabError, MagicUsage
from nnsight_lab.jupyter.commands import WORDS
from nnsight_lab.jupyter.line import OPTIONS, VALUED, VIEWS, pieces
from nnsight_lab.models.lab import Lab
from nnsight_lab.models.run import Run
from nnsight_lab.models.traced import TracedModel
from nnsight_lab.models.under_way import runs_under_way
from nnsight_lab.tracing import Envoy

__all__ = ["Offer", "complete_in", "offered"]

_PATH = r"[A-Za-z_]\w*(?:\.\w+|\[-?\d+\])*"
_ATTRIBUTE = re.compile(rf"({_PATH})\.(\w*)$")
_IN_QUOTES = re.compile(rf"({_PATH})(?:\.get\(|\[)\s*[\"']([\w.]*)$")
_LOOP = r"\bfor\s+{name}\s+in\s+({path})"
_TRACE = re.compile(r"\s*%%?trace\b")
_NNL = re.compile(r"\s*%nnl\b")


class Offer(NamedTuple):
    """Words that could stand in place of `fragment`, the part that is written already.

    kind: what they are, for the icon beside them. alone: whether nothing else fits there.
    """

    words: tuple[str, ...]
    fragment: str
    kind: str
    alone: bool = True


def offered(line: str, cell: str, space: dict[str, Any], first: bool) -> Offer | None:
    """What fits after `line`, or None where we have nothing to say.

    line: the text up to the cursor, of its line. cell: all of the cell. space: the user's
    variables. first: whether it is the first line of its cell.
    """
    if first and _TRACE.match(line):
        return _on_trace_line(line, space)
    if _NNL.match(line):
        return _on_nnl_line(line, space)
    quoted = _IN_QUOTES.search(line)
    if quoted:
        return _paths_below(_module(quoted[1], cell, space), quoted[2])
    attribute = _ATTRIBUTE.search(line)
    if attribute is None:
        return None
    found = _module(attribute[1], cell, space)
    return None if found is None else _chosen(_names_of(found), attribute[2], "instance")


def _on_trace_line(line: str, space: dict[str, Any]) -> Offer | None:
    try:
        said = [*pieces(_TRACE.sub("", line, count=1))]
    except MagicUsage:
        return None  # in a prompt: a quote or a brace is open
    kind, fragment = said.pop() if said and not line[-1].isspace() else ("word", "")
    if kind != "word":
        return None
    words = [text for _, text in said]
    option, equals, value = fragment.partition("=")
    if equals and option.startswith("--"):
        words, fragment = [*words, option], value
    last = words[-1] if words else ""
    if last == "--show":
        return _chosen((*VIEWS, "none"), fragment.rpartition(",")[2], "magic")
    if last == "--on":
        return _chosen(("local", *_holding(space, Lab)), fragment, "instance")
    if last in ("--diff", "--then"):
        return _chosen(_holding(space, Run), fragment, "instance")
    if last in VALUED:
        return None
    if fragment.startswith("-"):
        return _chosen([each for each in OPTIONS if each not in words], fragment, "magic")
    return _chosen(_holding(space, TracedModel), fragment, "instance")


def _on_nnl_line(line: str, space: dict[str, Any]) -> Offer | None:
    before, _, fragment = line.rpartition(" ")
    words = before.split()[1:]
    if not words:
        return _chosen(WORDS, fragment, "magic")
    match words[0]:
        case "use":
            names = [*_holding(space, TracedModel), *_served(space), "tiny"]
            return _chosen(dict.fromkeys(names), fragment, "instance")
        case "code":
            return _chosen(_holding(space, Run), fragment, "instance")
        case "cancel":
            waiting = [name for name in _holding(space, Run) if not space[name].done]
            ids = [run.id[:8] for run in runs_under_way()]
            return _chosen((*waiting, *ids, "all"), fragment, "instance")
    return None


def _served(space: dict[str, Any]) -> list[str]:
    """Names of the models of connected labs; one that does not answer has none."""
    found: list[str] = []
    for name in _holding(space, Lab):
        try:
            found += [model.name for model in space[name].models()]
        except LabError:
            continue
    return found


def _holding(space: dict[str, Any], kind: type) -> list[str]:
    held = (name for name, value in space.items() if isinstance(value, kind))
    return sorted(name for name in held if not name.startswith("_"))


def _module(text: str, cell: str, space: dict[str, Any]) -> TracedModel | Envoy | None:
    """The model or module that a path stands for, or None. Nothing but names is looked up."""
    node = ast.parse(text, mode="eval").body
    steps: list[str | int] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            steps.append(node.attr)
        elif isinstance(node, ast.Subscript):
            steps.append(ast.literal_eval(node.slice))
        else:
            return None
        node = node.value
    found: Any = space.get(node.id)
    if not isinstance(found, TracedModel | Envoy):
        found = _of_loop(node.id, cell, space)
    for step in reversed(steps):
        found = _step(found, step)
    return found if isinstance(found, TracedModel | Envoy) else None


def _of_loop(name: str, cell: str, space: dict[str, Any]) -> Any:
    """What a variable of a loop over modules in this cell stands for: the first of them."""
    loop = re.search(_LOOP.format(name=re.escape(name), path=_PATH), cell)
    if loop is None or name in loop[1].split("."):
        return None
    return _step(_module(loop[1], "", space), 0)


def _step(found: Any, step: str | int) -> Any:
    """One step down; a value, such as `.output`, is no module and is not asked for."""
    if not isinstance(found, TracedModel | Envoy):
        return None
    try:
        if isinstance(step, int):
            return found[step] if isinstance(found, Envoy) else None
        return found.get(step)
    except LabError:
        return None


def _names_of(found: TracedModel | Envoy) -> list[str]:
    return [name for name in dir(found) if not name.isdigit()]


def _paths_below(found: TracedModel | Envoy | None, fragment: str) -> Offer | None:
    if found is None:
        return None
    head, dot, rest = fragment.rpartition(".")
    below = _step_along(found, head) if head else found
    if below is None:
        return None
    names = [name for name in _children(below) if name.startswith(rest)]
    return Offer(tuple(f"{head}{dot}{name}" for name in names), fragment, "path") if names else None


def _step_along(found: TracedModel | Envoy, path: str) -> Any:
    for part in path.split("."):
        found = _step(found, part)
    return found


def _children(found: TracedModel | Envoy) -> list[str]:
    numbers = list(map(str, range(len(found)))) if isinstance(found, Envoy) else []
    modules = (name for name in dir(found) if not name.startswith("_"))
    return [*numbers, *(name for name in modules if isinstance(_step(found, name), Envoy))]


def _chosen(words: Iterable[str], fragment: str, kind: str) -> Offer | None:
    hidden = not fragment.startswith("_")
    found = [word for word in words if word.startswith(fragment)]
    shown = tuple(word for word in found if not (hidden and word.startswith("_")))
    return Offer(shown, fragment, kind) if shown else None


def _matcher(space: Callable[[], dict[str, Any]]) -> Any:
    @context_matcher(identifier="nnsight_lab", priority=200.0)  # type: ignore[untyped-decorator]
    def match(context: CompletionContext) -> SimpleMatcherResult:
        offer = offered(
            context.text_until_cursor, context.full_text, space(), context.cursor_line == 0
        )
        if offer is None:
            return {"completions": []}  # a new one: whoever asked writes into it
        return {
            "completions": [SimpleCompletion(text=word, type=offer.kind) for word in offer.words],
            "matched_fragment": offer.fragment,
            "ordered": True,
            "suppress": offer.alone,
        }

    return match


def complete_in(shell: Any) -> None:
    """Offer our names in a shell, once."""
    completer = getattr(shell, "Completer", None)
    if completer is None:
        return
    others = [
        matcher
        for matcher in completer.custom_matchers
        if getattr(matcher, "matcher_identifier", "") != "nnsight_lab"
    ]
    completer.custom_matchers[:] = [*others, _matcher(lambda: shell.user_ns)]
