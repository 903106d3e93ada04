"""The blocks: what `model.trace`, `generate`, `session` and `scan` give, and what can be asked of it.

Each holds the package's own tracer, which records, runs and hands values back.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Self

from nnsight_lab.compat.caches import CacheView
from nnsight_lab.compat.elsewhere import without
from nnsight_lab.compat.helpers import apply, cond, log
from nnsight_lab.compat.prompts import prompt_of
from nnsight_lab.compat.saving import plain_values_save
from nnsight_lab.compat.shared import Shared
from nnsight_lab.errors import GraphError, LabError
from nnsight_lab.models.traced import TracedModel
from nnsight_lab.tracing.source import for_the_user, one_frame, shorten_traceback, user_line

__all__ = ["Barrier", "Tracer"]


class Barrier:
    """A meeting point of invokes. Values go from one to another without; calling it does nothing."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self) -> None:
        pass


class Tracer:
    """One block on a model.

    shared: of the model. model: the package's own model, here or on a server. inner: its tracer.
    """

    def __init__(self, shared: Shared, model: TracedModel, inner: Any) -> None:
        self._shared = shared
        self._model = model
        self._inner = inner
        self._open = ExitStack()

    def __enter__(self) -> Self:
        failure: LabError | None = None
        try:
            self._inner.__enter__()
        except LabError as error:
            failure = for_the_user(error)
        if failure is not None:
            raise failure
        self._inner.hand_back_to(sys._getframe(1))
        self._open.enter_context(plain_values_save())
        self._open.callback(self._shared.close, self._shared.open(self._model, self._inner))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failure: LabError | None = None
        self._open.close()
        try:
            self._inner.__exit__(kind, exc, trace)
        except LabError as error:
            failure = for_the_user(error)
        if failure is not None:
            raise failure from failure.__cause__
        if exc is not None:
            shorten_traceback(exc)

    # Prompts and steps

    @one_frame
    def invoke(self, *inputs: Any, **named: Any) -> AbstractContextManager[None]:
        """One prompt of the batch; without one, all rows."""
        given = prompt_of(inputs, named)
        found: AbstractContextManager[None] = self._inner.invoke(given.get("prompt"))
        return found

    @property
    def iter(self) -> Any:
        """The steps of a generation: `for step in tracer.iter[:]`."""
        return self._inner.iter

    def all(self) -> Any:
        """Every step of a generation."""
        return self._inner.all()

    def next(self, increment: int = 1) -> Tracer:
        """Go on to a further step of a generation, for all modules."""
        opened = self._shared.opened()
        if opened is None:
            raise GraphError("tracer.next() is for inside the block.", hint="Call it there.").at(
                user_line()
            )
        opened.ahead[None] = opened.ahead.get(None, 0) + increment
        return self

    def barrier(self, n: int) -> Barrier:
        """A meeting point, which invokes do not need here."""
        return Barrier(n)

    # Values

    @property
    @one_frame
    def result(self) -> Any:
        """What the traced call gives: the ids of a generation, else the model's output."""
        return self._inner.result

    @one_frame
    def cache(
        self,
        modules: Any = None,
        device: Any = None,
        dtype: Any = None,
        detach: bool = True,
        include_output: bool = True,
        include_inputs: bool = False,
        non_blocking: bool = False,
    ) -> CacheView:
        """Save what many modules give; `cache["model.transformer.h.0"].output` after the block."""
        return CacheView.declared(
            self._inner,
            self._model,
            modules,
            device=device,
            dtype=dtype,
            include_output=include_output,
            include_inputs=include_inputs,
        )

    @one_frame
    def stop(self) -> None:
        """The model is not needed any further."""
        self._inner.stop()

    log = staticmethod(log)
    apply = staticmethod(apply)
    cond = staticmethod(cond)

    # The package's own

    @property
    def graph(self) -> Any:
        """The experiment as data."""
        return self._inner.graph

    @property
    def run(self) -> Any:
        """The run the block ended with."""
        return self._inner.run

    @property
    def backend(self) -> Any:
        """Refused: a block waits for its run."""
        raise without("tracer.backend", "A block waits for its run; tracer.run is that run.")

    def local(self) -> Any:
        """Refused: see `nl.local_fn`."""
        raise without("tracer.local()", "nl.local_fn(f)(value) calls a Python function locally.")
