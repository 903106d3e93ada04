"""A finished run: saved names to tensors, what it cost, and views of it.

Views (`run.fig`) are named in the settings and imported when first asked for, so a run can be used
where no plotting library is installed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Generator, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnsight_lab.contract import Inputs, PeekCost, RunResult, Several
from nnsight_lab.errors import BadSlider, LabError, NotSaved
from nnsight_lab.ir import Graph, Slider
from nnsight_lab.kernels.summary import summary_of
from nnsight_lab.models.background import Behind
from nnsight_lab.models.differences import Differences, differences
from nnsight_lab.models.experiment import Experiment, experiment_of
from nnsight_lab.passes import then, with_functions_named
from nnsight_lab.tracing.local_calls import functions_of, names_beside, remember
from nnsight_lab.tracing.show import is_shown
from nnsight_lab.tracing.source import for_the_user, one_frame

if TYPE_CHECKING:
    from nnsight_lab.models.traced import TracedModel
    from nnsight_lab.tracing import Tracer

__all__ = ["Run"]


class Run(Mapping[str, Any]):
    """A mapping of saved names to tensors, in the order they were saved.

    model: the model that ran. graph: the experiment. inputs: what the model was given.
    prompt: the inputs as the user wrote them. seconds: time by stage. sent_bytes: over the wire.
    steps: forward passes that were made. tokens: the ids sampled at each step, one a row.
    peeks: what looks at values by Python cost before this run, while its block was recorded.
    engine, why: where several engines serve the model, which one ran this, and why not the first.

    A run in the background fills in; `run.wait()` or `await run` waits for its end.
    """

    def __init__(
        self,
        model: TracedModel,
        graph: Graph,
        inputs: Inputs,
        prompt: Any,
        result: RunResult,
        behind: Behind | None = None,
    ) -> None:
        self.model = model
        self.graph = graph
        self.inputs = inputs
        self.prompt = prompt
        self._behind = behind
        self.peeks = PeekCost()
        self._fill(result)

    def _fill(self, result: RunResult) -> None:
        self.seconds: Mapping[str, float] = result.seconds
        self.sent_bytes = result.sent_bytes
        self.steps = result.steps
        self.tokens = result.tokens
        self.engine = result.engine
        self.why = result.why
        self._ended = result.ended
        order = [output.name for output in self.graph.outputs if not is_shown(output.name)]
        self._values = {name: result.values[name] for name in order if name in result.values}
        self.missing = tuple(name for name in order if name not in result.values)

    def __getitem__(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        parts = {key: value for key, value in self._values.items() if key.startswith(f"{name}[")}
        if parts:
            return _put_together({_keys(key[len(name) :]): part for key, part in parts.items()})
        known = ", ".join(self._values) or "nothing"
        if not self.done and name in self.missing:
            raise for_the_user(
                NotSaved(
                    f"{name!r} is not there yet: the run is under way.",
                    hint="run.wait(), or `await run`, waits for it; run.cancel() ends it.",
                )
            )
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

    # A run in the background

    @classmethod
    def awaiting(cls, model: TracedModel, graph: Graph, inputs: Inputs, prompt: Any) -> Run:
        """A run that has not ended, nor begun."""
        return cls(model, graph, inputs, prompt, RunResult({}, {}), Behind())

    @property
    def behind(self) -> Behind | None:
        """How it goes in the background; None for a run that was waited for."""
        return self._behind

    def arrived(self, name: str, value: Any) -> None:
        """A value is there before the run has ended."""
        self._values[name] = value
        self.missing = tuple(other for other in self.missing if other != name)

    def become(self, ended: Run) -> None:
        """Take over what the run has come to."""
        kept = {"_behind": self._behind, "peeks": self.peeks}
        vars(self).update(vars(ended) | kept)

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not. Only one in the background may not have."""
        return self._behind is None or self._behind.done

    @one_frame
    def wait(self, timeout: float | None = None) -> Run:
        """Wait until it has ended; gives the run itself.

        timeout: seconds to wait at most. An interrupt stops the waiting; the run goes on.

        Raises:
            TimedOut: it has not ended by then; it goes on.
            LabError: whatever it failed with.
        """
        if self._behind is not None:
            self._behind.wait(timeout)
        return self

    def __await__(self) -> Generator[Any, None, Run]:
        if self._behind is not None:
            yield from self._behind.awaited().__await__()
        return self

    def cancel(self) -> None:
        """Ask a run that is under way to stop; waiting for it then raises `Cancelled`."""
        if self._behind is not None:
            self._behind.cancel()

    def when_done(self, callback: Callable[[LabError | None], None]) -> None:
        """Call back when it has ended, with what it failed with or None; at once if it has.

        The callback runs on the thread of the run.
        """
        if self._behind is None:
            callback(None)
        else:
            self._behind.when_done(callback)

    def then(self, graph: Graph) -> Run:
        """This run's edits once more, on the same prompt, saving what `graph` saves instead.

        A read in `graph` of a place this run edits sees the edit. Views are made this way.
        """
        ours, theirs = functions_of(self.graph), functions_of(graph)
        names = names_beside(ours, theirs)
        both = ours | {names[name]: function for name, function in theirs.items()}
        joined = then(self.graph, with_functions_named(graph, names) if theirs else graph)
        return self.model.run_inputs(remember(joined, both), self.inputs, self.prompt)

    @one_frame
    def diff(self, other: Run) -> Differences:
        """How far what this run saved is from what `other` saved under the same names.

        Raises:
            NotSaved: they share no name.
            ShapeMismatch: nothing that they share has one shape in both.
        """
        return differences(self, other)

    def trace(self) -> Tracer[Run]:
        """A block on this run's prompt that begins after its edits, and can add its own.

            with run.trace():
                h = lm.layers[2].output.save()       # as this run left it

        Raises:
            NotSupported: this run is a session of several traces.
        """
        return self.model.trace_after(self)

    @property
    def sliders(self) -> Mapping[str, Slider]:
        """The free numbers of the experiment (`nl.slider`) by name, and where each stood."""
        return self.graph.sliders

    def at(self, **values: float) -> Run:
        """The same experiment with sliders elsewhere: `run.at(strength=3.5)`. Records nothing.

        Sliders that are not named stand where they stood in this run.

        Raises:
            BadSlider: there is no such slider, or it does not go there.
        """
        try:
            graph = self.graph.at(**values)
        except BadSlider as exc:
            failure = for_the_user(exc)
        else:
            remember(graph, functions_of(self.graph))
            return self.model.run_inputs(graph, self.inputs, self.prompt)
        raise failure

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
        if self._behind is not None and self._behind.state != "ended":
            return f"<Run on {self.model.name}: {self._behind.state}>"
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
