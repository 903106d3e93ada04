"""Lens: what each layer would say if it were the last, and how likely chosen tokens are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nnsight_lab.errors import BadInput
from nnsight_lab.jupyter.explorer.view import Sheet, Tell, View, Wanted, floats
from nnsight_lab.recipes import LogitLens, logit_lens
from nnsight_lab.recipes.prompt import token_id

if TYPE_CHECKING:
    from nnsight_lab.jupyter.figures import LabFigure

__all__ = ["LensView"]

_CODE = """\
lens_stream = [{lm}.layers[0].input, *(layer.output for layer in {lm}.layers)]
lens_logits = [*({lm}.lm_head({lm}.norm(resid)) for resid in lens_stream), {lm}.logits]
lens_log_probs = torch.stack([row.float().log_softmax(-1) for row in lens_logits])
lens_log_probs = lens_log_probs[:, {row}, {first}:]
lens_values, lens_ids = lens_log_probs.topk({top}, dim=-1)
lens_probabilities = lens_values.exp()
lens_entropy = -(lens_log_probs.exp() * lens_log_probs).sum(-1)"""
_TARGETS = """
lens_targets = lens_log_probs[..., {targets}]
lens_target_probabilities = lens_targets.exp()
lens_target_ranks = (lens_log_probs[..., None, :] > lens_targets[..., None]).sum(-1)"""
_NAMES = ("lens_probabilities", "lens_ids", "lens_entropy")
_NAMES_OF_TARGETS = ("lens_target_probabilities", "lens_target_ranks")


class LensView(View):
    """The logit lens of the prompt (nostalgebraist, 2020): layers up, positions across."""

    name = "lens"
    title = "Lens"

    def ask(self, wanted: Wanted, tell: Tell) -> None:
        """`top` tokens of each place, and the probability and rank of each of `targets`.

        A target that is no single token is refused after the rest has been told, so that the tab
        does not ask for it again.
        """
        targets, refused = self._targets(wanted)
        tell(self._sheet(self._lens(wanted, targets)))
        if refused is not None:
            raise refused

    def _sheet(self, lens: LogitLens) -> Sheet:
        spelt = {id: word for at, ids in zip(lens.words, lens.ids.tolist(), strict=True)
                 for words, row in zip(at, ids, strict=True)
                 for word, id in zip(words, row, strict=True)}  # fmt: skip
        spelt |= {id: self.subject.word(id) for id in lens.targets}
        known = sorted(spelt)
        place = {id: index for index, id in enumerate(known)}
        numbered = np.vectorize(place.__getitem__, otypes=[np.int32])(lens.ids.numpy())
        plain = {
            "layers": lens.layers,
            "words": [spelt[id] for id in known],
            "ids": known,
            "targets": [place[id] for id in lens.targets],
        }
        arrays = {
            "probabilities": floats(lens.probabilities),
            "tops": numbered,
            "entropy": floats(lens.entropy),
            "chances": floats(lens.target_probabilities),
            "ranks": lens.target_ranks.int().cpu().numpy(),
        }
        return Sheet(plain, arrays)

    def lens(self, wanted: Wanted) -> LogitLens:
        """The recipe on this subject.

        Raises:
            BadInput: one of `targets` is no single token.
        """
        return self._lens(wanted, self._all_targets(wanted))

    def _lens(self, wanted: Wanted, targets: list[int]) -> LogitLens:
        subject = self.subject
        prompt = None if subject.source is not subject.model else subject.given
        return logit_lens(
            subject.source, prompt, top=_top(wanted), row=subject.row, targets=targets
        )

    def _targets(self, wanted: Wanted) -> tuple[list[int], BadInput | None]:
        """The ids of `targets`, each an id or the text of one token; and what was wrong, if any."""
        found, refused = [], None
        for target in wanted.get("targets", ()):
            if target == "":
                continue
            try:
                found.append(token_id(self.subject.model, target))
            except BadInput as exc:
                refused = exc
        return list(dict.fromkeys(found)), refused

    def _all_targets(self, wanted: Wanted) -> list[int]:
        found, refused = self._targets(wanted)
        if refused is not None:
            raise refused
        return found

    def code(self, wanted: Wanted) -> str:
        """Probabilities, ids and entropy, `[layer, pos, top]`; and of the targets."""
        subject = self.subject
        first = subject.given.pos - len(subject.ids)
        targets = self._all_targets(wanted)
        names: tuple[str, ...] = _NAMES
        body = _CODE.format(lm=subject.name, row=subject.row, first=first, top=_top(wanted))
        if targets:
            body += _TARGETS.format(targets=targets)
            names += _NAMES_OF_TARGETS
        return self._cell(body, "-s", ",".join(names))

    def figure(self, wanted: Wanted) -> LabFigure:
        """The heatmap of `run.fig.lens()`."""
        from nnsight_lab.jupyter.figures import lens_figure

        return lens_figure(self.lens(wanted))


def _top(wanted: Wanted) -> int:
    return min(max(int(wanted.get("top", 5)), 1), 20)
