"""Forms chosen so that an edit is seen by all that comes after it on Hugging Face.

vLLM holds one value at several points, and comes by some places in another order. If an address
were read at an earlier point than another is edited at, which on Hugging Face comes first and moves
it, the reader would miss the edit. Then the reader is looked for further on; where it is nowhere
else, the edit is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from nnsight_lab.ir import Address
from nnsight_lab_server.vllm.forms import Form, Point
from nnsight_lab_server.vllm.probe import SurveyedEngine, Written, written_forms
from nnsight_lab_server.vllm.reference import Reference

__all__ = ["in_order"]

_ROUNDS = 4

_Forms = Mapping[Address, tuple[tuple[Form, float], ...]]


def in_order(
    reference: Reference,
    engine: SurveyedEngine,
    forms: _Forms,
    points: Sequence[Point],
    tolerance: float,
) -> dict[Address, Written]:
    """The form of each address that takes edits as Hugging Face does, and sees those of others."""
    order = {point: number for number, point in enumerate(points)}
    left = {address: known for address, known in forms.items() if known}
    written = written_forms(reference, engine, left, tolerance)
    for _ in range(_ROUNDS):
        again: dict[Address, tuple[tuple[Form, float], ...]] = {}
        for edited, reader in _missed(reference, written, order):
            first = order[written[edited].form.point]
            later = tuple(
                found
                for found in left[reader]
                if order[found[0].point] >= first and found[0] != written[reader].form
            )
            if later:
                again[reader] = left[reader] = later
        if not again:
            break
        written.update(written_forms(reference, engine, again, tolerance))
    for edited, reader in _missed(reference, written, order):
        reason = f"{reader} is reached before it on vLLM, and would miss the edit"
        written[edited] = replace(written[edited], right=False, reason=reason)
    return written


def _missed(
    reference: Reference, written: Mapping[Address, Written], order: Mapping[Point, int]
) -> Iterator[tuple[Address, Address]]:
    """Addresses that are edited, each with one that would not see it."""
    for address, made in [*written.items()]:
        if not made.right:
            continue
        for other in sorted(reference.moves[address]):
            if other in written and _misses(made.form, written[other].form, order):
                yield address, other
                break


def _misses(edited: Form, read: Form, order: Mapping[Point, int]) -> bool:
    """Whether what is read does not see what was edited before."""
    if edited.point != read.point:
        return order[read.point] < order[edited.point]
    return not _overlap(edited, read)


def _overlap(one: Form, other: Form) -> bool:
    """Whether two forms at one point have a tensor and a column in common."""
    if not set(one.terms) & set(other.terms):
        return False
    if one.columns is None or other.columns is None:
        return True
    return any(
        start < end and begin < stop for start, stop in one.columns for begin, end in other.columns
    )
