"""`Lab`: what hangs on a vLLM worker. It knows whose rows a step holds, and stands where runs look.

    lab = Lab(runner, send)
    lab.serve(served)                  # what is known of the model; from now on, runs may come

vLLM's own code is left as it is: `execute_model` of this one runner and `compute_logits` of this one
model are wrapped, and hooks stand on the modules that a run under way names. A step that holds no
row of a run takes the way it would take without us.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nnsight_lab.errors import EngineFailed, LabError
from nnsight_lab_server.vllm import messages as m
from nnsight_lab_server.vllm.calling import Callables
from nnsight_lab_server.vllm.calls import Sample, VllmCalls
from nnsight_lab_server.vllm.forms import Point
from nnsight_lab_server.vllm.laid import Laid
from nnsight_lab_server.vllm.leftovers import Leftovers
from nnsight_lab_server.vllm.plan import Errand, Plan
from nnsight_lab_server.vllm.ranks import largest, ranks
from nnsight_lab_server.vllm.reader import ModelReader
from nnsight_lab_server.vllm.relay import Passed, Relay
from nnsight_lab_server.vllm.rows import Segment
from nnsight_lab_server.vllm.run import Place, Served, WorkerRun
from nnsight_lab_server.vllm.standing import stand

__all__ = ["Lab"]

_AGAIN = "Run it once more."
_GONE = 4096


class Lab:
    """The runs of one worker. runner: vLLM's model runner. send: takes messages for the server.

    set_aside: how many requests of runs vLLM has set aside, and computed once more.
    """

    def __init__(
        self, runner: Any, send: Callable[[m.Message], None], relay: Relay | None = None
    ) -> None:
        relay = relay or Relay()
        self.runner = runner
        self.served: Served | None = None
        self._laid = Laid({})
        self.runs: dict[str, WorkerRun] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._send = send
        self._relay = relay
        self._passed: list[Passed] = []
        self._place = Place(relay.stage, None if relay.is_last else self._passed.append)
        self._errands: dict[str, Errand] = {}
        self._leave: dict[Point, Callable[[], None]] = {}
        self.set_aside = 0
        self._segments: dict[str, list[Segment]] = {}
        self._counts: dict[str, int] = {}
        self.device: torch.device = runner.device
        self._model = runner.get_model()
        self._execute = runner.execute_model
        self._logits = self._model.compute_logits
        runner.execute_model = self._execute_model
        self._model.compute_logits = self._compute_logits
        self.calls = VllmCalls(self._model, runner.vllm_config)
        self._leftovers = Leftovers(runner)
        self._watch = self._model.register_forward_pre_hook(self._before_model)

    def remove(self) -> None:
        """Leave the worker as it was."""
        del self.runner.execute_model, self._model.compute_logits
        self._watch.remove()
        for leave in self._leave.values():
            leave()
        self._leave.clear()

    def serve(self, served: Served) -> None:
        """Take runs of graphs that name these addresses."""
        self.served = served
        self._laid = Laid(served.forms, None if self._place.is_last else self._place.stage)
        self.calls.use(served.routes)

    def compared(self, samples: Mapping[str, Sample]) -> Callables:
        """Which modules do what those of Hugging Face do, from what these made of something."""
        self.calls.check(samples)
        return Callables(self.calls.routes, self.calls.reasons(samples))

    def able(self, known: Callables) -> Callables:
        """Of what is known of a smaller model, the calls that this worker can make."""
        lacks = self.calls.lacking(known.routes)
        routes = {path: route for path, route in known.routes.items() if path not in lacks}
        return Callables(routes, {**known.reasons, **lacks})

    @property
    def stats(self) -> dict[str, int]:
        """What there is to say of it: runs under way, points listened at, rows computed anew."""
        listening = len(self._leave)
        return {"runs": len(self.runs), "points": listening, "set_aside": self.set_aside}

    def forget(self, run: str) -> None:
        """Nothing more is wanted of a run, which may not even have come here yet."""
        self.runs.pop(run, None)
        self._gone[run] = None
        if len(self._gone) > _GONE:
            self._gone.popitem(last=False)
        self._stand_where_needed()

    # ------------------------------------------------------------------ around a step

    def _execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        self._segments = {}
        for id in scheduler_output.finished_req_ids:
            self._errands.pop(id, None)
        for request in scheduler_output.scheduled_new_reqs:
            self._meet(request)
        self._leftovers.clear(scheduler_output, self._edited())
        resumed = scheduler_output.scheduled_cached_reqs.resumed_req_ids
        self.set_aside += sum(id in self._errands for id in resumed)
        self._counts = scheduler_output.num_scheduled_tokens
        for id in self._counts:
            if id in self._errands:
                self._segments.setdefault(self._errands[id].run, [])
        self._passed.clear()
        try:
            return self._execute(scheduler_output, *args, **kwargs)
        finally:
            if self._segments:
                self._relay.send(self._passed)
                self._step_ends()

    def _meet(self, request: Any) -> None:
        """A request is scheduled for the first time: whose is it?"""
        given = (getattr(request.sampling_params, "extra_args", None) or {}).get("lab")
        if given is None:
            return
        errand = Errand.from_plain(given)
        self._errands[request.req_id] = errand
        if errand.plan is None or errand.run in self.runs:
            return
        if errand.run not in self._gone:
            self._open(errand.run, errand.plan)

    def _open(self, run: str, plan: bytes | str) -> None:
        if self.served is None:
            missing = EngineFailed("The worker has not been told of its model yet.", hint=_AGAIN)
            self._send(m.Failed(run, missing))
            return
        try:
            data = Path(plan).read_bytes() if isinstance(plan, str) else plan
            read = Plan.from_bytes(data, self._laid.graph)
        except LabError as exc:
            self._send(m.Failed(run, exc))
            return
        except Exception as exc:  # noqa: BLE001 - a seam: nothing of a run may end the engine
            # Its file is gone, for one, when the run was cancelled before it came here.
            lost = EngineFailed(f"The plan of a run is not there: {exc!r}", hint=_AGAIN)
            self._send(m.Failed(run, lost))
            return
        reader = ModelReader(self.logits_of, self._model)
        made = WorkerRun(
            run,
            read,
            self.served,
            self._laid,
            self.device,
            self.calls,
            reader,
            self._send,
            self._place,
        )
        if not made.closed:
            self.runs[run] = made
            self._stand_for(made)

    def _edited(self) -> Iterator[str]:
        """The requests whose rows may be edited. Of a run that ended here another stage may know."""
        for id, errand in self._errands.items():
            run = self.runs.get(errand.run)
            if run is None or run.edits:
                yield id

    def _before_model(self, _: Any, __: Any) -> None:
        """The runner has laid the step out: note whose rows are where, and take the eager way."""
        if not self._segments:
            return
        from vllm.forward_context import get_forward_context

        batch, start = self.runner.input_batch, 0
        for place, id in enumerate(batch.req_ids):
            errand, count = self._errands.get(id), self._counts[id]
            if errand is not None:
                position = int(batch.num_computed_tokens_cpu[place])
                self._segments[errand.run].append(
                    Segment(errand.part, errand.row, errand.attempt, start, count, position, place)
                )
            start += count
        self._agree()
        for run in self._active():
            run.step_begins(self._segments[run.id])
        for passed in self._relay.receive():
            self._passed.append(passed)
            if passed.run in self.runs:
                self.runs[passed.run].hear(passed)
        get_forward_context().skip_compiled = True

    def _agree(self) -> None:
        """What one worker has ended, the others that share its layers go no further with."""
        if ranks() == 1:
            return
        known = [self.runs.get(name) for name in self._segments]
        spent = largest([math.inf if run is None else run.spent for run in known])
        for run, most in zip(known, spent, strict=True):
            if run is not None:
                run.agree(most)

    def _compute_logits(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        logits = self._logits(hidden, *args, **kwargs)
        if not self.calls.silent:
            for run in self._active():
                run.sampled(logits)
        return logits

    def logits_of(self, hidden: torch.Tensor) -> torch.Tensor:
        """The model's logits of some final hidden states."""
        logits: torch.Tensor = self._logits(hidden)
        return logits

    def _active(self) -> list[WorkerRun]:
        return [self.runs[name] for name in self._segments if name in self.runs]

    def _step_ends(self) -> None:
        points = False
        for run in self._active():
            number = run.number if not run.closed else -1
            run.step_ends()
            if run.closed:
                del self.runs[run.id]
            points = points or run.closed or run.number != number
        self._segments = {}
        if points:
            self._stand_where_needed()

    # ------------------------------------------------------------------ on the modules

    def _stand_where_needed(self) -> None:
        """Hooks on the modules that runs name now, and on no other."""
        for run in [*self.runs.values()]:
            self._stand_for(run)
        self._leave_the_rest()

    def _stand_for(self, run: WorkerRun) -> None:
        run.guarded(partial(self._stand, run))
        if run.closed:
            del self.runs[run.id]
            self._leave_the_rest()

    def _leave_the_rest(self) -> None:
        wanted = {point for run in self.runs.values() for point in run.points}
        for point in [*self._leave]:
            if point not in wanted:
                self._leave.pop(point)()

    def _stand(self, run: WorkerRun) -> None:
        for point in run.points:
            if point not in self._leave:
                self._leave[point] = stand(self._model, point, partial(self._arrive, point))

    def _arrive(self, point: Point, held: Any) -> Any:
        if self.calls.silent:
            return None
        changed = held
        for run in self._active():
            changed = run.arrive(point, changed)
        return None if changed is held else changed
