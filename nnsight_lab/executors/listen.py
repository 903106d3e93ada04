"""One run's ear at the model: at each hook point of a forward pass, values go out and come back.

    listener = Listener(run, plan, stages, cancelled)
    with listener.attached(host, measured, step): module(…)    # one forward pass

The interleaver knows the graph and the host the hooks; this file knows which hook point is which
moment of the run, and whose rows a place means there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from nnsight_lab.errors import Cancelled, ShapeMismatch
from nnsight_lab.executors.host import TorchHost
from nnsight_lab.executors.measure import Measured
from nnsight_lab.executors.sites import HookPoint
from nnsight_lab.ir import STEP, ModuleTree, Spec, Write
from nnsight_lab.passes.check import check_fits
from nnsight_lab.passes.invokes import Span, narrowed, widened
from nnsight_lab.passes.schedule import Schedule
from nnsight_lab.passes.sources import check_as_measured
from nnsight_lab.passes.stages import Stages
from nnsight_lab.runtime import Interleaver
from nnsight_lab.runtime.interleaver import Place
from nnsight_lab.runtime.missing import MISSING, did_not_happen

__all__ = ["Enough", "Listener"]


class Enough(BaseException):
    """Raised inside a forward pass when the graph needs nothing further of it. Never escapes."""


class Listener:
    """Hears the forward passes of one run."""

    def __init__(
        self, run: Interleaver, plan: Schedule, stages: Stages, cancelled: Callable[[], bool]
    ) -> None:
        self._run = run
        self._plan = plan
        self._graph = plan.graph
        self._stages = stages
        self._cancelled = cancelled

    def check_going(self) -> None:
        """Raise `Cancelled` where the run was. Asked at each hook, and before each further pass."""
        if self._cancelled():
            raise Cancelled("The run was cancelled.")

    def enough(self, step: int) -> bool:
        """Whether the part of the run that `step` belongs to needs nothing further."""
        return not self._run.waiting((self._stages.at(step).last + 1) * STEP)

    @contextmanager
    def attached(
        self,
        host: TorchHost,
        measured: Measured,
        step: int,
        *,
        ended: Collection[int] = (),
        to_the_end: bool = False,
        let_go: bool = False,
    ) -> Iterator[bool]:
        """Hear forward pass `step` while the block runs; gives whether there is anything to hear.

        ended: invokes that have no part in this pass. to_the_end: never raise `Enough`.
        let_go: within the block `Enough` is caught, and nothing that the pass made is kept.
        """
        known = measured.points
        points = {
            known[moment % STEP]: moment
            for moment in self._plan.of_step.get(step, ())
            if moment % STEP in known
        }
        last = max(points.values(), default=-1)
        moments, bindings = self._plan.moments, measured.bindings

        def on_point(point: HookPoint, value: Any) -> Any:
            self.check_going()
            moment = points[point]
            if moments[moment].only_saves and point.op is None:
                stops = let_go and self._run.is_last(moment)
                read = lambda place: bindings[place.address].take(value)  # noqa: E731
                self._run.reach(moment, read, stops=stops)
            else:
                value = self.hand_over(
                    moment,
                    value,
                    measured.tree,
                    ended,
                    lambda place, held: self._taken(place, held, measured, point),
                    lambda place, held, new: bindings[place.address].put(held, new),
                )
            if moment >= last and not to_the_end and self.enough(step):
                raise Enough
            return value

        if not points:
            yield False
            return
        skips = [skip for moment in points.values() for skip in moments[moment].skips]
        with host.attached(points, on_point), host.skipping(skips, self._run.instead):
            yield True
        self._run.let_go()

    def _taken(self, place: Place, held: Any, measured: Measured, point: HookPoint) -> Any:
        value = measured.bindings[place.address].take(held)
        if point.op is not None:
            stage = self._stages.at(place.step)
            site = measured.tree.by_address[place.address]
            check_as_measured(site, value, stage.batch, stage.pos)
        return value

    def hand_over(
        self,
        moment: int,
        value: Any,
        tree: ModuleTree,
        ended: Collection[int] = (),
        take: Callable[[Place, Any], Any] = lambda _, held: held,
        put: Callable[[Place, Any, Any], Any] = lambda _, __, new: new,
        *,
        own: bool = False,
    ) -> Any:
        """Give a moment what is there; returns what shall be there.

        own: what is there is in memory that the model does not have.
        """

        def part_of(place: Place) -> tuple[Spec, Span, str]:
            assert place.invoke is not None
            spans = self._stages.spans(self._graph, place.step)
            return tree.by_address[place.address].spec, spans[place.invoke], str(place.address)

        def read(place: Place) -> Any:
            if place.invoke in ended:
                return MISSING
            held = take(place, value)
            return held if place.invoke is None else narrowed(held, *part_of(place))

        def write(place: Place, new: Any) -> None:
            nonlocal value
            if place.invoke in ended:
                return
            if new is MISSING:
                assert isinstance(place, Write), "what is read is never put back as missing"
                raise did_not_happen(place)
            if isinstance(place, Write):
                _check_new(place, read(place), new)
            if place.invoke is not None:
                new = widened(take(place, value), new, *part_of(place))
            value = put(place, value, new)

        for place, new in self._run.reach(moment, read, write, own=own):
            write(place, new)
        return value


def _check_new(place: Place, held: Any, new: Any) -> None:
    """A value whose shape was unknown while recording must fit where it is written to."""
    if isinstance(held, torch.Tensor) and isinstance(new, torch.Tensor):
        if held.shape == new.shape and held.dtype == new.dtype:
            return
        try:
            check_fits(str(place.address), held, new)
        except ShapeMismatch as exc:
            exc.node = place.id
            raise exc.at(place.where)
