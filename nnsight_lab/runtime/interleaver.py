"""Evaluates a scheduled graph against a live forward pass, moment by moment.

    run = Interleaver(schedule, host, on_saved)
    run.begin()                          # what needs nothing from the model
    writes = run.reach(moment, read)     # called by the host, once a moment
    run.end()                            # everything the graph names was reached

The host knows the model; this file knows the graph. `read(place)` hands over a value of the
model, and what `reach` returns is put back in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from nnsight_lab.errors import LabError, NeverReached, OpFailed
from nnsight_lab.ir import (
    Apply,
    Call,
    Constant,
    Gradient,
    LocalCall,
    NodeId,
    Read,
    Weight,
    Write,
)
from nnsight_lab.kernels import kernel, tensor_from_data, to_python
from nnsight_lab.passes.schedule import AFTER, BEFORE, Moment, Schedule
from nnsight_lab.runtime.gradients import Gradients
from nnsight_lab.runtime.host import Host
from nnsight_lab.runtime.local_calls import called
from nnsight_lab.runtime.values import Values, copied, in_order

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
        functions: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self._schedule = schedule
        self._graph = schedule.graph
        self._host = host
        self._on_saved = on_saved
        self._values = Values()
        self._functions = functions or {}
        self._gradients = Gradients(schedule.gradients)
        self._pending = set(schedule.moments) - {BEFORE, AFTER}

    @property
    def finished(self) -> bool:
        """Whether every moment of the schedule has come, so the model may stop."""
        return not self._pending

    def begin(self) -> None:
        """Compute what needs nothing from the model."""
        before = self._schedule.moments.get(BEFORE)
        if before is not None:
            self._compute(before)
            self._values.forget(before.drops)

    def reach(self, moment: int, read: Callable[[Place], Any]) -> list[tuple[Place, Any]]:
        """The model is at `moment`: take reads, compute, send saves, give back writes."""
        here = self._schedule.moments.get(moment)
        if here is None or moment not in self._pending:
            return []
        writes: list[tuple[Place, Any]] = []
        for node in here.reads:
            value = in_order(read(node))
            if self._gradients.wanted_at(node.id):
                # What a gradient is taken at must be what the model goes on with.
                value = self._gradients.followed(value)
                writes.append((node, value))
            self._values[node.id] = value
        self._compute(here)
        # The model may change what it is handed (an in-place activation), so it gets a copy.
        writes += [(node, copied(self._values[node.value])) for node in here.writes]
        self._values.forget(here.drops)
        self._pending.discard(moment)
        return writes

    def end(self) -> None:
        """The forward pass is over.

        Raises:
            NeverReached: it did not come by an address the graph names.
        """
        for moment in sorted(self._pending):
            here = self._schedule.moments[moment]
            node: Place = here.reads[0] if here.reads else here.writes[0]
            raise NeverReached(
                f"The forward pass ended without reaching {node.address}.",
                hint="On these inputs the model does not run that module.",
                node=node.id,
            ).at(node.where)
        after = self._schedule.moments.get(AFTER)
        if after is not None:
            self._compute(after)

    def _compute(self, here: Moment) -> None:
        for id in here.steps:
            self._values[id] = self._evaluate(id)
        reads = [node.id for node in here.reads]
        dropped = set(here.drops)
        saved = [node for _, node in here.outputs]
        lasting = [id for id in (*reads, *here.steps) if id not in dropped]
        self._values.keep(saved, lasting, reads, self._gradients.active)
        for name, node in here.outputs:
            self._on_saved(name, self._gradients.let_go(self._values[node]))

    def _evaluate(self, id: NodeId) -> Any:
        node = self._graph[id]
        try:
            match node:
                case Constant(value=value):
                    return tensor_from_data(value).to(self._host.device)
                case Gradient():
                    return self._gradients.taken(node, self._values)
                case Weight(path=path, name=name) if self._gradients.wanted_at(id):
                    return self._host.weight(path, name)
                case Weight(path=path, name=name):
                    weight = in_order(self._host.weight(path, name).detach())
                    self._values.own_forever(weight)
                    return weight
                case Call(op=op, args=args, kwargs=kwargs):
                    return kernel(op)(*self._python(args), **self._named(kwargs))
                case Apply(path=path, args=args, kwargs=kwargs):
                    return in_order(self._host.apply(path, self._python(args), self._named(kwargs)))
                case LocalCall(args=args, kwargs=kwargs):
                    given = self._python(args), self._named(kwargs)
                    return called(node, self._functions, self._host, *given)
        except LabError as exc:
            exc.node = id
            raise exc.at(node.where)
        except Exception as exc:  # a seam: torch's own errors become ours, with the user's line
            what = node.op if isinstance(node, Call) else "calling a module"
            raise OpFailed(
                f"{what} failed while the model ran: {str(exc).splitlines()[0] if str(exc) else ''}",
                hint="The shapes were right when recorded; look at the values it was given.",
                node=id,
            ).at(node.where) from exc
        raise AssertionError(f"{type(node).__name__} is not computed")

    def _python(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(to_python(arg, self._values.__getitem__) for arg in args)

    def _named(self, kwargs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
        return {key: to_python(arg, self._values.__getitem__) for key, arg in kwargs}
