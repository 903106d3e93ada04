"""`PartRun`: one trace or generation of a run in the worker, from its prompts to its end.

part.arrive(point, held, pieces)    rows of the part are at a point of the model
part.sampled(segments, logits)      a step's logits are made: who goes on with what
part.returning()                    rows that must come again, with all their tokens so far
part.over()                         whether nothing more is to be had of it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from nnsight_lab.errors import BadInput
from nnsight_lab.ir import RESULT, STEP, TOKENS, TOKENS_MOMENT, Address
from nnsight_lab.runtime.interleaver import Place
from nnsight_lab_server.vllm.moments import Moments
from nnsight_lab_server.vllm.rows import Piece, Segment, pieces_of
from nnsight_lab_server.vllm.texts import Texts

__all__ = ["LOGITS", "PartRun", "TellTokens"]

LOGITS = Address("", "logits")

TellTokens = Callable[[int, tuple[int, ...]], None]
"""Told of each step whose tokens are known: its number in the run, and an id for each row."""


class PartRun(Moments):
    """The prompts of one part of a run, and what they are gone on with.

    texts: the tokens, and how they are chosen. vocab: how many ids there are. pad: fills up prompts.
    """

    def __init__(
        self, *args: Any, texts: Texts, vocab: int, pad: int, tell: TellTokens, **named: Any
    ) -> None:
        super().__init__(*args, **named)
        self.texts = texts
        self.attempts = [0] * len(self.lengths)
        self.steps = 0
        self._vocab = vocab
        self._pad = pad
        self._tell = tell
        self._chosen: dict[tuple[int, int], int] = {}
        self._passed: set[int] = set()
        self._begun_since = True
        self._whole = not self.plan.graph.outputs  # for its tokens alone

    def pieces(self, segments: Iterable[Segment]) -> dict[int, list[Piece]]:
        """The rows of an engine step that are this part's, by forward pass."""
        return pieces_of(segments, self.lengths, self.inputs.pos)

    def ended(self, moment: int) -> frozenset[int]:
        return self.texts.ended_invokes(self.spans, moment // STEP - self.begins)

    def checked(self, place: Place, new: torch.Tensor) -> torch.Tensor:
        if place.address != TOKENS:  # anything else may be a tuple, too
            return new
        outside = (new < 0) | (new >= self._vocab) if self._vocab else new < 0
        if bool(outside.any()):
            raise BadInput(
                f"lm.tokens was given an id that is not in the vocabulary (0 to {self._vocab - 1}).",
                hint="Write ids of the model's own tokenizer.",
                node=place.id,
            )
        return new

    # ------------------------------------------------------------------ tokens

    def sampled(self, segments: Iterable[Segment], logits: torch.Tensor | None) -> None:
        """The last rows of segments have logits `[segments, vocab]`; they say what is chosen."""
        for segment in segments:
            step = segment.position + segment.count - self.lengths[segment.row]
            if not 0 <= step < self.inputs.passes or segment.row in self.stale:
                continue
            if self.inputs.generation is None:
                self._passed.add(segment.row)
            elif logits is not None:
                self._go_on(segment.row, step, logits[segment.sampled])
        self._tell_tokens()

    def _go_on(self, row: int, step: int, logits: torch.Tensor) -> None:
        """Choose a row's token, unless it is known, and make it the likeliest by far."""
        ids = self.texts.ids[row]
        moment = (self.begins + step) * STEP + TOKENS_MOMENT
        if step == len(ids) and (row, step) not in self._chosen:
            own = self._edited_logits(row, step)
            chosen = self.texts.choose(row, logits if own is None else own)
            self._chosen[row, step] = int(chosen[0])
            if moment in self.plan.moments:
                self.note_tokens(moment, row, chosen)
            if not (moment in self.plan.moments and row in self._rows_of(moment, edited=True)):
                self._decide(row, step, int(chosen[0]))
        if step < len(ids):
            logits.fill_(float("-inf"))
            logits[ids[step]] = 0.0
        else:
            self.stale.setdefault(row, moment)

    def _edited_logits(self, row: int, step: int) -> torch.Tensor | None:
        """The logits that a row chooses from, where the graph edits those of this row."""
        site = self.stages.at(self.begins + step).tree.by_address.get(LOGITS)
        moment = -1 if site is None else (self.begins + step) * STEP + site.moment
        whole = self.written_at(moment, LOGITS)
        if whole is None or row not in self._rows_of(moment, edited=True):
            return None
        return whole[row, -1]

    def has_reached(self, moment: int, values: Mapping[Address, torch.Tensor]) -> None:
        if TOKENS in values and self.plan.moments[moment].writes:
            step = moment // STEP - self.begins
            for row in self._rows_of(moment, edited=True):
                self._decide(row, step, int(values[TOKENS][row]))

    def _decide(self, row: int, step: int, id: int) -> None:
        if len(self.texts.ids[row]) == step:
            self.texts.take(row, id)

    def _tell_tokens(self) -> None:
        """Tell of every step whose tokens are all known, and end its forward pass."""
        if self.inputs.generation is None:
            return
        while not self._finished and (self._wanted or self._names_tokens(self.steps)):
            ids = [self.texts.at(row, self.steps) for row in range(len(self.lengths))]
            if None in ids:
                return
            self.advance()
            self.run.end(self.begins + self.steps)
            self._tell(self.begins + self.steps, tuple(id for id in ids if id is not None))
            self.steps += 1
            self._begun_since = not self.over()

    # ------------------------------------------------------------------ the end

    def returning(self) -> list[int]:
        """Rows that went on without an edit which is known now. They are waited for anew."""
        rows = [row for row in self.stale if self.settled(row)]
        for row in rows:
            del self.stale[row]
            self.attempts[row] += 1
        # Of a text that is complete nothing is left to compute: its last token was the edit.
        return [row for row in rows if len(self.texts.ids[row]) < self.inputs.passes]

    def over(self) -> bool:
        """Whether nothing more is to be had of this part."""
        if self.inputs.generation is None:
            return self.all_reached or len(self._passed) == len(self.lengths)
        return self._finished or not self._wanted

    @property
    def _wanted(self) -> bool:
        """Whether the graph still asks for something of this part, or for its tokens alone."""
        last = (self.stages.at(self.begins).last + 1) * STEP
        return self._whole or self.run.waiting(last)

    @property
    def _finished(self) -> bool:
        """Whether the last token there will be is known, and was told."""
        return self._ended or self.steps == self.inputs.passes

    @property
    def _ended(self) -> bool:
        """Whether every row has ended by itself, and all of its tokens were told."""
        return self.texts.all_ended and self.steps > max(self.texts.ended_after.values())

    def _names_tokens(self, step: int) -> bool:
        """Whether a step's tokens are asked for: then they are told, be they the last thing."""
        return (self.begins + step) * STEP + TOKENS_MOMENT in self.plan.moments

    def end(self) -> tuple[int, bool]:
        """Give what is known at its end; how many forward passes it took, and whether it ended.

        Raises:
            NeverReached: the model did not come by an address the graph names.
        """
        if self.inputs.generation is None:
            self.run.end(self.begins)
            return 1, False
        self._give_result()
        # A pass that was begun and not wanted to its end was made nevertheless.
        return self.steps + self._begun_since, self._ended

    def _give_result(self) -> None:
        """The steps that were not made are missing; then the result, whoever asks for it."""
        stage = self.stages.at(self.begins)
        at = stage.last * STEP + stage.tree.by_address[RESULT].moment
        self.run.miss(at)
        if not self.run.waiting(at + 1):
            return
        whole = self.texts.whole(self._pad, self.steps)

        def read(place: Place) -> torch.Tensor:
            if place.invoke is None:
                return whole.clone()
            span, width = self.spans[place.invoke], self.inputs.pos
            rows = range(span.start, span.start + span.rows)
            made = max(map(self.texts.length, rows))
            return whole[rows.start : rows.stop, width - span.pos : width + made].clone()

        self.run.reach(at, read)
