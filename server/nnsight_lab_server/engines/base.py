"""What the server asks of an engine. The seam between jobs and the libraries that run models.

An engine is loaded, run and closed on one thread of its own (`nnsight_lab_server.jobs`); only
`cancel`, `card` and `source_of` may be called from another. Saved values leave it as `wire.Value`: dense bytes
in the model's own dtype, so nothing beyond this seam touches tensors.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from nnsight_lab.contract import Emit, ModelCard, RunRequest
from nnsight_lab.ir import ModuleSource

__all__ = ["Engine"]


@runtime_checkable
class Engine(Protocol):
    """Runs graphs on one model, one at a time."""

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
