"""The `with` block: opens a recording, and at its end checks, runs, and fills in the saved names.

with lm.trace("The capital of France is") as tracer:
    logits = lm.logits.save()
tracer.graph      # the experiment, as data
tracer.run        # its run
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import FrameType, TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

import torch

from nnsight_lab.errors import GraphError, LabError, SourceLine
from nnsight_lab.ir import RESULT, Address, Graph, NodeId
from nnsight_lab.passes.live import drop_dead_nodes
from nnsight_lab.tracing.awaited import awaited, check_goes_on, given
from nnsight_lab.tracing.caches import Cache, Modules, declare_cache
from nnsight_lab.tracing.invokes import check_invoke
from nnsight_lab.tracing.local_calls import remember
from nnsight_lab.tracing.names import (
    assign_in_frame,
    filled,
    forget_variables,
    keep_results,
    names_of_saved,
    variables_of,
)
from nnsight_lab.tracing.openings import close_for, open_for
from nnsight_lab.tracing.peeks import Peeks
from nnsight_lab.tracing.recorder import Recorder
from nnsight_lab.tracing.saving import check_saved_as
from nnsight_lab.tracing.source import for_the_user, one_frame, shorten_traceback, user_line
from nnsight_lab.tracing.steps import Iteration, Loop

__all__ = ["GoOn", "Tracer"]

RunT = TypeVar("RunT")
GoOn: TypeAlias = Callable[[Graph, Callable[[RunT], None]], RunT]
OtherT = TypeVar("OtherT")


class Tracer(Generic[RunT]):
    """One block of recording on one model.

    owner: the model traced. carry_out: runs the graph and gives a mapping of names to values.
    peek: whether Python may have values while the block is recorded.
    add_prompt: takes the prompt of one more invoke, and gives its rows and positions.
    describe: makes an experiment of the graph, with its inputs and a note of the model.
    go_on: begins to run a graph and gives its run at once; calls back, on another thread, when it
        has ended well.
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
        describe: Callable[[Graph], Any] | None = None,
        go_on: GoOn[RunT] | None = None,
    ) -> None:
        self._owner = owner
        self._recorder = recorder
        self._carry_out = carry_out
        self._execute = execute
        self._peeks = (
            Peeks(recorder, lambda graph: carry_out(remember(graph, recorder.functions)))
            if execute and peek
            else None
        )
        self._add_prompt = add_prompt
        self._describe = describe
        self._go_on = go_on
        self._behind = False
        self._when_awaited: Callable[[RunT], None] | None = None
        self._frame_of_await: FrameType | None = None
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
        if self._graph is not None:
            return self._graph
        return remember(self._recorder.so_far(), self._recorder.functions)

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """What `nl.local_fn` was given in this block, by the names the graph has for it."""
        return dict(self._recorder.functions)

    @property
    def experiment(self) -> Any:
        """The graph with its inputs and a note of its model: to save, to print, to run later."""
        assert self._describe is not None, "every model says what its experiments are"
        return self._describe(self.graph)

    def to_python(self) -> str:
        """The experiment as a program of plain PyTorch with hooks, which runs without us."""
        text: str = self.experiment.to_python(self._owner)
        return text

    @property
    def run(self) -> RunT:
        """The run the block ended with. Raises `GraphError` when there was none."""
        if self._run is None:
            raise GraphError("This block has not run.", hint="It runs when the block ends.")
        return self._run

    @one_frame
    def save(self, **values: Any) -> None:
        """Save values under names of your own: `tracer.save(logits=lm.logits)`.

        Raises:
            BadInput: what was given is not a recorded value, or the name is taken: in a loop, say.
        """
        for name, value in values.items():
            check_saved_as(name, value, self._named.get(name))
            self._named[name] = value.save()

    @one_frame
    def cache(
        self,
        modules: Modules = None,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
        include_output: bool = True,
        include_inputs: bool = False,
    ) -> Cache:
        """Save what many modules give, edits included: `cache["layers.0.mlp"].output`.

        modules: modules or names, one or several, or a test of names; by default every layer
            with its attention and MLP, or where a model has no such names, every module.
        device: where the values are wanted, once the block has ended.
        dtype: the precision to save floating-point values in.
        include_inputs: also `.input`, the first argument.

        Raises:
            AddressNotFound: the model has no such module, or does not come by it.
        """
        return declare_cache(
            self._recorder,
            modules,
            include_inputs=include_inputs,
            include_output=include_output,
            device=device,
            dtype=dtype,
        )

    def stop(self) -> None:
        """Nothing further of the model is needed: a read or an edit after this line is refused.

        A run ends after the last place it needs in any case; this holds the program to it.
        """
        self._recorder.places.stop()

    def ended_by(self, carry_out: Callable[[Graph, Recorder], OtherT]) -> Tracer[OtherT]:
        """The same block, not begun yet, with something else to do with its graph."""
        recorder = self._recorder
        return Tracer(
            self._owner,
            recorder,
            lambda graph: carry_out(graph, recorder),
            peek=False,
            add_prompt=self._add_prompt,
        )

    @one_frame
    def invoke(self, prompt: Any = None) -> AbstractContextManager[None]:
        """One prompt of the batch: what is read and edited in this block are its rows alone.

        prompt: as for `trace`. Without one, the block sees all rows, padded to one length; no
            prompt may come after it.

        Raises:
            GraphError: the trace already has a prompt of its own, or the order is wrong.
            BadInput: the prompt is empty or not a prompt.
        """
        add = self._add_prompt
        check_invoke(self._recorder.places, add is not None, prompt, self._all_rows)
        self._all_rows = prompt is None
        return self._rows(None if prompt is None or add is None else add(prompt))

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
            if size is not None:
                self._recorder.start_rows()
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
        self._recorder.modes.start()
        try:
            if self._recorder.places.batch:
                self._recorder.start_rows()
            self._token = open_for((self._owner,), self._recorder)
        except LabError as exc:
            raise for_the_user(exc.at(self._begun_at)) from None
        self._recorder.peeks = self._peeks

    def end(self) -> None:
        """Close the recording for good; nothing more can be added to it."""
        self._recorder.peeks = None  # a traceback that prints a value must not run a model
        close_for(self._token)

    def finish(self, variables: dict[str, Any], assign: Callable[[dict[str, Any]], None]) -> None:
        """Name what is saved by the variables that hold it, run, and hand back their tensors.

        Raises:
            LabError: whatever is wrong with the experiment or its run.
        """
        try:
            for more in self._recorder.at_end:
                self._named |= more()
            names = names_of_saved(self._recorder, {**variables, **self._named})
            self._graph = self._close(names)
            if not self._execute:
                return
            back = partial(self._hand_back, names, variables, assign)
            if self._behind:
                self._run = self._begun_behind(back)
                return
            self._run = self._carry_out(self._graph)
        except LabError as exc:
            raise exc.at(self._begun_at)
        finally:
            self._let_go()
        back(self._run)

    def _hand_back(
        self,
        names: dict[str, NodeId],
        variables: dict[str, Any],
        assign: Callable[[dict[str, Any]], None],
        run: Any,
    ) -> None:
        keep_results(self._recorder, run, names)
        if self._peeks is not None:
            run.peeks = self._peeks.cost
        changed = filled(self._recorder, variables)
        if changed:
            assign(changed)

    @property
    def begun_at(self) -> SourceLine | None:
        """The line of the `with`, once it has been entered."""
        return self._begun_at

    def __enter__(self) -> Tracer[RunT]:
        failure: LabError | None = None
        try:
            self.begin()
        except LabError as error:
            failure = for_the_user(error)
        if failure is not None:
            raise failure
        self._frame = sys._getframe(1)  # the frame that holds the `with`, ours or not
        return self

    def in_background(self) -> Self:
        """This block, not begun yet, so that it ends without waiting: `tracer.run` fills in.

            with lm.trace(prompt).in_background() as tracer:
                logits = lm.logits.save()
            tracer.run.wait()                   # or `await tracer.run`
            tracer.run["logits"]                # a tensor; `logits` itself acts as one, too

        What the run fails with is raised by `wait()`. Lists and dicts of saved values are filled
        when it has ended. Variables are left alone: whoever assigned them may have returned.

        Raises:
            NotSupported: a trace of a session, a scan, or a block that only records.
        """
        check_goes_on(self._go_on is not None and self._execute)
        self._behind = True
        return self

    def _begun_behind(self, back: Callable[[RunT], None]) -> RunT:
        assert self._graph is not None, "the block has ended"
        assert self._go_on is not None, "checked when it was asked for"
        if self._frame_of_await is None:
            return self._go_on(self._graph, back)
        self._when_awaited = back
        return self._go_on(self._graph, lambda _: None)

    def __aenter__(self) -> Awaitable[Self]:
        """`async with`: the run goes on behind, and the end of the block waits for it."""
        self.in_background().__enter__()
        self._frame = self._frame_of_await = sys._getframe(1)
        return given(self)

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> Awaitable[None]:
        frame = self._frame_of_await
        self.__exit__(kind, exc, trace)
        self._frame_of_await = None
        if exc is not None or frame is None or self._when_awaited is None:
            return given(None)
        return awaited(self.run, self._when_awaited, frame)

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
            self._let_go()
            shorten_traceback(exc)
            return
        assert frame is not None, "the block was entered"
        failure: LabError | None = None
        alone = self._behind and self._frame_of_await is None
        assign = (lambda _: None) if alone else partial(assign_in_frame, frame)
        try:
            self.finish(variables_of(frame), assign)
        except LabError as error:
            failure = for_the_user(error)
        forget_variables(frame)
        if failure is not None:
            try:
                raise failure
            finally:
                del failure, frame  # an error that its own frame holds would hold this block too

    def _let_go(self) -> None:
        """The block is over; from here on, only what the user still names is kept."""
        if self._graph is None:
            self._graph = self._recorder.so_far()
        self._recorder.let_go()

    def _close(self, names: dict[str, NodeId]) -> Graph:
        graph = drop_dead_nodes(self._recorder.finish(names))
        return remember(graph, self._recorder.functions)
