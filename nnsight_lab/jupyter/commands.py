"""`%nnl`: its words, each a function of the same name here."""

from __future__ import annotations

from typing import Any

from nnsight_lab.errors import MagicUsage
from nnsight_lab.jupyter.bar import loading
from nnsight_lab.jupyter.run_table import RunTable
from nnsight_lab.models.lab import Lab, connect
from nnsight_lab.models.language_model import LanguageModel
from nnsight_lab.models.run import Run
from nnsight_lab.models.traced import TracedModel
from nnsight_lab.models.under_way import runs_under_way

__all__ = ["WORDS", "Commands"]


class Commands:
    """What `%nnl` does; remembers the connected lab and the model in use.

    space: the user's variables. shell: the notebook, to show what takes long.
    """

    def __init__(self, space: dict[str, Any], shell: Any = None) -> None:
        self._space = space
        self._shell = shell
        self.lab: Lab | None = None
        self.model: TracedModel | None = None

    def do(self, line: str) -> Any:
        """Carry out one line. Raises `MagicUsage`, and what its word raises."""
        word, _, rest = line.strip().partition(" ")
        if word in WORDS:
            return getattr(self, word)(rest.split())
        hint = ", ".join(f"%nnl {known}" for known in WORDS)
        raise MagicUsage(f"%nnl {word or '(nothing)'}?", hint=hint)

    def connect(self, words: list[str]) -> Lab:
        """Connect to a lab's server."""
        urls, options = _options(words, {"--token": "", "--as": "lab"})
        if len(urls) > 1:
            raise MagicUsage("One address, please.", hint="%nnl connect URL --token T --as lab")
        self.lab = connect(urls[0] if urls else None, token=options["--token"] or None)
        self._space[options["--as"]] = self.lab
        return self.lab

    def use(self, words: list[str]) -> TracedModel:
        """Choose the model that `%%trace` uses when none is named."""
        names, options = _options(words, {"--as": "lm"})
        if len(names) != 1:
            raise MagicUsage("Which model?", hint="%nnl use tiny, or %nnl use VARIABLE")
        named = self._space.get(names[0])
        if isinstance(named, TracedModel):
            model = named
        else:
            with loading(names[0], self._shell):
                model = self.lab.model(names[0]) if self.lab else LanguageModel(names[0])
            self._space[options["--as"]] = model
        self.model = model
        return model

    def code(self, words: list[str]) -> None:
        """Print a run as a program; nothing is returned, so that it reads as code, not as text."""
        name = words[0] if words else "run"
        run = self._space.get(name)
        if len(words) > 1 or not isinstance(run, Run):
            raise MagicUsage(f"{name} is not a run.", hint="%nnl code, or %nnl code RUN")
        print(run.to_python())

    def runs(self, words: list[str]) -> RunTable:
        """The runs of this notebook that have not ended."""
        if words:
            raise MagicUsage("%nnl runs takes nothing.", hint="%nnl cancel ID")
        return RunTable(runs_under_way(), self._space)

    def cancel(self, words: list[str]) -> None:
        """Cancel one run, by id or by the variable that holds it, or the only one there is."""
        going = runs_under_way()
        named = self._space.get(words[0]) if words else None
        if len(words) == 1 and isinstance(named, Run) and not named.done:
            named.cancel()
            print(f"asked to stop: {words[0]}")
            return
        if words == ["all"]:
            found = list(going)
        else:
            found = [run for run in going if not words or run.id.startswith(words[0])]
        if len(found) != 1 and words != ["all"]:
            said = f"{len(found)} runs are under way" if found else "No such run is under way"
            raise MagicUsage(f"{said}.", hint="%nnl runs lists them; %nnl cancel ID, or all.")
        for run in found:
            run.cancel()
        print(f"asked to stop: {', '.join(run.id[:8] for run in found) or 'nothing'}")


WORDS = ("connect", "use", "code", "runs", "cancel")
"""The words of `%nnl`; each is a method of `Commands`."""


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
