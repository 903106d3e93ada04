"""`certified`: vLLM's model compared with Hugging Face's, address by address.

    certificate = certified(reference, engine)      # before anybody is served

Reads are compared by `discover.py`, for prompts and while decoding. Then each form is edited in vLLM
as the reference was on Hugging Face, and the logits are compared (`probe.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import takewhile

import torch

from nnsight_lab.ir import Address
from nnsight_lab_server.vllm.certificate import Certificate, Entry, versions
from nnsight_lab_server.vllm.discover import (
    candidates,
    close_enough,
    difference,
    points_in_order,
)
from nnsight_lab_server.vllm.forms import Form, Point
from nnsight_lab_server.vllm.order import in_order
from nnsight_lab_server.vllm.probe import SurveyedEngine, Written
from nnsight_lab_server.vllm.reference import Reference
from nnsight_lab_server.vllm.survey import Survey, read_surveys

__all__ = ["certified", "surveyed_pass"]

_STILL_THE_SAME = 0.2
"""A value that differs by more than this is another value."""
_NOWHERE = "vLLM computes it nowhere by itself"
_ANOTHER_MODEL = (
    "vLLM does not compute this model as Hugging Face does; the logits differ by {:.0e}"
)


def certified(reference: Reference, engine: SurveyedEngine) -> Certificate:
    """Compare vLLM with Hugging Face, address by address."""
    surveys = [surveyed_pass(engine, prompt)[0] for prompt in reference.prompts]
    found = candidates(reference, surveys)
    tolerance = close_enough(reference.logits[0].dtype)
    points = tuple(points_in_order(surveys[0]))
    written = in_order(reference, engine, found.forms, points, tolerance)
    apart = _while_decoding(reference, engine, written)
    logits = max(
        difference(survey.logits[:, reference.columns], wanted)
        for survey, wanted in zip(surveys, reference.logits, strict=True)
        if survey.logits is not None
    )
    otherwise = _NOWHERE if logits <= tolerance else _ANOTHER_MODEL.format(logits)
    entries = [
        _measured(address, written[address], apart.get(address, 0.0), tolerance)
        if address in written
        else _not_found(address, found.nearest[address], otherwise)
        for address in reference.values
    ]
    entries += [Entry(address, None, reason=reason) for address, reason in reference.unfit.items()]
    entries += _patterns(reference, {entry.address: entry for entry in entries})
    return Certificate(reference.card.name, tuple(entries), points, logits, tolerance, versions())


def surveyed_pass(engine: SurveyedEngine, prompt: tuple[int, ...], tokens: int = 1) -> list[Survey]:
    """The forward passes of one prompt in vLLM."""
    engine.call("lab_survey_begin")
    try:
        engine.forward(prompt, tokens=tokens)
    finally:
        seen = engine.call("lab_survey_end")
    return read_surveys(seen)


def _while_decoding(
    reference: Reference, engine: SurveyedEngine, written: Mapping[Address, Written]
) -> dict[Address, float]:
    """How far values are off where vLLM computes one position at a time, from its cache."""
    prompt = reference.prompts[-1]
    passes = surveyed_pass(engine, prompt, tokens=reference.said_tokens + 1)
    ids = [id for survey in passes for id in survey.ids]
    # Where vLLM has gone on with another token, it has another text.
    same = takewhile(lambda pair: pair[0] == pair[1], zip(ids, reference.text, strict=False))
    rows = len(list(same))
    held = [{each.point: each.nested for each in survey.held} for survey in passes]
    apart: dict[Address, float] = {}
    for address, made in written.items():
        form = made.form
        if form.kind == "logits":
            continue
        try:
            taken = torch.cat([form.take(each[form.point]) for each in held])
        except (KeyError, IndexError, AssertionError, RuntimeError):
            apart[address] = float("inf")  # what is held has another form there
            continue
        wanted = reference.said[address]
        alike = taken.shape == wanted.shape
        apart[address] = difference(taken[:rows], wanted[:rows]) if alike else float("inf")
    return apart


def _not_found(address: Address, near: float, otherwise: str) -> Entry:
    """near: how far off the most similar value is. otherwise: what to say if that is another."""
    known = f"it differs from Hugging Face by {near:.0e} on vLLM"
    read = near if near < float("inf") else None
    return Entry(address, None, read=read, reason=known if near < _STILL_THE_SAME else otherwise)


def _measured(address: Address, written: Written, decoding: float, tolerance: float) -> Entry:
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
        points = {part.form.point.path for part in found[:3] if part.form is not None}
        if len(found) < len(parts) or len(points) != 1 or z is None:
            reason = "it is made from q, k, v and z, which were not all found in vLLM"
            made.append(Entry(site.address, None, reason=reason))
            continue
        form = Form(site.address, Point("after", points.pop()), kind="pattern")
        form = replace(form, stage=z.form.stage if z.form is not None else 0)
        reason = "" if z.writable else z.reason
        made.append(Entry(site.address, form, None, None, None, True, z.writable, reason))
    return made
