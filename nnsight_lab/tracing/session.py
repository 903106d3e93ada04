"""Several traces as one recording: values flow from one to the next without being saved.

with lm.session() as session:
    with lm.trace(clean):
        h = lm.layers[2].output              # recorded; nothing has run yet
    with lm.trace(corrupted):
        lm.layers[2].output[:, -1] = h[:, -1]
        logits = lm.logits.save()
session.run                                  # one run, one request to a server

Each trace is a part: its places are those of its own prompt, in a forward pass of its own. A part
may be a trace of another view of the same weights: it begins with that view's stored edits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from nnsight_lab.contract import ModuleInputs, Several, TokenRows
from nnsight_lab.errors import GraphError, LabError, SourceLine
from nnsight_lab.ir import Graph, ModuleTree
from nnsight_lab.tracing.openings import close_for, open_for, open_recordings
from nnsight_lab.tracing.peeks import Peeks
from nnsight_lab.tracing.recorder import Recorder
from nnsight_lab.tracing.source import user_line
from nnsight_lab.tracing.tracer import Tracer

__all__ = ["PartPlan", "PartTracer", "Session", "open_session"]

RunT = TypeVar("RunT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class PartPlan:
    """A trace of a session, before it is recorded.

    tree, decode: of its first forward pass, and of those after it. passes: how many a generation
    may take, 0 for a trace. batch, pos: of its prompt; 0 when invokes bring their own. inputs:
    what it is given, asked for when its block has ended. prompt: the same as the user wrote it.
    owner: the model traced. preludes: what is recorded first, for each of its prompts.
    """

    tree: ModuleTree
    batch: int
    pos: int
    inputs: Callable[[], TokenRows | ModuleInputs]
    prompt: Any
    decode: ModuleTree | None = None
    passes: int = 0
    add_prompt: Callable[[Any], tuple[int, int]] | None = None
    owner: object = None
    preludes: tuple[Callable[[Recorder], None], ...] = ()


def open_session(weights: object) -> Session[Any] | None:
    """The session that is open in this thread on any model with these weights, or None."""
    for _, recorder in open_recordings():
        session: Session[Any] | None = recorder.session
        if session is not None and session.weights is weights:
            return session
    return None


@dataclass
class _Traces:
    """The traces of a session so far. broken: the line of one that raised.

    Not the session itself, which what runs the graph would then hold in a circle.
    """

    plans: list[PartPlan] = field(default_factory=list)
    broken: SourceLine | None = None

    def check_whole(self) -> None:
        """Raise `GraphError` when one of them is recorded by half."""
        if self.broken is not None:
            raise GraphError(
                f"A trace of this session ended with an error ({self.broken}).",
                hint="Let the error end the session, or do what may fail before the trace.",
            ).at(user_line())

    def used(self, use: Callable[[Graph, Several, list[Any]], ResultT], graph: Graph) -> ResultT:
        """What is made of a graph with the inputs of all traces, and with their prompts."""
        if not self.plans:
            raise GraphError(
                "This session has no trace.", hint="with model.trace(prompt): inside its block."
            )
        self.check_whole()
        inputs = Several(tuple(plan.inputs() for plan in self.plans))
        return use(graph, inputs, [plan.prompt for plan in self.plans])


class Session(Tracer[RunT]):
    """A block of several traces on one model, run together when it ends.

    carry_out: runs the graph on the inputs of all parts; prompts are as the user wrote them.
    describe: makes an experiment of the same. weights: what its traces have in common.
    """

    def __init__(
        self,
        owner: object,
        recorder: Recorder,
        carry_out: Callable[[Graph, Several, list[Any]], RunT],
        *,
        describe: Callable[[Graph, Several, list[Any]], Any],
        weights: object = None,
        execute: bool = True,
        peek: bool = True,
    ) -> None:
        traces = _Traces()
        super().__init__(
            owner,
            recorder,
            partial(traces.used, carry_out),
            execute=execute,
            peek=peek,
            describe=partial(traces.used, describe),
        )
        recorder.session = self
        self.weights = weights
        self._of = owner
        self._traces = traces
        self._inside = False
        self._asked_before = 0

    def part(self, plan: PartPlan, *, execute: bool = True, peek: bool = True) -> PartTracer[RunT]:
        """One more trace of this session. Raises `GraphError` for one that must not run."""
        if not execute:
            raise GraphError(
                "A trace of a session runs with the session.",
                hint="Say execute=False on the session: model.session(execute=False).",
            ).at(user_line())
        self._traces.check_whole()
        return PartTracer(self, self._recorder, plan, peek=peek)

    def draws_anew(self, anew: bool) -> None:
        """One of its generations may draw other tokens in every run."""
        self._recorder.draws_anew |= anew

    def invoke(self, prompt: Any = None) -> Any:
        """Refused: prompts are given to its traces."""
        raise _of_a_trace("An invoke")

    def cache(self, *_: Any, **__: Any) -> Any:
        """Refused: each trace has its own."""
        raise _of_a_trace("A cache")

    def stop(self) -> None:
        """Refused: each trace stops by itself."""
        raise _of_a_trace("stop()")

    def opened(self, plan: PartPlan) -> Any:
        """Places of another view of the model are recorded here, too; gives what closes that."""
        return None if plan.owner in (None, self._of) else open_for((plan.owner,), self._recorder)

    def enter(self, plan: PartPlan) -> None:
        """The block of a part begins."""
        if self._inside:
            raise GraphError("A trace of this session is already open.", hint="End it first.").at(
                user_line()
            )
        self._inside = True
        self._asked_before = len(self._recorder.at_end)
        self._traces.plans.append(plan)
        self._recorder.preludes = plan.preludes
        self._recorder.places.enter_part(plan.tree, plan.batch, plan.pos, plan.decode, plan.passes)

    def leave(self) -> None:
        """The block of a part has ended; places need another one."""
        self._inside = False
        self._recorder.places.leave_invoke()

    def broken_at(self, where: SourceLine | None) -> None:
        """The trace of that line raised, so half of it is recorded: the session will not run."""
        self._traces.broken = where

    def end_part(self) -> None:
        """The block of a part has ended without an error: what it caches is read now.

        What the session's own block asked for waits for the end of that.
        """
        asked = self._recorder.at_end
        of_this_part = asked[self._asked_before :]
        del asked[self._asked_before :]
        for more in of_this_part:
            self._named |= more()


class PartTracer(Tracer[RunT]):
    """One trace of a session. It records into the session and runs with it.

    peek: False refuses here what the session may allow elsewhere.
    """

    def __init__(
        self, session: Session[RunT], recorder: Recorder, plan: PartPlan, *, peek: bool = True
    ) -> None:
        super().__init__(session, recorder, _runs_later, peek=False, add_prompt=plan.add_prompt)
        self._session = session
        self._plan = plan
        self._opened: Any = None
        self._peeks_here = peek
        self._peeks_of_session: Peeks | None = None

    @property
    def graph(self) -> Graph:
        """The experiment of the whole session, as data."""
        return self._session.graph

    @property
    def experiment(self) -> Any:
        """The whole session with its inputs: to save, to run later."""
        return self._session.experiment

    def to_python(self) -> str:
        """The whole session as a program of plain PyTorch."""
        return self._session.to_python()

    def ended_by(self, carry_out: Callable[..., Any]) -> Any:
        """Refused: it ends with the session."""
        raise GraphError(
            "A scan cannot stand in a session.",
            hint="Scan before it; in a session, .shape of a recorded value is known at once.",
        ).at(user_line())

    @property
    def run(self) -> RunT:
        """The run of the whole session, once that has ended."""
        return self._session.run

    def save(self, **values: Any) -> None:
        """Save values under names of your own; they come back with the session."""
        self._session.save(**values)

    def begin(self) -> None:
        """Open this part. `end` must follow."""
        self._begun_at = user_line()
        self._session.enter(self._plan)
        self._peeks_of_session = self._recorder.peeks
        self._recorder.inputs = self._plan.inputs() if self._plan.batch else None
        try:
            self._opened = self._session.opened(self._plan)
            if self._plan.batch:
                self._recorder.start_rows()
        except LabError as exc:
            self.end()
            raise exc.at(self._begun_at)
        if not self._peeks_here:
            self._recorder.peeks = None

    def end(self) -> None:
        """Close this part; the session goes on."""
        self._recorder.peeks = self._peeks_of_session
        self._session.leave()
        if self._opened is not None:
            close_for(self._opened)
            self._opened = None

    def _let_go(self) -> None:
        self._session.broken_at(self._begun_at)

    def finish(self, variables: dict[str, Any], assign: Callable[[dict[str, Any]], None]) -> None:
        """Nothing runs yet; values are handed back when the session ends."""
        try:
            self._session.end_part()
        except LabError as exc:
            self._let_go()
            raise exc.at(self._begun_at)


def _of_a_trace(what: str) -> GraphError:
    return GraphError(
        f"{what} belongs to a trace, not to a session.",
        hint="with model.trace(prompt) as tracer: inside the session, and say it to that tracer.",
    ).at(user_line())


def _runs_later(graph: Graph) -> Any:
    raise AssertionError("a part of a session does not run by itself")
