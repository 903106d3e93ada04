"""Which engine of a model runs a job: the first that can. What the others lack is said.

A model may be served by several engines, of which the first is preferred. A job that the first must
refuse goes to the next; if none can run it, the last one's reason is the answer, for it can do most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnsight_lab.contract import Accepted, Several, TokenRows
from nnsight_lab.errors import BadInput, EngineFailed, GraphError, LabError, NotSupported
from nnsight_lab.ir import Graph
from nnsight_lab.wire.events import JobSubmitted
from nnsight_lab_server.admission import admit
from nnsight_lab_server.config import ServerLimits
from nnsight_lab_server.engines.base import Choosy
from nnsight_lab_server.jobs import ModelState, ModelWorker

__all__ = ["Admitted", "route"]

_WHY = 500


@dataclass(frozen=True, slots=True)
class Admitted:
    """A job that may be queued: with whom, what it is, and what its client is told."""

    worker: ModelWorker
    graph: Graph
    inputs: TokenRows | Several
    accepted: Accepted


def route(
    workers: Sequence[ModelWorker], submitted: JobSubmitted, limits: ServerLimits
) -> Admitted:
    """Admit a job with the first engine that can run it. Runs in a thread.

    Raises:
        LabError: none of them can.
    """
    why = ""
    for worker in workers:
        try:
            graph, inputs = _admitted(worker, submitted, limits)
        except (NotSupported, GraphError, EngineFailed, BadInput) as exc:
            if worker is workers[-1]:
                raise
            why = why or _said(exc)
            continue
        named = _engine_of(worker) if len(workers) > 1 else ""
        return Admitted(worker, graph, inputs, Accepted(named, why if named else ""))
    raise AssertionError("a model has one engine at least")


def _admitted(
    worker: ModelWorker, submitted: JobSubmitted, limits: ServerLimits
) -> tuple[Graph, TokenRows | Several]:
    engine = worker.engine
    if engine is None or worker.state is not ModelState.READY:
        raise EngineFailed(
            f"The model {worker.name!r} is {worker.state.value}.", hint="Try again in a while."
        )
    return admit(
        submitted.graph,
        submitted.parts,
        engine.card(),
        limits,
        worker.source_of,
        submitted.blobs,
        engine.check if isinstance(engine, Choosy) else None,
    )


def _engine_of(worker: ModelWorker) -> str:
    return worker.engine.card().capabilities.engine if worker.engine is not None else ""


def _said(error: LabError) -> str:
    return error.message.split("\n")[0][:_WHY]
