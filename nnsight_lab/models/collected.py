"""What the events of a run add up to."""

from __future__ import annotations

from typing import Any

from nnsight_lab.contract import Accepted, Done, Emit, Failed, RunEvent, RunResult, Saved, Token
from nnsight_lab.errors import EngineFailed, LabError
from nnsight_lab.tracing.show import is_shown, print_shown

__all__ = ["Collected"]


class Collected:
    """Takes the events of one run as they come; prints what the graph shows."""

    def __init__(self, *others: Emit) -> None:
        """others: told of each event as well, after it is taken."""
        self._others = others
        self._values: dict[str, Any] = {}
        self._tokens: list[tuple[int, ...]] = []
        self._accepted = Accepted()
        self._ending: Done | Failed | None = None

    def take(self, event: RunEvent) -> None:
        """One event of the run."""
        match event:
            case Saved(name=name, value=value) if is_shown(name):
                print_shown(name, value)
            case Saved(name=name, value=value):
                self._values[name] = value
            case Token(ids=ids):
                self._tokens.append(ids)
            case Accepted():
                self._accepted = event
            case Done() | Failed():
                self._ending = event
        for other in self._others:
            other(event)

    @property
    def error(self) -> LabError | None:
        """What the run failed with; None where it ended well."""
        match self._ending:
            case Done():
                return None
            case Failed(error=error):
                return error
            case _:
                return EngineFailed("The run ended without saying how.", hint="Run it once more.")

    @property
    def result(self) -> RunResult:
        """What a run that ended well gave."""
        done = self._ending
        assert isinstance(done, Done)
        tokens = tuple(self._tokens)
        engine, why = self._accepted.engine, self._accepted.why
        return RunResult(
            self._values, done.seconds, done.sent_bytes, done.steps, done.ended, tokens, engine, why
        )
