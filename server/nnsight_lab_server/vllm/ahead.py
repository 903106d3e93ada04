"""`Ahead`: edits that are made as rows come by, before all rows of their moment are there.

Most edits need of each row only that row: a direction added, a head put to zero, another prompt's
value put in. Those need not wait for the rest of the prompt, nor for the other prompts of a batch.
What is saved, and edits that need more, wait until the moment is whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nnsight_lab.ir import Address, Read, Write
from nnsight_lab.passes import writes_by_row
from nnsight_lab.passes.invokes import Span, narrowed, widened
from nnsight_lab.passes.schedule import Schedule
from nnsight_lab.passes.stages import Stages
from nnsight_lab.runtime import Interleaver

__all__ = ["Ahead"]


class Ahead:
    """The edits of a plan that can be made row by row."""

    def __init__(self, plan: Schedule, stages: Stages, run: Interleaver) -> None:
        self._plan = plan
        self._stages = stages
        self._run = run
        self._by_row = writes_by_row(plan.graph)

    def edited(
        self, moment: int, step: int, held: Mapping[Address, Any], ended: frozenset[int]
    ) -> dict[Address, Any] | None:
        """What a moment puts at its addresses, right where rows are there; None when it must wait.

        held: what is there so far, with anything in place of rows that have not come.
        """
        here = self._plan.moments[moment]
        if here.skips or any(write.id not in self._by_row for write in here.writes):
            return None
        changed = dict(held)
        for write in here.writes:
            if write.address not in held:
                return None
            if write.invoke in ended:
                continue
            known = {
                read.id: self._own(held[read.address], read, step)
                for read in here.reads
                if (read.address, read.invoke) == (write.address, write.invoke)
            }
            new = self._run.ahead(write.value, known)
            if new is None:
                return None
            changed[write.address] = self._whole(changed[write.address], new, write, step)
        return {write.address: changed[write.address] for write in here.writes}

    def _own(self, value: Any, place: Read | Write, step: int) -> Any:
        """One invoke's part of a value, or all of it."""
        if place.invoke is None:
            return value
        return narrowed(value, *self._where(place, place.invoke, step))

    def _whole(self, value: Any, new: torch.Tensor, place: Write, step: int) -> Any:
        if place.invoke is None:
            return new
        return widened(value, new, *self._where(place, place.invoke, step))

    def _where(self, place: Read | Write, invoke: int, step: int) -> tuple[Any, Span, str]:
        spec = self._stages.at(step).tree.by_address[place.address].spec
        span = self._stages.spans(self._plan.graph, step)[invoke]
        return spec, span, str(place.address)
