"""That an edit is seen by all that comes after it, also where vLLM comes by places in another order.

vLLM holds one value at several points. If an address is read at an earlier point than another is
edited at, which on Hugging Face comes first and moves it, the reader would miss the edit. So such
an edit is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nnsight_lab.ir import Address
from nnsight_lab_server.vllm.forms import Form, Point
from nnsight_lab_server.vllm.probe import Written
from nnsight_lab_server.vllm.reference import Reference

__all__ = ["in_order"]


def in_order(
    reference: Reference, written: Mapping[Address, Written], points: Sequence[Point]
) -> dict[Address, Written]:
    """The same, but an edit that others would miss is not right."""
    order = {point: number for number, point in enumerate(points)}
    kept = dict(written)
    for address, made in written.items():
        if not made.right:
            continue
        for other in sorted(reference.moves.get(address, ())):
            reader = written.get(other)
            if reader is None or other == address:
                continue
            if _misses(made.form, reader.form, order):
                reason = f"{other} is reached before it on vLLM, and would miss the edit"
                kept[address] = replace(made, right=False, reason=reason)
                break
    return kept


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
