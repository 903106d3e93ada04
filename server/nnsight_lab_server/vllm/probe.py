"""Edits tried in vLLM: which form of an address takes one as Hugging Face does.

Each edit is a request of its own, several of them in one step of the engine. The logits at every
position are compared with those of the same edit on Hugging Face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from nnsight_lab.ir import Address
from nnsight_lab_server.vllm.discover import difference
from nnsight_lab_server.vllm.forms import Form
from nnsight_lab_server.vllm.reference import Reference, delta_of, edited_positions
from nnsight_lab_server.vllm.survey import Edit, edits_to_bytes, read_logits

__all__ = ["SurveyedEngine", "Written", "written_forms"]

_EDITS_AT_ONCE = 16
_OF_EFFECT = 0.05
"""An edit may differ by this part of what it does, so that one that is lost is seen."""


class SurveyedEngine(Protocol):
    """An engine that serves nobody yet, with `survey.SurveyWorker` in its workers."""

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of every worker; gives what the first returns."""
        ...

    def forward(self, prompt: tuple[int, ...], *, times: int = 1, tokens: int = 1) -> None:
        """Run a prompt so many times at once, to so many of the likeliest next tokens.

        Nothing is read from a cache of prefixes, and no prompt is cut into chunks.
        """
        ...


@dataclass(frozen=True, slots=True)
class Written:
    """What came of editing one form of an address; differences relative to the largest logit.

    right: whether the edit does what it does on Hugging Face. reason: why not.
    """

    form: Form
    read: float
    write: float | None
    effect: float | None
    right: bool = False
    reason: str = "no edit of it was tried"


def written_forms(
    reference: Reference,
    engine: SurveyedEngine,
    forms: Mapping[Address, tuple[tuple[Form, float], ...]],
    tolerance: float,
) -> dict[Address, Written]:
    """For each address the first form that takes an edit, or the first one and what went wrong."""
    best: dict[Address, Written] = {}
    for turn in range(max(map(len, forms.values()), default=0)):
        tried = [
            found[turn]
            for address, found in forms.items()
            if len(found) > turn and not (address in best and best[address].right)
        ]
        for begin in range(0, len(tried), _EDITS_AT_ONCE):
            chunk = tried[begin : begin + _EDITS_AT_ONCE]
            logits = _edited(reference, engine, [form for form, _ in chunk])
            for (form, read), after in zip(chunk, logits, strict=True):
                made = _judged(reference, form, read, after, tolerance)
                if made.right or form.address not in best:
                    best[form.address] = made
    return best


def _edited(reference: Reference, engine: SurveyedEngine, forms: list[Form]) -> torch.Tensor:
    """The logits of vLLM after an edit at each form."""
    prompt = reference.prompts[0]
    positions = edited_positions(len(prompt))
    edits = [
        Edit(form, positions, delta_of(form.address, reference.values[form.address]))
        for form in forms
    ]
    engine.call("lab_probe_begin", edits_to_bytes(edits, len(prompt), reference.columns))
    try:
        engine.forward(prompt, times=len(edits))
    finally:
        seen = engine.call("lab_probe_end")
    return read_logits(seen)


def _judged(
    reference: Reference, form: Form, read: float, after: torch.Tensor, tolerance: float
) -> Written:
    wanted, plain = reference.edited[form.address], reference.logits[0]
    write, effect = difference(after, wanted), difference(wanted, plain)
    if effect <= tolerance:
        reason = "an edit of it did nothing to the logits, so it could not be checked"
        return Written(form, read, write, effect, reason=reason)
    if write > min(tolerance, _OF_EFFECT * effect):
        reason = f"after an edit of it the logits differ from Hugging Face by {write:.0e} on vLLM"
        return Written(form, read, write, effect, reason=reason)
    return Written(form, read, write, effect, right=True, reason="")
