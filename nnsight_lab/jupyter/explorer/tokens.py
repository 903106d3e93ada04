"""Tokens: the prompt as the model reads it, coloured by surprisal or by what a run saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nnsight_lab.jupyter.explorer.view import Sheet, Tell, View, Wanted, floats
from nnsight_lab.models.run import Run

if TYPE_CHECKING:
    from nnsight_lab.jupyter.figures import LabFigure

__all__ = ["TokensView"]

_NEXT = 5
"""How many of the likeliest next tokens are told."""

_SURPRISAL = """\
surprisal_log_probs = {lm}.logits[{row}, {first}:].float().log_softmax(-1)
surprisal_ids = torch.tensor({ids})
surprisal = -surprisal_log_probs[:-1].gather(-1, surprisal_ids[1:, None])[:, 0]"""


class TokensView(View):
    """The prompt's tokens, their ids, and a number at each.

    Surprisal of a token is minus the log of the probability that the tokens before it gave it, in
    nats; the first token has none.
    """

    name = "tokens"
    title = "Tokens"

    def ask(self, wanted: Wanted, tell: Tell) -> None:
        """By `by`: surprisal, or a saved value with one number a position.

        With the surprisal comes `next`: the likeliest tokens after the last, and how likely.
        """
        saved, by = self._saved(), str(wanted.get("by", "surprisal"))
        numbers, following = (saved[by], []) if by in saved else self._read()
        plain = {"choices": ["surprisal", *saved], "next": following}
        tell(Sheet(plain, {"numbers": floats(numbers)}))

    def numbers(self, by: str) -> torch.Tensor:
        """`[pos]`; NaN where there is none."""
        saved = self._saved()
        return saved[by] if by in saved else self._read()[0]

    def _read(self) -> tuple[torch.Tensor, list[tuple[str, float]]]:
        """Surprisal, and what comes next, in one run."""
        subject = self.subject
        first = subject.given.pos - len(subject.ids)
        model = subject.model
        with model.trace(subject.given, execute=False) as tracer:
            log_probs = model.logits[subject.row, first:].float().log_softmax(-1)
            ids = torch.tensor(subject.ids)
            best = log_probs[-1].topk(min(_NEXT, model.card.vocab or _NEXT))
            tracer.save(
                surprisal=-log_probs[:-1].gather(-1, ids[1:, None])[:, 0],
                chances=best[0].exp(),
                best=best[1],
            )
        found = subject.run(tracer.graph)
        words = [subject.word(id) for id in found["best"].tolist()]
        following = list(zip(words, found["chances"].tolist(), strict=True))
        known = found["surprisal"].float().cpu()
        return torch.cat([torch.full((1,), float("nan")), known]), following

    def _saved(self) -> dict[str, torch.Tensor]:
        """What the run saved that has one number for each position."""
        subject = self.subject
        given, count = subject.given, len(subject.ids)
        if not isinstance(subject.source, Run):
            return {}
        found = {}
        for name, value in subject.source.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                if value.shape == (given.batch, given.pos):
                    found[name] = value[subject.row, given.pos - count :].float().cpu()
                elif value.shape == (count,):
                    found[name] = value.float().cpu()
        return found

    def _saved_code(self, name: str) -> str:
        """The row of a saved value, by its name."""
        subject = self.subject
        saved = f"{subject.run_name}[{name!r}]"
        if not isinstance(subject.source, Run) or subject.source[name].ndim == 1:
            return saved
        return f"{saved}[{subject.row}, {subject.given.pos - len(subject.ids)}:]"

    def code(self, wanted: Wanted) -> str:
        """The surprisal, or the saved value by its name."""
        by = str(wanted.get("by", "surprisal"))
        if by in self._saved():
            return self._saved_code(by)
        subject = self.subject
        first = subject.given.pos - len(subject.ids)
        body = _SURPRISAL.format(lm=subject.name, ids=subject.ids, row=subject.row, first=first)
        return self._cell(body, "-s", "surprisal")

    def figure(self, wanted: Wanted) -> LabFigure:
        """A bar at each token."""
        from nnsight_lab.jupyter.explorer.pictures import bars_figure

        by = str(wanted.get("by", "surprisal"))
        label = "surprisal (nats)" if by == "surprisal" else by
        return bars_figure(self.numbers(by).tolist(), self.subject.tokens, label)
