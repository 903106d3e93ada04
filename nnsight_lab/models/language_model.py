"""LanguageModel: a causal language model to trace with, in this process or on a server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nnsight_lab.contract import Emit, Executor, Generation, Several, TokenRows
from nnsight_lab.errors import BadInput, LabError
from nnsight_lab.executors.families import NameReport, names_in_tree
from nnsight_lab.executors.local import LocalExecutor, load_local
from nnsight_lab.ir import Graph, ModuleTree
from nnsight_lab.models.at_the_line import at_the_line
from nnsight_lab.models.compiled import uncompiled
from nnsight_lab.models.edits import edits_noted
from nnsight_lab.models.experiment import experiment_of
from nnsight_lab.models.generation import (
    draws_anew,
    generation_of,
    with_generation,
    with_its_seed,
)
from nnsight_lab.models.options import check_no_more
from nnsight_lab.models.prompts import inputs_of, rows_of, tokenizer_from_files, visible_token
from nnsight_lab.models.run import Run
from nnsight_lab.models.scans import Shapes, scanned
from nnsight_lab.models.traced import TracedModel
from nnsight_lab.passes import check_inputs
from nnsight_lab.settings import Settings
from nnsight_lab.tracing import Recorder, Tracer
from nnsight_lab.tracing.openings import open_recorder
from nnsight_lab.tracing.session import PartPlan, open_session
from nnsight_lab.tracing.source import for_the_user, one_frame, user_line

__all__ = ["LanguageModel"]

_NO_PROMPT: Any = object()
"""Told apart from None, which is a mistake where a prompt should be."""
_GIVE_A_PROMPT = "lm.trace(prompt), or with tracer.invoke(prompt): in the block."


class LanguageModel(TracedModel):
    """A causal language model.

        lm = LanguageModel("tiny")                      # bundled, a folder, or a Hugging Face id
        lm = LanguageModel(model, tokenizer=tokenizer)  # already loaded
        with lm.trace("The capital of France is"):
            h = lm.layers[2].output.save()              # [batch, pos, d_model]
            logits = lm.logits.save()                   # [batch, pos, d_vocab]

    Standard names: `embed`, `layers[i]` (`.input`, `.output`: the residual stream), `.attn`
    (`.q .k .v .z`: `[batch, pos, head, d_head]`, `.pattern`: `[batch, head, query, key]`),
    `.mlp` (`.output`, `.neurons`), `norm`, `logits`. The model's own module paths work as well,
    and names of your own: `rename={"model.layers": "blocks", "mlp": ["ff", "feed"]}`.
    Several prompts are padded on the left; each gives what it gives alone.

    Raises:
        ModelNotFound: no such model here, and none could be fetched.
        BadInput: what was given is neither a name nor a module, or a name of yours is taken.
    """

    def __init__(
        self,
        model: str | Path | torch.nn.Module,
        *,
        tokenizer: Any = None,
        settings: Settings | None = None,
        rename: Mapping[str, str | Iterable[str]] | None = None,
        **options: Any,
    ) -> None:
        settings = settings or Settings.from_environment()
        if isinstance(model, torch.nn.Module):
            model = uncompiled(model)
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
        try:
            self._set_up(executor, settings, rename)
        except BadInput as exc:
            raise at_the_line(exc) from exc.__cause__

    @classmethod
    def from_executor(
        cls,
        executor: Executor,
        settings: Settings | None = None,
        *,
        rename: Mapping[str, str | Iterable[str]] | None = None,
    ) -> LanguageModel:
        """A model whose runs are carried out by `executor`, e.g. on a server."""
        model = cls.__new__(cls)
        model._set_up(executor, settings or Settings.from_environment(), rename)  # noqa: SLF001
        return model

    def _set_up(self, executor: Executor, settings: Settings, rename: Any) -> None:
        TracedModel.__init__(self, executor, settings)
        tokenizer = getattr(executor, "tokenizer", None)
        if tokenizer is None:
            tokenizer = tokenizer_from_files(executor.card().tokenizer)
        object.__setattr__(self, "_tokenizer", tokenizer)
        self._rename(rename)

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
        recorder = open_recorder(self)
        return recorder.tree if recorder is not None else self.card.tree

    @one_frame
    def tokenize(self, prompt: Any, **options: Any) -> TokenRows:
        """A prompt as rows of token ids. options: of a generation from it, as for `generate`.

        Raises:
            BadInput: it is empty or not a prompt, or there is no such option.
        """
        return with_generation(rows_of(prompt, self.tokenizer), options)

    def inputs_of(self, prompt: Any) -> TokenRows | Several:
        """What the model is given for a prompt, or for a list of what `tokenize` gives."""
        return inputs_of(prompt, self.tokenize)

    def token_strings(self, prompt: Any) -> list[list[str]]:
        """Each prompt's tokens as text, one string a position; a leading space is `·`."""
        rows = prompt if isinstance(prompt, TokenRows) else self.tokenize(prompt)
        return [[self.token_string(id) for id in row] for row in rows.rows]

    def token_string(self, id: int) -> str:
        """One token as text, with whitespace visible: `·` for a space, `↵` for a line end.

        A token that is a part of a character is shown as its bytes, `F0 9F`.
        """
        return visible_token(self.tokenizer, id)

    @one_frame
    def trace(
        self, prompt: Any = _NO_PROMPT, *, execute: bool = True, peek: bool = True, **unknown: Any
    ) -> Tracer[Run]:
        """Record what follows in the `with` block, and run it on `prompt` when the block ends.

        prompt: text, a list of texts (a padded batch), token ids, or a mapping with `input_ids`.
            Without one, each `with tracer.invoke(prompt):` in the block brings its own.
        execute: False only records; `tracer.graph` is the experiment, to run or send later.
        peek: False refuses what needs a value while recording (`if h.norm() > 5`), which
            otherwise runs what is recorded so far.

        Raises:
            BadInput: the prompt is empty or not a prompt, or an option is unknown.
        """
        check_no_more("lm.trace", unknown, ("execute", "peek"))
        return self._block(prompt, None, execute=execute, peek=peek)

    @one_frame
    def generate(
        self,
        prompt: Any = _NO_PROMPT,
        *,
        execute: bool = True,
        peek: bool = True,
        **options: Any,
    ) -> Tracer[Run]:
        """Record what follows in the `with` block, and generate from `prompt` when it ends.

        `for step in tracer.iter[:]` goes over the steps: step 0 is the prompt's forward pass, each
        further one adds a position. `lm.tokens` are the sampled ids of a step, `[batch]`, which
        may be written; `tracer.result` is `[batch, pos]`, prompt and new tokens.

        prompt, execute, peek: as for `trace`.
        max_new_tokens: how many tokens at most (default 20); fewer when all rows end.
        do_sample, temperature, top_k, top_p: sample; by default the likeliest token is taken.
        seed: makes sampling repeat itself; each row draws as it would alone.
        eos_token_id: ids that end a row; by default the model's own, `[]` for none.

        Raises:
            BadInput: an unknown option, or one with a value it cannot have.
            NotSupported: the model cannot generate step by step.
        """
        return self._block(prompt, generation_of(options), execute=execute, peek=peek)

    @one_frame
    def scan(self, prompt: Any = _NO_PROMPT) -> Tracer[Shapes]:
        """Record the `with` block, and give the shapes of what it saves; nothing runs.

        After the block each saved name holds a tensor without data, on the `meta` device.

        Raises:
            BadInput: the prompt is empty or not a prompt.
        """
        return scanned(self.trace(prompt, peek=False))

    def _block(
        self, prompt: Any, generation: Generation | None, *, execute: bool, peek: bool
    ) -> Tracer[Run]:
        if prompt is _NO_PROMPT:
            check_inputs(self.card, TokenRows(((0,),), generation))
            return self._tracer_of_invokes(generation, execute=execute, peek=peek)
        rows = with_its_seed(self._checked(prompt, generation))
        return self._tracer(rows, prompt, execute=execute, peek=peek)

    def _checked(self, prompt: Any, generation: Generation | None = None) -> TokenRows:
        rows = prompt if isinstance(prompt, TokenRows) else self.tokenize(prompt)
        if generation is not None:
            rows = replace(rows, generation=generation)
        check_inputs(self.card, rows)
        return rows

    def _tracer_of_invokes(
        self, generation: Generation | None, *, execute: bool, peek: bool
    ) -> Tracer[Run]:
        prompts: list[Any] = []
        rows: list[tuple[int, ...]] = []

        def add_prompt(prompt: Any) -> tuple[int, int]:
            found = self._checked(prompt, generation)
            prompts.append(prompt)
            rows.extend(found.rows)
            return found.batch, found.pos

        def inputs() -> TokenRows:
            if not rows:
                raise BadInput("No prompt was given to this trace.", hint=_GIVE_A_PROMPT)
            given = TokenRows(tuple(rows), generation)
            check_inputs(self.card, given)
            return given

        card, session = self.card, open_session(self.executor)
        passes = generation.max_new_tokens if generation is not None else 0
        if session is not None:
            session.draws_anew(draws_anew(generation))
            given = (card.tree, 0, 0, inputs, prompts, card.decode, passes, add_prompt)
            plan = PartPlan(*given, owner=self, preludes=self._preludes)
            return session.part(plan, execute=execute, peek=peek)
        recorder = Recorder(card.tree, 0, 0, decode=card.decode, passes=passes)
        recorder.draws_anew = draws_anew(generation)
        return Tracer(
            self,
            self._prepared(recorder),
            lambda graph: self._carry_out(graph, inputs(), prompts),
            execute=execute,
            peek=peek,
            add_prompt=add_prompt,
            describe=lambda graph: experiment_of(self, graph, inputs(), prompts),
            go_on=lambda graph, back: self._go_on(graph, inputs(), prompts, back),
        )

    def run(
        self, graph: Graph, prompt: Any, *, on_event: Emit | None = None, **options: Any
    ) -> Run:
        """Run a recorded graph again, on this prompt.

        prompt: as for `trace`. For the graph of a session, a list of `lm.tokenize(prompt, …)`,
            one for each of its traces, or the `inputs` of a run.
        options: of a generation, as for `generate`.
        on_event: called with each `RunEvent` as it comes; saved values arrive while the model runs.

        Raises:
            LabError: whatever is wrong with the graph, the prompt, or the run.
        """
        try:
            inputs = with_generation(self.inputs_of(prompt), options)
            return self.run_inputs(graph, inputs, prompt, on_event)
        except LabError as exc:
            raise for_the_user(exc) from exc.__cause__

    def __repr__(self) -> str:
        card = self.card
        size = f"{card.parameters / 1e6:.1f}M parameters"
        where = "" if isinstance(self.executor, LocalExecutor) else ", on a server"
        head = f"<LanguageModel {card.name}: {card.architecture}, {card.layers} layers, {size}"
        where += edits_noted(self.edits)
        return f"{head}, {card.dtype} on {card.capabilities.device}{where}>\n{self._envoy!r}"


def _name_of(model: torch.nn.Module) -> str:
    config = getattr(model, "config", None)
    return str(getattr(config, "name_or_path", "") or type(model).__name__)
