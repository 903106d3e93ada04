"""An experiment as a file: a graph with its inputs, its model's name, and the versions it ran with.

    run.save("steering.nnlab")
    nl.load("steering.nnlab").run()

The layout of the file is in `ir/files.py`; how inputs are written down in `stored_inputs.py`.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnsight_lab.contract import Inputs, ModelCard, ModuleInputs, Several, TokenRows
from nnsight_lab.errors import BadBytes, BadInput, LabError
from nnsight_lab.executors.eject import printed_model, to_python
from nnsight_lab.ir import Graph, Limits
from nnsight_lab.ir.files import (
    FUNCTIONS,
    GRAPH,
    TENSORS,
    read_file,
    versions_here,
    write_file,
)
from nnsight_lab.models.explained import Explanation, explained
from nnsight_lab.models.stored_inputs import inputs_from_plain, inputs_to_plain
from nnsight_lab.models.trusted import functions_from_bytes, functions_to_bytes
from nnsight_lab.tracing.local_calls import functions_of, remember
from nnsight_lab.tracing.source import one_frame, user_line

if TYPE_CHECKING:
    from nnsight_lab.models.run import Run
    from nnsight_lab.models.traced import TracedModel

__all__ = ["Experiment", "ExperimentDiffers", "ModelNote", "experiment_of", "load", "note_of"]


class ExperimentDiffers(UserWarning):
    """What an experiment runs on is not what it was saved with, so its numbers may differ."""


@dataclass(frozen=True, slots=True)
class ModelNote:
    """What is noted of a model, to find it again and to see whether it is the same.

    revision: the commit of a model of the hub, or empty. shape: a digest of the names, shapes
    and dtypes of its parameters.
    """

    name: str
    architecture: str = ""
    dtype: str = ""
    revision: str = ""
    shape: str = ""


@dataclass(frozen=True, eq=False)
class Experiment:
    """Everything needed to run a graph again.

    inputs: what the model was given; None when only the graph was kept. prompt: the same as text,
    where it was text. model: a note of the model. versions: of the packages, when it was saved.
    """

    graph: Graph
    inputs: Inputs | None = None
    prompt: Any = None
    model: ModelNote | None = None
    versions: Mapping[str, str] = field(default_factory=versions_here)

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The local functions of the graph (`nl.local_fn`), by name."""
        return functions_of(self.graph)

    @one_frame
    def save(self, path: str | Path) -> Path:
        """Write it to a file, which `nl.load` reads. The usual ending is `.nnlab`.

        Raises:
            NotSupported: an input or a local function cannot be written down.
        """
        parts = {GRAPH: self.graph.to_bytes()}
        manifest: dict[str, Any] = {"prompt": self.prompt if _is_text(self.prompt) else None}
        if self.model is not None:
            manifest["model"] = asdict(self.model)
        if self.inputs is not None:
            manifest["inputs"], parts[TENSORS] = inputs_to_plain(self.inputs)
        if self.functions:
            manifest["functions"] = list(self.functions)
            parts[FUNCTIONS] = functions_to_bytes(self.functions)
        return write_file(path, manifest, parts)

    @one_frame
    def run(self, model: TracedModel | None = None, prompt: Any = None) -> Run:
        """Run it once more.

        model: by default the one it was recorded on, loaded by its name.
        prompt: another prompt than the one it was recorded with; for a session, a list of
            `lm.tokenize(prompt)`. A text goes on as the recorded one did, unless it says how.

        Raises:
            BadInput: it holds no inputs and was given no prompt, or no model can be loaded.
        """
        model = model or self._its_model()
        self._compare(note_of(model))
        inputs = self.inputs
        if prompt is not None:
            inputs = _going_on(model.inputs_of(prompt), self.inputs)
        if inputs is None:
            raise BadInput("The file holds a graph without inputs.", hint=_NEEDS_PROMPT)
        return model.run_inputs(self.graph, inputs, self.prompt if prompt is None else prompt)

    @one_frame
    def explain(self, model: TracedModel | None = None) -> Explanation:
        """What running it would do: which passes, how deep, where, at what cost. Nothing runs.

        model: by default the one it was recorded on, loaded by its name.

        Raises:
            LabError: it would be refused.
        """
        if self.inputs is None:
            raise BadInput("The file holds a graph without inputs.", hint=_NEEDS_PROMPT)
        return explained(model or self._its_model(), self.graph, self.inputs)

    @one_frame
    def to_python(self, model: TracedModel | None = None) -> str:
        """The same as plain PyTorch with hooks: a program that runs without this package.

        model: by default the one it was recorded on, loaded by its name.

        Raises:
            NotSupported: it says something that plain hooks cannot.
            BadInput: it holds no inputs, or no model can be loaded.
        """
        model = model or self._its_model()
        if self.inputs is None:
            raise BadInput(
                "A program needs inputs.", hint="graph.to_python(model, prompt) brings them."
            )
        executor = model.executor
        known = printed_model(
            model.card,
            executor.tree_for(self.inputs),
            getattr(model, "tokenizer", None),
            getattr(executor, "module", None),
            model.settings,
        )
        return to_python(self.graph, self.inputs, known, self.prompt)

    def _its_model(self) -> TracedModel:
        from nnsight_lab.models.language_model import LanguageModel

        if self.model is None or not _are_prompts(self.inputs):
            raise BadInput(
                "The experiment does not name a model that could be loaded.",
                hint="Give it the model: experiment.run(model).",
            )
        return LanguageModel(self.model.name)

    def _compare(self, here: ModelNote) -> None:
        if self.model is None:
            return
        pairs = [
            (what, then, now)
            for what, then, now in (
                ("architecture", self.model.architecture, here.architecture),
                ("dtype", self.model.dtype, here.dtype),
                ("revision", self.model.revision, here.revision),
                ("parameter shapes", self.model.shape, here.shape),
            )
            if then and now and then != now
        ]
        if pairs:
            told = "; ".join(f"{what} {then}, here {now}" for what, then, now in pairs)
            _warn(f"{here.name} is not the model this was recorded on ({self.model.name}): {told}.")

    def __repr__(self) -> str:
        name = self.model.name if self.model else "no model"
        lines = [f"<Experiment on {name}: {len(self.graph)} nodes>"]
        lines.append(f"  inputs: {_described(self.inputs, self.prompt)}")
        lines.append(f"  saves: {', '.join(out.name for out in self.graph.outputs) or 'nothing'}")
        if self.functions:
            lines.append(f"  local functions: {', '.join(self.functions)}")
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return "\n".join([*lines, f"  versions: {versions or 'not noted'}"])


def _are_prompts(inputs: Inputs | None) -> bool:
    """Whether these are inputs of a language model, as far as can be told."""
    parts = inputs.parts if isinstance(inputs, Several) else (inputs,)
    return not any(isinstance(part, ModuleInputs) for part in parts)


def _going_on(new: Inputs, old: Inputs | None) -> Inputs:
    """New prompts that are gone on with as the old ones were, where they do not say how.

    Raises:
        BadInput: a session has as many traces as it was recorded with.
    """
    if isinstance(old, Several):
        parts = new.parts if isinstance(new, Several) else (new,)
        if len(parts) != len(old.parts):
            raise BadInput(
                f"The experiment is a session of {len(old.parts)} traces; {len(parts)} prompts"
                " were given.",
                hint="Give a list of lm.tokenize(prompt), one for each trace.",
            )
        return Several(tuple(map(_part_going_on, parts, old.parts)))
    if isinstance(new, Several) or old is None:
        return new
    return _part_going_on(new, old)


def _part_going_on(
    new: TokenRows | ModuleInputs, old: TokenRows | ModuleInputs
) -> TokenRows | ModuleInputs:
    if isinstance(new, TokenRows) and isinstance(old, TokenRows) and new.generation is None:
        return replace(new, generation=old.generation)
    return new


_NEEDS_PROMPT = "Give one: experiment.run(model, prompt)."


def experiment_of(model: TracedModel, graph: Graph, inputs: Inputs, prompt: Any) -> Experiment:
    """A graph and its inputs, on a model at hand."""
    return Experiment(graph, inputs, prompt, note_of(model))


def note_of(model: TracedModel) -> ModelNote:
    """What is noted of a model."""
    card = model.card
    config = getattr(getattr(model.executor, "module", None), "config", None)
    revision = str(getattr(config, "_commit_hash", None) or "")
    return ModelNote(card.name, card.architecture, card.dtype, revision, _shape_of(card, model))


def _shape_of(card: ModelCard, model: TracedModel) -> str:
    tree = card.tree if card.tree.modules else model.tree
    weights = ((part.path, name, str(spec)) for part in tree.modules for name, spec in part.weights)
    return hashlib.sha256(repr(list(weights)).encode()).hexdigest()[:16]


@one_frame
def load(path: str | Path, *, trust: bool = False, limits: Limits | None = None) -> Experiment:
    """The experiment in a file: of `run.save`, `graph.save`, or a graph's bytes by themselves.

    trust: also read local functions, which runs code of whoever made the file.
    limits: how large its parts may be.

    Raises:
        BadInput: there is no such file.
        BadBytes: it is no experiment, or one of a newer version.
        NotTrusted: it holds Python functions, and `trust` was not said.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise BadInput(f"There is no file {str(path)!r}.", hint="run.save(path) makes one.")
    limits = limits or Limits()
    manifest, parts = read_file(path, limits)
    graph = _graph(parts[GRAPH], limits)
    if FUNCTIONS in parts:
        listed = manifest.get("functions")
        names = [str(name) for name in listed] if isinstance(listed, list) else ["unnamed"]
        remember(graph, functions_from_bytes(parts[FUNCTIONS], names, trust=trust))
    try:
        found = _from_manifest(graph, manifest, parts.get(TENSORS, b""))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as exc:
        hint = "run.save(path) makes such files; this one may have been changed."
        raise BadBytes(f"{path.name} is malformed ({type(exc).__name__}).", hint=hint) from exc
    _compare_versions(found.versions)
    return found


def _graph(data: bytes, limits: Limits) -> Graph:
    try:
        return Graph.from_bytes(data, limits=limits)
    except LabError as exc:
        exc.where = None  # the user's line, not ours, is where it belongs
        raise


def _from_manifest(graph: Graph, manifest: dict[str, Any], tensors: bytes) -> Experiment:
    inputs, model = manifest.get("inputs"), manifest.get("model")
    note = ModelNote(**{str(key): str(value) for key, value in model.items()}) if model else None
    return Experiment(
        graph,
        None if inputs is None else inputs_from_plain(inputs, tensors),
        manifest.get("prompt"),
        note,
        {str(name): str(version) for name, version in manifest.get("versions", {}).items()},
    )


def _compare_versions(then: Mapping[str, str]) -> None:
    here = versions_here()
    other = [
        f"{name} {version}, here {here.get(name, 'none')}"
        for name, version in then.items()
        if version.partition("+")[0] != here.get(name, "").partition("+")[0]
    ]
    if other:
        _warn(f"This was saved with other versions: {'; '.join(other)}.")


def _warn(message: str) -> None:
    where = user_line()
    file, line = (where.file, where.line) if where is not None else ("nnsight_lab", 1)
    text = f"{message} Numbers may differ."
    warnings.warn_explicit(ExperimentDiffers(text), ExperimentDiffers, file, line)


def _is_text(prompt: Any) -> bool:
    """Whether a prompt is text, or lists of texts, and so can be kept as it was written."""
    if isinstance(prompt, list | tuple):
        return all(map(_is_text, prompt))
    return isinstance(prompt, str)


def _described(inputs: Inputs | None, prompt: Any) -> str:
    if inputs is None:
        return "none"
    if isinstance(inputs, Several):
        return f"{len(inputs.parts)} traces"
    if not isinstance(inputs, TokenRows):
        return "arguments of a module"
    return repr(prompt) if _is_text(prompt) else f"{inputs.batch} prompts of token ids"
