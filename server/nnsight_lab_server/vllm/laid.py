"""`Laid`: graphs as runs bring them, laid along the model once for all runs that bring the same one.

    graph = laid.graph(data)                        # found again by its bytes
    everywhere, own = laid.along(graph, stages)     # and so is how it lies along runs of a length

Nothing of a run is kept but its graph, in which there is no prompt and no value. Its bytes name its
lines as well, so that an error is at the line of the run it happens in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeAlias

from nnsight_lab.ir import Address, Graph
from nnsight_lab.passes import Stages, schedule
from nnsight_lab.passes.schedule import Schedule
from nnsight_lab_server.vllm.forms import Form
from nnsight_lab_server.vllm.pipeline import own_edits

__all__ = ["Laid", "Schedules"]

Schedules: TypeAlias = tuple[Schedule, Schedule]
"""Of what all stages of a pipeline evaluate together, and of what this one does."""

_KEPT = 64
_LARGE = 2**16
"""Graphs of more bytes are not kept: what is large in them is somebody's constants."""


class Laid:
    """The graphs that one worker was last brought.

    forms: where each address of the model is. edits_of: the stage of a pipeline whose edits alone are
    made here; None on the last one, which evaluates everything.
    """

    def __init__(self, forms: Mapping[Address, Form], edits_of: int | None = None) -> None:
        self._forms = forms
        self._edits_of = edits_of
        self._graphs: OrderedDict[bytes, Graph] = OrderedDict()
        self._schedules: dict[int, dict[tuple[tuple[int, bool], ...], Schedules]] = {}

    def graph(self, data: bytes) -> Graph:
        """The graph that bytes say."""
        graph = self._graphs.get(data)
        if graph is not None:
            self._graphs.move_to_end(data)
            return graph
        graph = Graph.from_bytes(data)
        if len(data) <= _LARGE:
            self._graphs[data] = graph
            self._schedules[id(graph)] = {}
            if len(self._graphs) > _KEPT:
                _, oldest = self._graphs.popitem(last=False)
                del self._schedules[id(oldest)]
        return graph

    def along(self, graph: Graph, stages: Stages) -> Schedules:
        """How a graph lies along a run; of all runs with as many passes it lies the same."""
        known = self._schedules.get(id(graph), {})  # as long as it is kept, no other has its id
        lengths = tuple([(part.passes, part.generates) for part in stages.parts])
        if lengths not in known:
            known[lengths] = self._lay(graph, stages)
        return known[lengths]

    def _lay(self, graph: Graph, stages: Stages) -> Schedules:
        everywhere = schedule(graph, stages)
        if self._edits_of is None:
            return everywhere, everywhere
        return everywhere, schedule(own_edits(graph, self._forms, self._edits_of), stages)
