"""`WorkerRun`: one run in a vLLM worker, part after part, and what it tells the server.

The interleaver, the schedule and the checks are those of a local run. What is different is who makes
the forward pass: vLLM, together with everybody else's, in its own time. Whatever goes wrong in here
ends this run and nothing else.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from nnsight_lab.contract import ModelCard
from nnsight_lab.errors import EngineFailed, LabError, LimitExceeded
from nnsight_lab.executors.listen import Listener
from nnsight_lab.ir import Address, Skip, Write
from nnsight_lab.passes import Part, Stages
from nnsight_lab.runtime import Interleaver
from nnsight_lab_server.vllm import messages as m
from nnsight_lab_server.vllm.forms import Form, Point
from nnsight_lab_server.vllm.hosting import Calls, RunHost
from nnsight_lab_server.vllm.laid import Laid
from nnsight_lab_server.vllm.part import PartRun
from nnsight_lab_server.vllm.plan import Plan
from nnsight_lab_server.vllm.ranks import ranks
from nnsight_lab_server.vllm.reader import ModelReader
from nnsight_lab_server.vllm.relay import Passed
from nnsight_lab_server.vllm.routes import Route
from nnsight_lab_server.vllm.rows import Piece, Segment
from nnsight_lab_server.vllm.texts import Texts

__all__ = ["Place", "Served", "WorkerRun"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a pipeline a worker is. pass_on: takes what later stages need to know; None: last."""

    stage: int = 0
    pass_on: Callable[[Passed], None] | None = None

    @property
    def is_last(self) -> bool:
        """Whether the whole graph is evaluated here, and the server told."""
        return self.pass_on is None


@dataclass(frozen=True)
class Served:
    """What a worker knows of the model it serves, given to it when the lab is installed.

    card: with the trees that graphs are laid along. forms: where each address is. stop_ids, end_pad:
    of the model's own settings. pad: what fills up prompts. routes: where calls of modules go.
    """

    card: ModelCard
    forms: Mapping[Address, Form]
    stop_ids: tuple[int, ...] = ()
    end_pad: int | None = None
    pad: int = 0
    routes: Mapping[str, Route] = field(default_factory=dict)


@dataclass
class WorkerRun:
    """A run, from its first request to its end. `closed` once nothing more will come of it."""

    id: str
    plan: Plan
    served: Served
    laid: Laid
    device: torch.device
    calls: Calls
    reader: ModelReader
    send: Callable[[m.Message], None]
    place: Place = field(default_factory=Place)
    closed: bool = False
    spent: float = 0.0
    _since: float | None = None
    _here: tuple[Segment, ...] = ()
    _pieces: dict[int, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._steps = 0
        self.guarded(self._begin)

    def _begin(self) -> None:
        card, plan = self.served.card, self.plan
        self.stages = Stages(tuple(Part(rows, card.tree, card.decode) for rows in plan.parts))
        self.everywhere, self.schedule = self.laid.along(plan.graph, self.stages)
        host = RunHost(self.device, self.calls, card.tree.module_of, self._check_time)
        self._run = Interleaver(self.schedule, host, self._saved)
        self._listener = Listener(self._run, self.schedule, self.stages, lambda: False)
        self._run.begin()
        self.part = self._part(0, 0)

    def _part(self, number: int, begins: int) -> PartRun:
        served, inputs = self.served, self.plan.parts[number]
        texts = Texts(
            inputs,
            self.device,
            stop_ids=served.stop_ids,
            pad=served.end_pad,
            # Rows of one run draw apart from each other, whichever part they are of.
            entropy=self.plan.entropy + (number << 20),
        )
        self.number = number
        part = PartRun(
            inputs,
            begins,
            self.schedule,
            self.stages,
            self._run,
            self._listener,
            served.forms,
            self.reader,
            everywhere=self.everywhere,
            here=self.place.stage,
            pass_on=None if self.place.is_last else self._pass_on,
            texts=texts,
            vocab=served.card.vocab,
            pad=served.pad,
            tell=lambda step, ids: self.send(m.Token(self.id, step, ids)),
        )
        self._points = frozenset((*part.points, *self.reader.beside(part.patterns)))
        return part

    @cached_property
    def edits(self) -> bool:
        """Whether the model goes on from anything but what it computed itself."""
        return any(isinstance(node, Write | Skip) for node in self.plan.graph.nodes)

    @property
    def points(self) -> frozenset[Point]:
        """The points of the model at which the part under way has something to do."""
        return frozenset() if self.closed else self._points

    def takes(self, segment: Segment) -> bool:
        """Whether rows that come by are still waited for."""
        if not self.place.is_last and not self.closed:
            self._follow(segment)
        if self.closed or segment.part != self.number:
            return False
        return segment.attempt == self.part.attempts[segment.row]

    # ------------------------------------------------------------------ in a pipeline

    def _pass_on(self, moment: int, pieces: list[Piece], rows: dict[Address, Any]) -> None:
        assert self.place.pass_on is not None, "the last stage passes nothing on"
        self.place.pass_on(Passed(self.id, self.number, moment, pieces, rows))

    def hear(self, passed: Passed) -> None:
        """Rows have come by a moment in a stage before this one."""
        if self._here and not self.closed and passed.part == self.number:
            self.guarded(lambda: self.part.hear(passed.moment, passed.pieces, passed.rows))

    def _follow(self, segment: Segment) -> None:
        """The last stage has begun a part, or has a row come again; here that is seen by its rows."""
        while segment.part > self.number:
            self.part = self._part(self.number + 1, self.part.begins + self.part.inputs.passes)
        if segment.part == self.number and segment.attempt > self.part.attempts[segment.row]:
            self.part.attempts[segment.row] = segment.attempt
            self.part.stale.pop(segment.row, None)

    # ------------------------------------------------------------------ along one engine step

    def agree(self, spent: float) -> None:
        """Take what the worker that took longest has spent; infinite where one has ended the run.

        The workers fail together or not at all: one alone would leave the others waiting for it.
        """
        self.spent = spent
        if math.isinf(spent):
            self.fail(EngineFailed("The run stopped in another worker.", hint="Run it once more."))
        elif spent > self.plan.seconds:
            self.fail(self._too_long())

    def step_begins(self, segments: Sequence[Segment]) -> None:
        """These rows of the engine's next step are this run's."""
        self._here, self._pieces = (), {}
        self.guarded(lambda: self._lay_out(segments))

    def _lay_out(self, segments: Sequence[Segment]) -> None:
        here = tuple(segment for segment in segments if self.takes(segment))
        self._pieces = self.part.pieces(here)
        self._here = here

    def arrive(self, point: Point, held: Any) -> Any:
        """Rows of the run are at a point of the model; what is held there from now on."""
        if not self._here or self.closed or point not in self._points:
            return held
        changed = self.guarded(lambda: self._arrive(point, held))
        return held if changed is None else changed

    def _arrive(self, point: Point, held: Any) -> Any:
        held = self.part.arrive(point, held, self._pieces)
        self.reader.see(point, held, self._pieces)
        return held

    def sampled(self, logits: torch.Tensor | None) -> None:
        """The step's logits are made; chosen tokens are put into them."""
        if self._here and not self.closed:
            self.guarded(lambda: self.part.sampled(self._here, logits))

    def step_ends(self) -> None:
        """The engine's step is over: rows come again, the next part begins, or the run ends."""
        had, self._here = self._here, ()
        if had and not self.closed and self.place.is_last:
            self.guarded(self._go_on)

    def _go_on(self) -> None:
        part = self.part
        rows = [
            (row, part.attempts[row], part.texts.so_far(row))
            for row in ([] if part.over() else part.returning())
        ]
        if rows:
            self.send(m.Submit(self.id, self.number, tuple(rows)))
        if not part.over():
            return
        made, ended = part.end()
        self._steps += made
        if self.number + 1 == len(self.plan.parts):
            self.closed = True
            self.send(m.Done(self.id, self._steps, ended))
            return
        self.part = self._part(self.number + 1, part.begins + part.inputs.passes)
        prompts = enumerate(self.part.inputs.rows)
        self.send(
            m.Submit(self.id, self.number, tuple((row, 0, tuple(ids)) for row, ids in prompts))
        )

    # ------------------------------------------------------------------ its own and no other's

    def _saved(self, name: str, value: Any) -> None:
        self.send(m.Saved(self.id, name, value))

    def guarded(self, function: Callable[[], Any]) -> Any:
        """Call, and give what that gives; whatever goes wrong ends this run only."""
        self._since = time.perf_counter()
        try:
            result = function()
            self._check_time()
            return result
        except LabError as exc:
            self.fail(exc)
        except Exception as exc:  # noqa: BLE001 - a seam: nothing of a run may end the engine
            # The client hears that it happened; where it did stands here only.
            _log.error("A run stopped in the worker.", exc_info=exc)
            failure = EngineFailed(
                f"The run stopped in the worker: {type(exc).__name__}: {exc}",
                hint="Run it on the transformers engine; if that works, report the graph.",
            )
            failure.__cause__ = exc
            self.fail(failure)
        finally:
            self.spent += time.perf_counter() - self._since
            self._since = None
        return None

    def _check_time(self) -> None:
        """End a run that takes too long; of several workers none may do so by itself (`agree`)."""
        now = time.perf_counter()
        if self.spent + now - (self._since or now) <= self.plan.seconds:
            return
        if not self.closed and self.place.is_last and ranks() == 1:
            raise self._too_long()

    def _too_long(self) -> LimitExceeded:
        return LimitExceeded(
            f"The run took more than the {self.plan.seconds:g} seconds it may take of a worker.",
            hint="Compute less inside the trace: save the value, and go on after the block.",
        )

    def fail(self, error: LabError) -> None:
        """End the run with an error."""
        if not self.closed:
            self.closed = True
            self.send(m.Failed(self.id, error))
