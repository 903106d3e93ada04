"""Evaluates a scheduled graph against a live forward pass, moment by moment.

    run = Interleaver(schedule, host, on_saved)
    run.begin()                          # what needs nothing from the model
    writes = run.reach(moment, read)     # called by the host, once a moment
    run.end()                            # everything the graph names was reached

With several forward passes: `end(step)` after each, and `miss` for those that were not made.

The host knows the model; this file knows the graph. `read(place)` hands over a value of the
model, and what `reach` returns is put back in its place: `MISSING` for an edit whose value is that
of a step that did not happen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch

from nnsight_lab.errors import NeverReached
from nnsight_lab.ir import Call, Gradient, Graph, NodeId, Read, Skip, Weight, Write
from nnsight_lab.ir.nodes import dependencies
from nnsight_lab.ir.tree import RESULT, STEP
from nnsight_lab.passes.schedule import BEFORE, Moment, Schedule
from nnsight_lab.passes.stages import after
from nnsight_lab.runtime.blocks import Functions, call_of, compute, failed
from nnsight_lab.runtime.gradients import Gradients, followed_by_autograd
from nnsight_lab.runtime.host import Host
from nnsight_lab.runtime.last_holder import Held, hold, mine
from nnsight_lab.runtime.missing import MISSING, did_not_happen, without_missing
from nnsight_lab.runtime.values import Values, copied, in_order, snapshot

__all__ = ["Interleaver", "Place"]

Place: TypeAlias = Read | Write
"""A read or a write: an address, and which invoke's part of it."""


class Interleaver:
    """One run of one graph. Owns its values; forgets them as they fall out of use."""

    def __init__(
        self,
        schedule: Schedule,
        host: Host,
        on_saved: Callable[[str, Any], None],
        functions: Functions | None = None,
        graph: Graph | None = None,
    ) -> None:
        """graph: the one to run, where it differs from the scheduled one in its sliders only."""
        self._schedule = schedule
        self._graph = schedule.graph if graph is None else graph
        self._host = host
        self._on_saved = on_saved
        self._values = Values()
        self._functions = functions or {}
        self._gradients = Gradients(schedule.graph)
        self._missing: set[NodeId] = set()
        self._pending = set(schedule.inside)
        self._skipped: dict[NodeId, Any] = {}
        self._held: list[tuple[str, Held]] = []

    @property
    def finished(self) -> bool:
        """Whether every moment of the schedule has come, so the model may stop."""
        return not self._pending

    def is_last(self, moment: int) -> bool:
        """Whether no other moment of the schedule is still to come."""
        return len(self._pending) == 1 and moment in self._pending

    def waiting(self, before: int) -> bool:
        """Whether a moment before this one is still to come."""
        return any(moment < before for moment in self._pending)

    def begin(self) -> None:
        """Compute what needs nothing from the model."""
        before = self._schedule.moments.get(BEFORE)
        if before is not None:
            self._compute(before)
            self._values.forget(before.drops)

    def reach(
        self,
        moment: int,
        read: Callable[[Place], Any],
        write: Callable[[Place, Any], None] | None = None,
        *,
        stops: bool = False,
        own: bool = False,
    ) -> list[tuple[Place, Any]]:
        """The model is at `moment`: take reads, compute, send saves, give back writes.

        write: puts back at once what gradients are taken at, so that rows of it which are read
            after it are parts of it. Without one, it is given back with the rest.
        stops: the model goes no further than here, and the host calls `let_go` when nothing of
            this pass is left; what is saved here may be sent only then, without a copy.
        own: what is read is in memory that the model does not have, and is sent without a copy.
        """
        here = self._schedule.moments.get(moment)
        if here is None or moment not in self._pending:
            return []
        if here.only_saves and not self._gradients.active:
            self._hand_on(here, read, stops=stops, own=own)
            self._pending.discard(moment)
            return []
        writes: list[tuple[Place, Any]] = []
        put_back = write or (lambda place, new: writes.append((place, new)))
        for node in self._gradients.in_order(here.reads):
            value = in_order(read(node))
            if value is MISSING:
                self._missing.add(node.id)
            elif self._gradients.wanted_at(node.id):
                # What a gradient is taken at must be what the model goes on from; the model may
                # then change its copy in place.
                value = self._gradients.followed(node.id, copied(value))
                put_back(node, copied(value))
            self._values[node.id] = value
        self._compute(here)
        # The model may change what it is handed (an in-place activation), so it gets a copy.
        for edit in here.writes:
            new = self._values[edit.value]
            writes.append((edit, new if self._is_given_away(edit, new) else copied(new)))
        for skip in here.skips:
            self._skipped[skip.id] = copied(self._values[skip.value])
        self._values.forget(here.drops)
        self._pending.discard(moment)
        return writes

    def _hand_on(
        self, here: Moment, read: Callable[[Place], Any], *, stops: bool, own: bool
    ) -> None:
        """Send what is read, and keep none of it: the short way through most moments."""
        found: dict[NodeId, Any] = {}
        for node in here.reads:
            value = read(node)
            if value is MISSING:
                self._missing.add(node.id)
            elif own:
                found[node.id] = in_order(value)
            else:
                held = hold(value) if stops else None
                found[node.id] = snapshot(value) if held is None else held
        for name, id in here.outputs:
            if id in found and isinstance(found[id], Held):
                self._held.append((name, found[id]))
            elif id in found:
                self._on_saved(name, found[id])

    def let_go(self) -> None:
        """Nothing is left of the forward pass that stopped: send what was held back for that."""
        for name, held in self._held:
            self._on_saved(name, mine(held))
        self._held.clear()

    def instead(self, skip: Skip) -> Any:
        """What a skipped module gives: asked for once, in its place."""
        value = self._skipped.pop(skip.id)
        if value is MISSING:
            raise did_not_happen(skip)
        return value

    def end(self, step: int = 0) -> None:
        """Forward pass `step` is over.

        Raises:
            NeverReached: it did not come by an address the graph names.
        """
        for moment in sorted(self._pending):
            here = self._schedule.moments[moment]
            places: list[Place | Skip] = [*here.reads, *here.writes, *here.skips]
            node = places[0]
            if moment >= (step + 1) * STEP or node.address == RESULT:
                break
            raise NeverReached(
                f"The forward pass ended without reaching {node.address}.",
                hint="On these inputs the model does not run that module.",
                node=node.id,
            ).at(node.where)
        over = self._schedule.moments.get(after(step))
        if over is not None:
            self._compute(over)
            self._values.forget(over.drops)

    def miss(self, before: int) -> None:
        """The moments up to `before` will not come: their reads are missing, their writes void."""
        for moment in sorted(self._pending):
            if moment >= before:
                return
            self.reach(moment, lambda _: MISSING)

    def _is_given_away(self, node: Write, value: Any) -> bool:
        """Whether a value is made for this write alone, in memory of its own: it needs no copy."""
        only_here = node.value in self._schedule.given_away and not self._gradients.active
        return only_here and isinstance(value, torch.Tensor)

    def ahead(self, id: NodeId, known: Mapping[NodeId, Any]) -> Any:
        """What a node would be with these values of reads, before its moment; nothing is kept.

        None when it needs what is not there yet.
        """
        values = dict(known)
        missing, stack = set[NodeId](), [id]
        while stack:
            other = stack.pop()
            if other in values or other in self._values or other in missing:
                continue
            if isinstance(self._graph[other], Read) or other in self._missing:
                return None
            missing.add(other)
            stack += dependencies(self._graph[other])

        def value_of(other: NodeId) -> Any:
            return values[other] if other in values else self._values[other]

        for other in sorted(missing):
            node = self._graph[other]
            try:
                values[other] = compute(node, value_of, self._host, self._functions)
            except Exception as exc:  # noqa: BLE001 - a seam, as in `_evaluate`
                failure = failed(node, exc)
                failure.node = other if failure.node is None else failure.node
                raise failure from (exc.__cause__ if failure is exc else exc)
        return value_of(id)

    def _compute(self, here: Moment) -> None:
        for id in here.steps:
            self._step(id)
        if not self._gradients.active:  # values must stay the ones autograd has seen
            self._values.keep(here)
        for name, node in here.outputs:
            if node in self._missing:
                continue
            self._on_saved(name, self._gradients.let_go(self._values[node]))

    def _step(self, id: NodeId) -> None:
        """Compute a node, unless an edit of a gradient has already asked for it."""
        if id not in self._values:
            self._values[id] = self._gradients.followed(id, self._evaluate(id))

    def _call(self, node: Call) -> Callable[[Callable[[NodeId], Any]], Any]:
        """An operation made ready, once for all runs of this schedule."""
        ready = self._schedule.ready
        if node.id not in ready:
            ready[node.id] = call_of(node)
        return ready[node.id]

    def _value_of(self, id: NodeId) -> Any:
        """The value of a node that may not have had its turn yet, and of what it needs."""
        missing, stack = {id}, [id]
        while stack:
            needed = dependencies(self._graph[stack.pop()])
            new = {other for other in needed if other not in self._values} - missing
            missing |= new
            stack += new
        for other in sorted(missing):
            self._step(other)
        return self._values[id]

    def _evaluate(self, id: NodeId) -> Any:
        node = self._graph[id]
        if self._missing:
            found = without_missing(node, self._missing)
            if found is None:
                self._missing.add(id)
                return MISSING
            node = found
        try:
            if isinstance(node, Call) and node is self._graph[id]:
                return self._call(node)(self._values.__getitem__)
            match node:
                case Gradient():
                    return self._gradients.taken(node, self._values, self._value_of)
                case Weight(path=path, name=name) if self._gradients.wanted_at(id):
                    return followed_by_autograd(node, self._host.weight(path, name))
                case Weight(path=path, name=name):
                    weight = in_order(self._host.weight(path, name).detach())
                    self._values.own_forever(weight)
                    return weight
                case _:
                    return compute(node, self._values.__getitem__, self._host, self._functions)
        except Exception as exc:  # noqa: BLE001 - a seam: torch's own errors become ours, with the user's line
            failure = failed(node, exc)
            failure.node = id if failure.node is None else failure.node
            raise failure from (exc.__cause__ if failure is exc else exc)
