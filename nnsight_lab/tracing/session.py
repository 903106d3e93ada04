"""Several traces as one recording: values flow from one to the next without being saved.

with lm.session() as session:
    with lm.trace(clean):
        h = lm.layers[2].output              # recorded; nothing has run yet
    with lm.trace(corrupted):
        lm.layers[2].output[:, -1] = h[:, -1]
        logits = lm.logits.save()
session.run                                  # one run, one request to a server

Each trace is a part: its places are those of its own prompt, in a forward pass of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from nnsight_lab.contract import ModuleInputs, Several, TokenRows
from nnsight_lab.errors import GraphError, LabError
from nnsight_lab.ir import Graph, ModuleTree
from nnsight_lab.tracing.recorder import Recorder
from nnsight_lab.tracing.source import user_line
from nnsight_lab.tracing.tracer import Tracer, open_recorder

__all__ = ["PartPlan", "PartTracer", "Session", "open_session"]

RunT = TypeVar("RunT")


@dataclass(frozen=True)
class PartPlan:
    """A trace of a session, before it is recorded.

    tree, decode: of its first forward pass, and of those after it. passes: how many a generation
    may take, 0 for a trace. batch, pos: of its prompt; 0 when invokes bring their own. inputs:
    what it is given, asked for when its block has ended. prompt: the same as the user wrote it.
    """

    tree: ModuleTree
    batch: int
    pos: int
    inputs: Callable[[], TokenRows | ModuleInputs]
    prompt: Any
    decode: ModuleTree | None = None
    passes: int = 0
    add_prompt: Callable[[Any], tuple[int, int]] | None = None


def open_session(owner: object) -> Session[Any] | None:
    """The session that is open on a model in this thread, or None."""
    recorder = open_recorder(owner)
    return recorder.session if recorder is not None else None


class Session(Tracer[RunT]):
    """A block of several traces on one model, run together when it ends.

    carry_out: runs the graph on the inputs of all parts; prompts are as the user wrote them.
    """

    def __init__(
        self,
        owner: object,
        recorder: Recorder,
        carry_out: Callable[[Graph, Several, list[Any]], RunT],
        *,
        execute: bool = True,
        peek: bool = True,
    ) -> None:
        super().__init__(owner, recorder, self._run_parts, execute=execute, peek=peek)
        recorder.session = self
        self._carry_out_parts = carry_out
        self._parts: list[PartPlan] = []
        self._inside = False
        self._asked_before = 0

    def part(self, plan: PartPlan, *, execute: bool = True) -> PartTracer[RunT]:
        """One more trace of this session. Raises `GraphError` for one that must not run."""
        if not execute:
            raise GraphError(
                "A trace of a session runs with the session.",
                hint="Say execute=False on the session: model.session(execute=False).",
            ).at(user_line())
        return PartTracer(self, self._recorder, plan)

    def enter(self, plan: PartPlan) -> None:
        """The block of a part begins."""
        if self._inside:
            raise GraphError("A trace of this session is already open.", hint="End it first.").at(
                user_line()
            )
        self._inside = True
        self._asked_before = len(self._recorder.at_end)
        self._parts.append(plan)
        self._recorder.places.enter_part(plan.tree, plan.batch, plan.pos, plan.decode, plan.passes)

    def leave(self) -> None:
        """The block of a part has ended; places need another one."""
        self._inside = False
        self._recorder.places.leave_invoke()

    def end_part(self) -> None:
        """The block of a part has ended without an error: what it caches is read now.

        What the session's own block asked for waits for the end of that.
        """
        asked = self._recorder.at_end
        of_this_part = asked[self._asked_before :]
        del asked[self._asked_before :]
        for more in of_this_part:
            self._named |= more()

    def _run_parts(self, graph: Graph) -> RunT:
        if not self._parts:
            raise GraphError(
                "This session has no trace.", hint="with model.trace(prompt): inside its block."
            )
        inputs = Several(tuple(plan.inputs() for plan in self._parts))
        return self._carry_out_parts(graph, inputs, [plan.prompt for plan in self._parts])


class PartTracer(Tracer[RunT]):
    """One trace of a session. It records into the session and runs with it."""

    def __init__(self, session: Session[RunT], recorder: Recorder, plan: PartPlan) -> None:
        super().__init__(session, recorder, _runs_later, add_prompt=plan.add_prompt)
        self._session = session
        self._plan = plan

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
        self._recorder.inputs = self._plan.inputs() if self._plan.batch else None
        try:
            if self._plan.batch:
                self._recorder.start_rows()
        except LabError as exc:
            self._session.leave()
            raise exc.at(self._begun_at)

    def end(self) -> None:
        """Close this part; the session goes on."""
        self._session.leave()

    def finish(self, variables: dict[str, Any], assign: Callable[[dict[str, Any]], None]) -> None:
        """Nothing runs yet; values are handed back when the session ends."""
        try:
            self._session.end_part()
        except LabError as exc:
            raise exc.at(self._begun_at)


def _runs_later(graph: Graph) -> Any:
    raise AssertionError("a part of a session does not run by itself")
