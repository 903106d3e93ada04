"""A finished run: saved names to tensors, what it cost, and views of it.

Views (`run.fig`) are named in the settings and imported when first asked for, so a run can be used
where no plotting library is installed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnsight_lab.contract import Inputs, PeekCost, RunResult, Several
from nnsight_lab.errors import NotSaved
from nnsight_lab.ir import Graph
from nnsight_lab.kernels.summary import summary_of
from nnsight_lab.models.experiment import Experiment, experiment_of
from nnsight_lab.passes import then, with_functions_named
from nnsight_lab.tracing.local_calls import functions_of, names_beside, remember
from nnsight_lab.tracing.source import for_the_user

if TYPE_CHECKING:
    from nnsight_lab.models.traced import TracedModel

__all__ = ["Run"]


class Run(Mapping[str, Any]):
    """A mapping of saved names to tensors, in the order they were saved.

    model: the model that ran. graph: the experiment. inputs: what the model was given.
    prompt: the inputs as the user wrote them. seconds: time by stage. sent_bytes: over the wire.
    steps: forward passes that were made. tokens: the ids sampled at each step, one a row.
    peeks: what looks at values by Python cost before this run, while its block was recorded.
    engine, why: where several engines serve the model, which one ran this, and why not the first.
    """

    def __init__(
        self, model: TracedModel, graph: Graph, inputs: Inputs, prompt: Any, result: RunResult
    ) -> None:
        self.model = model
        self.graph = graph
        self.inputs = inputs
        self.prompt = prompt
        self.seconds: Mapping[str, float] = result.seconds
        self.sent_bytes = result.sent_bytes
        self.steps = result.steps
        self.tokens = result.tokens
        self.engine = result.engine
        self.why = result.why
        self._ended = result.ended
        self.peeks = PeekCost()
        order = [output.name for output in graph.outputs]
        self._values = {name: result.values[name] for name in order if name in result.values}
        self.missing = tuple(name for name in order if name not in result.values)

    def __getitem__(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        parts = {key: value for key, value in self._values.items() if key.startswith(f"{name}[")}
        if parts:
            return _put_together({_keys(key[len(name) :]): part for key, part in parts.items()})
        known = ", ".join(self._values) or "nothing"
        if name in self.missing:
            raise for_the_user(
                NotSaved(
                    f"The step of {name!r} did not happen: the text ended before it.",
                    hint=f"{self.steps} steps ran. The run saved {known}.",
                )
            )
        raise for_the_user(
            NotSaved(f"{name!r} was not saved in this run.", hint=f"It saved {known}.")
        )

    def then(self, graph: Graph) -> Run:
        """This run's edits once more, on the same prompt, saving what `graph` saves instead.

        A read in `graph` of a place this run edits sees the edit. Views are made this way.
        """
        ours, theirs = functions_of(self.graph), functions_of(graph)
        names = names_beside(ours, theirs)
        both = ours | {names[name]: function for name, function in theirs.items()}
        joined = then(self.graph, with_functions_named(graph, names) if theirs else graph)
        return self.model.run_inputs(remember(joined, both), self.inputs, self.prompt)

    @property
    def experiment(self) -> Experiment:
        """What was run, as a value: the graph, its inputs, and a note of the model."""
        return experiment_of(self.model, self.graph, self.inputs, self.prompt)

    def save(self, path: str | Path) -> Path:
        """Write what was run to a file, to run it again: `nl.load(path).run()`."""
        return self.experiment.save(path)

    def to_python(self) -> str:
        """What was run, as a program of plain PyTorch with hooks, which runs without us."""
        return self.experiment.to_python(self.model)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        target = self.model.settings.run_views.get(name)
        if target is not None:
            module, _, attribute = target.partition(":")
            return getattr(import_module(module), attribute)(self)
        if name in self._values:
            return self._values[name]
        raise AttributeError(f"a run has no {name!r}")

    def __dir__(self) -> list[str]:
        views = self.model.settings.run_views
        return [*object.__dir__(self), *views, *(n for n in self._values if n.isidentifier())]

    @property
    def how_far(self) -> str:
        """How many tokens of a generation there were, and why no more; empty for a trace."""
        if isinstance(self.inputs, Several):
            tokens = f", {_counted(len(self.tokens), 'token')}" if self.tokens else ""
            return f"{_counted(len(self.inputs.parts), 'trace')}{tokens}"
        options = getattr(self.inputs, "generation", None)
        if options is None:
            return ""
        made, asked = len(self.tokens), options.max_new_tokens
        if made == asked:
            return _counted(made, "token")
        why = "end of sequence" if self._ended else "nothing further was asked for"
        return f"stopped after {made} of {asked} tokens ({why})"

    def __repr__(self) -> str:
        total = sum(self.seconds.values())
        peeks = str(self.peeks) if self.peeks.count else ""
        parts = [self.model.name, f"{total * 1e3:.1f} ms", self.how_far, peeks]
        lines = [f"<Run on {', '.join(filter(None, parts))}>"]
        if self.why:
            lines.append(f"  ran on {self.engine}: {self.why}")
        for name, value in self._values.items():
            lines.append(f"  {name}: {_described(value)}")
        lines += [f"  {name}: its step did not happen" for name in self.missing]
        return "\n".join(lines)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _keys(path: str) -> tuple[Any, ...]:
    """The keys of a path such as `[0]['a']`; a key that is no literal stays as it is written."""
    found: list[Any] = []
    node = ast.parse(f"x{path}", mode="eval").body
    while isinstance(node, ast.Subscript):
        try:
            found.insert(0, ast.literal_eval(node.slice))
        except ValueError:
            found.insert(0, ast.unparse(node.slice))
        node = node.value
    return tuple(found)


def _put_together(parts: Mapping[tuple[Any, ...], Any]) -> Any:
    """The container the parts were in: a list where the keys count from 0, a dict elsewhere."""
    if () in parts:
        return parts[()]
    inside: dict[Any, dict[tuple[Any, ...], Any]] = {}
    for (key, *rest), value in parts.items():
        inside.setdefault(key, {})[tuple(rest)] = value
    found = {key: _put_together(below) for key, below in inside.items()}
    if set(found) == set(range(len(found))):
        return [found[place] for place in range(len(found))]
    return found


def _described(value: Any) -> str:
    found = summary_of(value)
    if found is not None:
        return str(found)
    return f"{type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else "value"
