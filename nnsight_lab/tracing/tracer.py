"""The `with` block: opens a recording, and at its end checks, runs, and fills in the saved names.

with lm.trace("The capital of France is") as tracer:
    logits = lm.logits.save()
tracer.graph      # the experiment, as data
tracer.run        # its run
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from types import FrameType, TracebackType
from typing import Any, Generic, TypeVar

from nnsight_lab.errors import GraphError, LabError, SourceLine
from nnsight_lab.ir import RESULT, Address, Graph, NodeId
from nnsight_lab.passes.live import drop_dead_nodes
from nnsight_lab.tracing.einops_values import teach_einops
from nnsight_lab.tracing.fields import Fields
from nnsight_lab.tracing.names import (
    assign_in_frame,
    filled,
    names_of_saved,
    variables_of,
)
from nnsight_lab.tracing.peeks import Peeks
from nnsight_lab.tracing.recorder import Recorder
from nnsight_lab.tracing.source import for_the_user, one_frame, shorten_traceback, user_line
from nnsight_lab.tracing.steps import Iteration, Loop

__all__ = ["Tracer", "open_recorder"]

RunT = TypeVar("RunT")

_open: ContextVar[tuple[tuple[object, Recorder], ...]] = ContextVar("open_traces", default=())


def open_recorder(owner: object) -> Recorder | None:
    """The recording that is open on a model in this thread, or None."""
    for model, recorder in reversed(_open.get()):
        if model is owner:
            return recorder
    return None


class Tracer(Generic[RunT]):
    """One block of recording on one model.

    owner: the model traced. carry_out: runs the graph and gives a mapping of names to values.
    peek: whether Python may have values while the block is recorded.
    add_prompt: takes the prompt of one more invoke, and gives its rows and positions.
    """

    def __init__(
        self,
        owner: object,
        recorder: Recorder,
        carry_out: Callable[[Graph], RunT],
        *,
        execute: bool = True,
        peek: bool = True,
        add_prompt: Callable[[Any], tuple[int, int]] | None = None,
    ) -> None:
        self._owner = owner
        self._recorder = recorder
        self._carry_out = carry_out
        self._execute = execute
        self._peeks = Peeks(recorder, carry_out) if execute and peek else None
        self._add_prompt = add_prompt
        self._frame: FrameType | None = None
        self._token: Any = None
        self._begun_at: SourceLine | None = None
        self._graph: Graph | None = None
        self._run: RunT | None = None
        self._named: dict[str, Any] = {}
        self._all_rows = False

    @property
    def graph(self) -> Graph:
        """The experiment as data. Inside the block: what has been recorded so far."""
        return self._graph if self._graph is not None else self._recorder.so_far()

    @property
    def run(self) -> RunT:
        """The run the block ended with. Raises `GraphError` when there was none."""
        if self._run is None:
            raise GraphError("This block has not run.", hint="It runs when the block ends.")
        return self._run

    def save(self, **values: Any) -> None:
        """Save values under names of your own: `tracer.save(logits=lm.logits)`."""
        for name, value in values.items():
            self._named[name] = value.save()

    def invoke(self, prompt: Any = None) -> AbstractContextManager[None]:
        """One prompt of the batch: what is read and edited in this block are its rows alone.

        prompt: as for `trace`. Without one, the block sees all rows, padded to one length; no
            prompt may come after it.

        Raises:
            GraphError: the trace already has a prompt of its own, or the order is wrong.
            BadInput: the prompt is empty or not a prompt.
        """
        where = user_line()
        if self._add_prompt is None:
            raise GraphError(
                "This trace has its prompt already.", hint="Use model.trace() without a prompt."
            ).at(where)
        if prompt is not None and self._all_rows:
            raise GraphError(
                "A prompt cannot follow tracer.invoke() without one.",
                hint="Give all prompts first.",
            ).at(where)
        if self._recorder.places.steps.now:
            raise GraphError(
                "A prompt cannot be given in a loop over steps.",
                hint="Open the invoke first, and loop inside it.",
            ).at(where)
        self._all_rows = prompt is None
        try:
            return self._rows(None if prompt is None else self._add_prompt(prompt))
        except LabError as exc:
            raise exc.at(where)

    @property
    def iter(self) -> Iteration:
        """The steps of a generation: `for step in tracer.iter[:]`, `iter[2]`, `iter[1:3]`.

        In the loop, places are those of that step; step 0 is the prompt's forward pass.
        """
        return Iteration(self._recorder.places.steps)

    @one_frame
    def all(self) -> Loop:
        """Every step of a generation, as `tracer.iter[:]`."""
        return self.iter[:]

    @property
    @one_frame
    def result(self) -> Any:
        """What the run gives: the ids of a generation, prompt included; else the model's output."""
        places = self._recorder.places
        return places.read(RESULT if places.steps.generates else Address("", "output"))

    @contextmanager
    def _rows(self, size: tuple[int, int] | None) -> Iterator[None]:
        if size is None:
            self._recorder.places.enter_all_rows()
        else:
            self._recorder.places.enter_invoke(*size)
        try:
            yield
        finally:
            self._recorder.places.leave_invoke()

    def begin(self) -> None:
        """Open the recording. `end` must follow."""
        self._begun_at = user_line()
        if self._token is not None:
            raise GraphError(
                "This trace has been used.", hint="Each block needs a model.trace(…) of its own."
            ).at(self._begun_at)
        if open_recorder(self._owner) is not None:
            raise GraphError(
                "A trace on this model is already open.",
                hint="End it first, or give both prompts to one trace.",
            ).at(self._begun_at)
        teach_einops()
        self._recorder.peeks = self._peeks
        self._token = _open.set((*_open.get(), (self._owner, self._recorder)))

    def end(self) -> None:
        """Close the recording for good; nothing more can be added to it."""
        self._recorder.peeks = None  # a traceback that prints a value must not run a model
        _open.reset(self._token)

    def finish(self, variables: dict[str, Any], assign: Callable[[dict[str, Any]], None]) -> None:
        """Name what is saved by the variables that hold it, run, and hand back their tensors.

        Raises:
            LabError: whatever is wrong with the experiment or its run.
        """
        names = names_of_saved(self._recorder, {**variables, **self._named})
        try:
            self._graph = self._close(names)
            if not self._execute:
                return
            self._run = self._carry_out(self._graph)
        except LabError as exc:
            raise exc.at(self._begun_at)
        self._keep(self._run, names)
        changed = filled(self._recorder, variables)
        if changed:
            assign(changed)

    @property
    def begun_at(self) -> SourceLine | None:
        """The line of the `with`, once it has been entered."""
        return self._begun_at

    def __enter__(self) -> Tracer[RunT]:
        self.begin()
        self._frame = sys._getframe(1)  # the frame that holds the `with`, ours or not
        return self

    def hand_back_to(self, frame: FrameType) -> None:
        """Give saved values to the variables of this frame, where the `with` is another's."""
        self._frame = frame

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
        frame, self._frame = self._frame, None
        if exc is not None:
            self._recorder.open = False
            shorten_traceback(exc)
            return
        assert frame is not None, "the block was entered"
        failure: LabError | None = None
        try:
            self.finish(variables_of(frame), partial(assign_in_frame, frame))
        except LabError as error:
            failure = for_the_user(error)
        if failure is not None:
            raise failure

    def _close(self, names: dict[str, NodeId]) -> Graph:
        return drop_dead_nodes(self._recorder.finish(names))

    def _keep(self, run: Any, names: dict[str, NodeId]) -> None:
        """Values under the recorder's own node ids, for proxies that have no variable."""
        missing = set(getattr(run, "missing", ()))
        for name, node in names.items():
            if name in missing:
                self._recorder.missing.add(node)
            else:
                self._recorder.results[node] = Fields.of(run[name])
        if self._peeks is not None:
            run.peeks = self._peeks.cost
