"""The parity certificate: which addresses of Hugging Face vLLM's model reads and edits right.

    certificate = certified(reference, engine)
    certificate.forms[address]          # where a verified address is
    certificate.refused[address]        # why another is not served

Reads are compared by `discover.py`; here each form is also edited in vLLM, as the reference was on
Hugging Face, and the logits compared. A certificate is data: JSON, kept by what it depends on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile

import torch

from nnsight_lab.ir import Address
from nnsight_lab_server.vllm.discover import (
    Findings,
    candidates,
    close_enough,
    difference,
    points_in_order,
)
from nnsight_lab_server.vllm.forms import Form, Point
from nnsight_lab_server.vllm.probe import SurveyedEngine, Written, written_forms
from nnsight_lab_server.vllm.reference import Reference
from nnsight_lab_server.vllm.survey import Survey, read_surveys

__all__ = ["Certificate", "Entry", "certified"]

_STILL_THE_SAME = 0.2
"""A value that differs by more than this is another value."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One address, measured. Differences are relative to the largest value on Hugging Face.

    form: where it is; None when it is nowhere. read: how far the value is off; None when unknown.
    write: how far the logits are off after an edit. effect: what the edit does to them.
    readable, writable: what is verified. reason: why something is not.
    """

    address: Address
    form: Form | None
    read: float | None = None
    write: float | None = None
    effect: float | None = None
    readable: bool = False
    writable: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Certificate:
    """What was found of one model.

    points: vLLM's points in the order they come. logits: how far the plain logits are off.
    twin: whether a small model of the same class was measured instead.
    """

    model: str
    entries: tuple[Entry, ...]
    points: tuple[Point, ...]
    logits: float
    tolerance: float
    versions: Mapping[str, str] = field(default_factory=dict)
    twin: bool = False

    @cached_property
    def by_address(self) -> Mapping[Address, Entry]:
        """Entries by address."""
        return {entry.address: entry for entry in self.entries}

    @cached_property
    def forms(self) -> Mapping[Address, Form]:
        """Where each verified address is."""
        return {
            entry.address: entry.form
            for entry in self.entries
            if entry.readable and entry.form is not None
        }

    @cached_property
    def refused(self) -> Mapping[Address, str]:
        """Addresses that cannot be read, and why."""
        return {entry.address: entry.reason for entry in self.entries if not entry.readable}

    @cached_property
    def read_only(self) -> Mapping[Address, str]:
        """Addresses that can be read but not edited, and why."""
        return {
            entry.address: entry.reason
            for entry in self.entries
            if entry.readable and not entry.writable
        }

    @property
    def same_logits(self) -> bool:
        """Whether vLLM says what Hugging Face says."""
        return self.logits <= self.tolerance


def certified(reference: Reference, engine: SurveyedEngine) -> Certificate:
    """Compare vLLM with Hugging Face, address by address."""
    surveys = [_surveyed(engine, prompt)[0][0] for prompt in reference.prompts]
    found = candidates(reference, surveys)
    apart = _while_decoding(reference, engine, found)
    tolerance = close_enough(reference.logits[0].dtype)
    fit = {address: forms for address, forms in found.forms.items() if forms}
    written = written_forms(reference, engine, fit, tolerance)
    entries = [
        _entry(address, found, written.get(address), apart.get(address, 0.0), tolerance)
        for address in reference.values
    ]
    entries += [Entry(address, None, reason=reason) for address, reason in reference.unfit.items()]
    entries += _patterns(reference, {entry.address: entry for entry in entries})
    logits = max(
        difference(survey.logits[:, reference.columns], wanted)
        for survey, wanted in zip(surveys, reference.logits, strict=True)
        if survey.logits is not None
    )
    points = tuple(points_in_order(surveys[0]))
    return Certificate(reference.card.name, tuple(entries), points, logits, tolerance)


def _surveyed(
    engine: SurveyedEngine, prompt: tuple[int, ...], tokens: int = 1
) -> tuple[list[Survey], list[int]]:
    """vLLM's forward passes of one prompt, and the tokens it went on with."""
    engine.call("lab_survey_begin")
    try:
        said = engine.forward(prompt, tokens=tokens)[0]
    finally:
        seen = engine.call("lab_survey_end")
    return read_surveys(seen), said


def _while_decoding(
    reference: Reference, engine: SurveyedEngine, found: Findings
) -> dict[Address, float]:
    """How far values are off where vLLM computes one position at a time, from its cache."""
    prompt = reference.prompts[-1]
    passes, said = _surveyed(engine, prompt, tokens=reference.said_tokens + 1)
    # Where vLLM has gone on with another token, it has another text.
    same = takewhile(lambda pair: pair[0] == pair[1], zip(said, reference.text[len(prompt) :]))
    rows = len(prompt) + len(list(same))
    held = [{each.point: each.nested for each in survey.held} for survey in passes]
    apart: dict[Address, float] = {}
    for address, forms in found.forms.items():
        if not forms or forms[0][0].kind == "logits":
            continue
        form = forms[0][0]
        try:
            taken = torch.cat([form.take(each[form.point]) for each in held])
        except (KeyError, IndexError, AssertionError, RuntimeError):
            apart[address] = float("inf")  # what is held has another form there
            continue
        wanted = reference.said[address]
        alike = taken.shape == wanted.shape
        apart[address] = difference(taken[:rows], wanted[:rows]) if alike else float("inf")
    return apart


def _entry(
    address: Address,
    found: Findings,
    written: Written | None,
    decoding: float,
    tolerance: float,
) -> Entry:
    forms = found.forms.get(address, ())
    if not forms:
        near = found.nearest.get(address, float("inf"))
        reason = (
            f"it differs from Hugging Face by {near:.0e} on vLLM"
            if near < _STILL_THE_SAME
            else "vLLM computes it nowhere by itself"
        )
        return Entry(address, None, read=near if near < float("inf") else None, reason=reason)
    if written is None:
        form, read = forms[0]
        written = Written(form, read, None, None)
    off = max(written.read, decoding)
    if decoding > tolerance:
        reason = f"it differs from Hugging Face by {decoding:.0e} on vLLM while decoding"
        return Entry(address, written.form, off, reason=reason)
    return Entry(
        address,
        written.form,
        off,
        written.write,
        written.effect,
        readable=True,
        writable=written.right,
        reason=written.reason,
    )


def _patterns(reference: Reference, entries: Mapping[Address, Entry]) -> list[Entry]:
    """Patterns are made from q and k, where those and z are found; the engine checks them."""
    made = []
    for site in reference.card.tree.sites:
        path, port, call = site.address
        if port != "pattern":
            continue
        parts = [entries.get(Address(path, name, call)) for name in ("q", "k", "v", "z")]
        found = [part for part in parts if part is not None and part.readable]
        z = entries.get(Address(path, "z", call))
        points = {part.form.point.path for part in found if part.form is not None}
        if len(found) < len(parts) or len(points) != 1 or z is None:
            reason = "it is made from q, k, v and z, which were not all found at one module of vLLM"
            made.append(Entry(site.address, None, reason=reason))
            continue
        form = Form(site.address, Point("after", points.pop()), kind="pattern")
        reason = "" if z.writable else z.reason
        made.append(Entry(site.address, form, None, None, None, True, z.writable, reason))
    return made
