"""What the server asks of an engine. The seam between jobs and the libraries that run models.

An engine is loaded, run and closed on one thread of its own (`nnsight_lab_server.jobs`); only
`cancel`, `card` and `source_of` may be called from another, and `run` of an engine that is
`Concurrent`. Saved values leave it as `wire.Value`: dense bytes in the model's own dtype, so nothing
beyond this seam touches tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from nnsight_lab.contract import Emit, ModelCard, RunRequest
from nnsight_lab.ir import Graph, ModuleSource
from nnsight_lab.passes import Stages

__all__ = ["Certified", "Choosy", "Concurrent", "Engine", "Restartable"]


@runtime_checkable
class Engine(Protocol):
    """Runs graphs on one model, one at a time unless it is `Concurrent`."""

    def card(self) -> ModelCard:
        """The model, described."""
        ...

    def source_of(self, path: str) -> ModuleSource:
        """What the forward of one module calls, from any thread; may wait for a run to end.

        Raises:
            LabError: there is no such module, or nothing to see in it.
        """
        ...

    def run(self, request: RunRequest, emit: Emit) -> None:
        """Run to the end. Values go to `emit` as soon as they exist; ends with Done or Failed."""
        ...

    def cancel(self, run_id: str) -> None:
        """Ask a run to stop, from any thread."""
        ...

    def close(self) -> None:
        """Let the model go."""
        ...


@runtime_checkable
class Concurrent(Engine, Protocol):
    """An engine that takes several runs at a time, each on a thread of its own."""

    @property
    def concurrency(self) -> int:
        """How many."""
        ...


@runtime_checkable
class Restartable(Engine, Protocol):
    """An engine that may die by itself, because it lives in other processes."""

    def watch(self, lost: Callable[[], None]) -> None:
        """Call `lost` whenever the engine dies, from any thread, before its runs are ended."""
        ...

    def restart(self) -> None:
        """Start it once more after it has died; on the thread that loaded it.

        Raises:
            Exception: it could not be started; it may be tried again.
        """
        ...


@runtime_checkable
class Choosy(Engine, Protocol):
    """An engine that cannot run every graph its card lets through."""

    def check(self, graph: Graph, stages: Stages) -> None:
        """Look at a graph that passed all other checks, from any thread.

        Raises:
            LabError: it cannot be run here; the error has the node.
        """
        ...


@runtime_checkable
class Certified(Engine, Protocol):
    """An engine that was compared with Hugging Face, because it computes in a way of its own."""

    @property
    def certificate(self) -> object:
        """What came of it; in words, how much is verified. None when it is not known."""
        ...
