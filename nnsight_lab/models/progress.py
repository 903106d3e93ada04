"""How far a run is, in words and as a share: what bars, tables and status lines say."""

from __future__ import annotations

import time

from nnsight_lab.contract import (
    Accepted,
    Done,
    Failed,
    Inputs,
    Queued,
    RunEvent,
    Saved,
    Sending,
    Several,
    Started,
    Token,
    TokenRows,
)
from nnsight_lab.ir import Graph

__all__ = ["Progress"]


class Progress:
    """How far one run is. Told of its events; read from any thread.

    text: what it does now. share: how much of that is done, 0 to 1, or None where nobody knows.
    """

    def __init__(self, graph: Graph, inputs: Inputs, began: float) -> None:
        self._began = began
        self._values, self._of_values = 0, len(graph.outputs)
        parts = inputs.parts if isinstance(inputs, Several) else (inputs,)
        asked = [p.generation for p in parts if isinstance(p, TokenRows) and p.generation]
        self._tokens, self._of_tokens = 0, sum(each.max_new_tokens for each in asked)
        self.text = "preparing"
        self.share: float | None = None

    @property
    def seconds(self) -> float:
        """How long it has been under way."""
        return time.perf_counter() - self._began

    def note(self, event: RunEvent) -> None:
        """Take one event of the run."""
        match event:
            case Sending(sent_bytes=sent, total_bytes=total):
                self.text = f"sending {sent / 1e6:.1f} of {total / 1e6:.1f} MB"
                self.share = sent / total if total else None
            case Accepted():
                self.text, self.share = "accepted", None
            case Queued(place=place):
                before = "the next to run" if not place else f"{place} before it"
                self.text, self.share = f"queued, {before}", None
            case Started():
                self._running()
            case Token():
                self._tokens += 1
                self._running()
            case Saved():
                self._values += 1
                self._running()
            case Done():
                self.text, self.share = "ended", 1.0
            case Failed():
                self.text = "failed"

    def _running(self) -> None:
        if self._of_tokens:
            self.text = f"running, token {self._tokens} of {self._of_tokens}"
            self.share = min(self._tokens / self._of_tokens, 1.0)
        elif self._values:
            self.text = f"running, {self._values} of {self._of_values} values"
            self.share = self._values / self._of_values
        else:
            self.text, self.share = "running", None
