"""LanguageModel: a causal language model to trace with, in this process or on a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nnsight_lab.contract import Emit, Executor, TokenRows
from nnsight_lab.errors import BadInput, LabError
from nnsight_lab.executors.families import NameReport, names_in_tree
from nnsight_lab.executors.local import LocalExecutor, load_local
from nnsight_lab.ir import Graph, ModuleTree
from nnsight_lab.models.at_the_line import at_the_line
from nnsight_lab.models.experiment import Experiment, experiment_of
from nnsight_lab.models.prompts import rows_of, tokenizer_from_files, visible_token
from nnsight_lab.models.run import Run
from nnsight_lab.models.traced import TracedModel
from nnsight_lab.passes import check_inputs
from nnsight_lab.settings import Settings
from nnsight_lab.tracing import Recorder, Tracer
from nnsight_lab.tracing.source import for_the_user, user_line

__all__ = ["LanguageModel"]

_NO_PROMPT: Any = object()
"""Told apart from None, which is a mistake where a prompt should be."""


class LanguageModel(TracedModel):
    """A causal language model.

        lm = LanguageModel("tiny")                      # bundled, a folder, or a Hugging Face id
        lm = LanguageModel(model, tokenizer=tokenizer)  # already loaded
        with lm.trace("The capital of France is"):
            h = lm.layers[2].output.save()              # [batch, pos, d_model]
            logits = lm.logits.save()                   # [batch, pos, d_vocab]

    Standard names: `embed`, `layers[i]` (`.input`, `.output`: the residual stream), `.attn`
    (`.q .k .v .z`: `[batch, pos, head, d_head]`, `.pattern`: `[batch, head, query, key]`),
    `.mlp` (`.output`, `.neurons`), `norm`, `logits`. The model's own module paths work as well.
    Several prompts are padded on the left; each gives what it gives alone.

    Raises:
        ModelNotFound: no such model here, and none could be fetched.
        BadInput: what was given is neither a name nor a module.
    """

    def __init__(
        self,
        model: str | Path | torch.nn.Module,
        *,
        tokenizer: Any = None,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        settings = settings or Settings.from_environment()
        if isinstance(model, torch.nn.Module):
            executor: Executor = LocalExecutor(model, tokenizer, name=_name_of(model))
        elif isinstance(model, str | Path):
            try:
                executor = load_local(str(model), settings, **options)
            except LabError as exc:
                raise at_the_line(exc) from exc.__cause__
        else:
            raise BadInput(
                f"A {type(model).__name__} is not a language model.",
                hint='Give a name, such as "tiny", a folder, or a loaded torch module.',
            ).at(user_line())
        self._set_up(executor, settings)

    @classmethod
    def from_executor(cls, executor: Executor, settings: Settings | None = None) -> LanguageModel:
        """A model whose runs are carried out by `executor`, e.g. on a server."""
        model = cls.__new__(cls)
        model._set_up(executor, settings or Settings.from_environment())  # noqa: SLF001
        return model

    def _set_up(self, executor: Executor, settings: Settings) -> None:
        TracedModel.__init__(self, executor, settings)
        tokenizer = getattr(executor, "tokenizer", None)
        if tokenizer is None:
            tokenizer = tokenizer_from_files(executor.card().tokenizer)
        object.__setattr__(self, "_tokenizer", tokenizer)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, or None."""
        return self._tokenizer

    @property
    def names(self) -> NameReport:
        """Which standard names this model has, which not and why; `print(lm.names)`.

        Every name was checked on the model when it was loaded. What has no standard name is
        reached by module path, as always.
        """
        if isinstance(self.executor, LocalExecutor):
            return self.executor.names
        return names_in_tree(self.card.tree, self.card.architecture)

    def _current_tree(self) -> ModuleTree:
        return self.card.tree

    def tokenize(self, prompt: Any) -> TokenRows:
        """A prompt as rows of token ids. Raises `BadInput`."""
        return rows_of(prompt, self.tokenizer)

    def inputs_of(self, prompt: Any) -> TokenRows:
        """A prompt, or rows of token ids as they are."""
        return prompt if isinstance(prompt, TokenRows) else self.tokenize(prompt)

    def token_strings(self, prompt: Any) -> list[list[str]]:
        """Each prompt's tokens as text, one string a position; a leading space is `·`."""
        rows = prompt if isinstance(prompt, TokenRows) else self.tokenize(prompt)
        return [[self.token_string(id) for id in row] for row in rows.rows]

    def token_string(self, id: int) -> str:
        """One token as text, with whitespace visible: `·` for a space, `↵` for a line end."""
        return visible_token(self.tokenizer, id)

    def trace(self, prompt: Any = _NO_PROMPT, *, execute: bool = True) -> Tracer[Run]:
        """Record what follows in the `with` block, and run it on `prompt` when the block ends.

        prompt: text, a list of texts (a padded batch), token ids, or a mapping with `input_ids`.
            Without one, each `with tracer.invoke(prompt):` in the block brings its own.
        execute: False only records; `tracer.graph` is the experiment, to run or send later.

        Raises:
            BadInput: the prompt is empty or not a prompt.
        """
        if prompt is _NO_PROMPT:
            return self._tracer_of_invokes(execute=execute)
        try:
            rows = self._checked(prompt)
        except LabError as exc:
            raise for_the_user(exc) from None
        return self._tracer(rows, prompt, execute=execute)

    def _checked(self, prompt: Any) -> TokenRows:
        rows = prompt if isinstance(prompt, TokenRows) else self.tokenize(prompt)
        check_inputs(self.card, rows)
        return rows

    def _tracer_of_invokes(self, *, execute: bool) -> Tracer[Run]:
        prompts: list[Any] = []
        rows: list[tuple[int, ...]] = []

        def add_prompt(prompt: Any) -> tuple[int, int]:
            found = self._checked(prompt)
            prompts.append(prompt)
            rows.extend(found.rows)
            return found.batch, found.pos

        def carry_out(graph: Graph) -> Run:
            inputs = TokenRows(tuple(rows))
            check_inputs(self.card, inputs)
            return self._carry_out(graph, inputs, prompts)

        def describe(graph: Graph) -> Experiment:
            return experiment_of(self, graph, TokenRows(tuple(rows)), prompts)

        recorder = Recorder(self.card.tree, 0, 0)
        return Tracer(
            self, recorder, carry_out, execute=execute, add_prompt=add_prompt, describe=describe
        )

    def run(self, graph: Graph, prompt: Any, *, on_event: Emit | None = None) -> Run:
        """Run a recorded graph again, on this prompt.

        on_event: called with each `RunEvent` as it comes; saved values arrive while the model runs.

        Raises:
            LabError: whatever is wrong with the graph, the prompt, or the run.
        """
        try:
            rows = prompt if isinstance(prompt, TokenRows) else self.tokenize(prompt)
            return self.run_inputs(graph, rows, prompt, on_event)
        except LabError as exc:
            raise for_the_user(exc) from exc.__cause__

    def __repr__(self) -> str:
        card = self.card
        size = f"{card.parameters / 1e6:.1f}M parameters"
        where = "" if isinstance(self.executor, LocalExecutor) else ", on a server"
        head = f"<LanguageModel {card.name}: {card.architecture}, {card.layers} layers, {size}"
        return f"{head}, {card.dtype} on {card.capabilities.device}{where}>\n{self._envoy!r}"


def _name_of(model: torch.nn.Module) -> str:
    config = getattr(model, "config", None)
    return str(getattr(config, "name_or_path", "") or type(model).__name__)
