"""Lens: what each layer would say if it were the last, and how likely chosen tokens are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nnsight_lab.jupyter.explorer.view import Sheet, Tell, View, Wanted, floats
from nnsight_lab.recipes import LogitLens, logit_lens

if TYPE_CHECKING:
    from nnsight_lab.jupyter.figures import LabFigure

__all__ = ["LensView"]

_CODE = """\
stream = [lm.layers[0].input, *(layer.output for layer in lm.layers)]
rows = [*(lm.lm_head(lm.norm(resid)) for resid in stream), lm.logits]
log_probs = torch.stack([logits.float().log_softmax(-1) for logits in rows])[:, {row}, {first}:]
values, ids = log_probs.topk({top}, dim=-1)
probabilities = values.exp()
entropy = -(log_probs.exp() * log_probs).sum(-1)"""
_TARGETS = """
target = log_probs[..., {targets}]
target_probabilities = target.exp()
target_ranks = (log_probs[..., None, :] > target[..., None]).sum(-1)"""


class LensView(View):
    """The logit lens of the prompt (nostalgebraist, 2020): layers up, positions across."""

    name = "lens"
    title = "Lens"

    def ask(self, wanted: Wanted, tell: Tell) -> None:
        """`top` tokens of each place, and the probability and rank of each of `targets`."""
        lens = self.lens(wanted)
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
        tell(Sheet(plain, arrays))

    def lens(self, wanted: Wanted) -> LogitLens:
        """The recipe on this subject."""
        subject = self.subject
        targets = self._targets(wanted)
        prompt = None if subject.source is not subject.model else subject.given
        return logit_lens(
            subject.source, prompt, top=_top(wanted), row=subject.row, targets=targets
        )

    def _targets(self, wanted: Wanted) -> list[int]:
        """The ids of `targets`: each an id, or text whose first token is meant."""
        found = []
        for target in wanted.get("targets", ()):
            if isinstance(target, int):
                found.append(target)
            elif target:
                ids = self.subject.model.tokenizer.encode(str(target), add_special_tokens=False)
                found += ids[:1]
        return list(dict.fromkeys(found))

    def code(self, wanted: Wanted) -> str:
        """Probabilities, ids and entropy, `[layer, pos, top]`; and of the targets."""
        subject = self.subject
        first = subject.given.pos - len(subject.ids)
        body = _CODE.format(row=subject.row, first=first, top=_top(wanted))
        targets = self._targets(wanted)
        body += _TARGETS.format(targets=targets) if targets else ""
        return self._cell(body.replace("lm.", f"{subject.name}."))

    def figure(self, wanted: Wanted) -> LabFigure:
        """The heatmap of `run.fig.lens()`."""
        from nnsight_lab.jupyter.figures import lens_figure

        return lens_figure(self.lens(wanted))


def _top(wanted: Wanted) -> int:
    return min(max(int(wanted.get("top", 5)), 1), 20)
