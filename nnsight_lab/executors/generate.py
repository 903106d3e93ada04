"""One token after another: the forward passes of a generation, heard like any other.

The loop is our own, so that a graph can stand in every pass and change what is gone on with. The
prompt runs once; each further pass adds one position to the model's cache of keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from nnsight_lab.contract import Emit, Token, TokenRows
from nnsight_lab.errors import BadInput
from nnsight_lab.executors.batch import Padded
from nnsight_lab.executors.host import TorchHost
from nnsight_lab.executors.listen import Enough, Listener
from nnsight_lab.executors.measure import Measured
from nnsight_lab.executors.sampling import Sampler
from nnsight_lab.ir import RESULT, STEP, TOKENS, ModuleTree
from nnsight_lab.passes.positions import asks_for_logits
from nnsight_lab.passes.schedule import Schedule
from nnsight_lab.passes.stages import Part, Stages
from nnsight_lab.runtime import Interleaver
from nnsight_lab.runtime.interleaver import Place

__all__ = ["Decoder", "Decoding", "empty_cache", "padding_of", "stop_ids_of"]


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model that can generate. first, further: how its two kinds of forward pass look.

    pad: fills up prompts. end_pad: fills up rows that have ended. vocab: how many ids it knows.
    """

    module: torch.nn.Module
    host: TorchHost
    first: Measured
    further: Measured
    pad: int
    end_pad: int | None
    stop_ids: tuple[int, ...]
    vocab: int
    takes_positions: bool
    picks_logits: bool


@dataclass
class Decoding:
    """One generation of a run, from its prompt to its end.

    begins: the step of the run at which it begins. steps: forward passes it has made so far.
    """

    model: Decoder
    part: Part
    plan: Schedule
    stages: Stages
    run: Interleaver
    listener: Listener
    emit: Emit
    begins: int = 0
    steps: int = 0
    _ids: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        model, inputs = self.model, self.part.inputs
        assert isinstance(inputs, TokenRows), "a generation has prompts"
        assert inputs.generation is not None, "and says how to go on"
        self.options = options = inputs.generation
        device = model.host.device
        stop_ids = model.stop_ids if options.stop_ids is None else options.stop_ids
        pad = model.end_pad if model.end_pad is not None else (*stop_ids, 0)[0]
        self._sampler = Sampler(options, inputs.batch, device, stop_ids=stop_ids, pad=pad)
        self._batch = Padded(
            inputs,
            model.pad,
            device,
            positions=model.takes_positions,
            more=options.max_new_tokens,
        )
        self._spans = self.stages.spans(self.plan.graph, self.begins)
        self._whole = not self.plan.graph.outputs  # for its tokens alone

    @property
    def ended(self) -> bool:
        """Whether every row ended by itself."""
        return all(self._sampler.ended)

    def go(self) -> None:
        """Make every forward pass that is needed."""
        cache = empty_cache()
        for step in range(self.options.max_new_tokens):
            self.listener.check_going()  # there may be no hook in it
            self.steps = step + 1
            self.model.host.go_on()  # a pass in which nothing is read does not look
            try:
                logits = self._pass(step, cache)
            except Enough:
                break
            self._choose(step, logits)
            self.run.end(self.begins + step)
            if self.ended or (not self._whole and self.listener.enough(self.begins)):
                break
        self._give_result()

    def _pass(self, step: int, cache: Any) -> torch.Tensor:
        model, batch = self.model, self._batch
        given = batch.prompt() if step == 0 else batch.further(step, self._ids[-1])
        measured = model.first if step == 0 else model.further
        with self.listener.attached(
            model.host,
            measured,
            self.begins + step,
            ended=self._ended_invokes(),
            to_the_end=self._whole,
        ):
            output = model.module(
                **given, **self._logits_of(step), past_key_values=cache, use_cache=True
            )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _logits_of(self, step: int) -> dict[str, int]:
        """The prompt's logits are made for its last position only, as `generate` of the model does."""
        graph, tree = self.plan.graph, self.model.first.tree
        if step or not self.model.picks_logits or asks_for_logits(graph, tree, self.begins):
            return {}
        return {"logits_to_keep": 1}

    def _choose(self, step: int, logits: torch.Tensor) -> None:
        ids = self._sampler.choose(logits)
        tree = self.stages.at(self.begins + step).tree
        ids = self._at(self.begins + step, tree, ids)
        plain = ids.tolist()
        self._sampler.take(plain)
        self._ids.append(ids)
        self.emit(Token(self.begins + step, tuple(plain)))

    def _at(self, step: int, tree: ModuleTree, ids: torch.Tensor) -> torch.Tensor:
        """Hand the sampled ids over, and take back what is gone on with."""

        def put(place: Place, _: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
            self._check_written(place, new)
            return self._sampler.padded(new)

        moment = step * STEP + tree.by_address[TOKENS].moment
        if moment not in self.plan.moments:
            return ids  # nobody asks for them
        ended = self._ended_invokes()
        given = self.listener.hand_over(moment, ids, tree, ended, put=put)
        taken: torch.Tensor = given
        return taken

    def _check_written(self, place: Place, ids: torch.Tensor) -> None:
        vocab = self.model.vocab
        if vocab and bool(((ids < 0) | (ids >= vocab)).any()):
            raise BadInput(
                f"lm.tokens was given an id that is not in the vocabulary (0 to {vocab - 1}).",
                hint="Write ids of the model's own tokenizer.",
                node=place.id,
            )

    def _ended_invokes(self) -> frozenset[int]:
        ended = self._sampler.ended
        if not any(ended):
            return frozenset()
        return frozenset(
            place
            for place, span in self._spans.items()
            if all(ended[span.start : span.start + span.rows])
        )

    def _give_result(self) -> None:
        """The steps that were not made are missing; then the result, whoever asks for it."""
        stage = self.stages.at(self.begins)
        at = stage.last * STEP + stage.tree.by_address[RESULT].moment
        self.run.miss(at)
        if not self.run.waiting(at + 1):
            return
        whole = torch.cat([self._batch.ids, *(ids[:, None] for ids in self._ids)], dim=1)

        def read(place: Place) -> torch.Tensor:
            if place.invoke is None:
                return whole.clone()
            span, width = self._spans[place.invoke], self._batch.width
            rows = slice(span.start, span.start + span.rows)
            made = max(self._sampler.lengths[rows])
            return whole[rows, width - span.pos : width + made].clone()

        self.run.reach(at, read)


def empty_cache() -> Any:
    """A cache that keeps every position, also where a model would forget those out of its sight."""
    from transformers import DynamicCache

    return DynamicCache()


def _numbers(value: Any) -> tuple[int, ...]:
    found = value if isinstance(value, list | tuple) else [value]
    return tuple(int(item) for item in found if item is not None)


def stop_ids_of(module: torch.nn.Module) -> tuple[int, ...]:
    """The ids that end a text, as the model's own settings say."""
    config: Any = getattr(module, "generation_config", None)
    return _numbers(getattr(config, "eos_token_id", None))


def padding_of(module: torch.nn.Module) -> int | None:
    """The id the model's own settings fill up ended rows with, or None."""
    config: Any = getattr(module, "generation_config", None)
    found = _numbers(getattr(config, "pad_token_id", None))
    return found[0] if found else None
