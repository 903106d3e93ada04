"""`VllmRun`: one run on vLLM, seen from the server: rows submitted, messages followed.

Each row of a prompt is one request of vLLM's. The worker says when rows are to come again, when the
next part of a session begins, and how the run ended; here that becomes requests and events.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from nnsight_lab import contract
from nnsight_lab.contract import Emit, TokenRows
from nnsight_lab.errors import BadInput, Cancelled, EngineFailed, LabError
from nnsight_lab.ir import Graph
from nnsight_lab_server.vllm.driver import Driver, Request
from nnsight_lab_server.vllm.messages import Done, Failed, Message, Saved, Submit, Token
from nnsight_lab_server.vllm.plan import Errand, Plan

__all__ = ["PATIENCE_S", "VllmRun", "nothing_to_run"]

PATIENCE_S = 30.0
"""How long a run whose requests have all ended may wait for the worker's last word."""
_LARGE = 2**20
"""Plans of more bytes are files."""
_Row: TypeAlias = tuple[int, int, tuple[int, ...]]


def nothing_to_run(graph: Graph, parts: Iterable[TokenRows]) -> bool:
    """Whether no forward pass is needed: nothing is asked, and no text is to be made."""
    return not graph.nodes and all(part.generation is None for part in parts)


class VllmRun:
    """A run under way. `follow` is called once; the rest from any thread.

    staged: over the stages of a pipeline, of which only the last knows when a run has ended.
    """

    def __init__(
        self,
        name: str,
        graph: Graph,
        parts: tuple[TokenRows, ...],
        driver: Driver,
        *,
        staged: bool = False,
    ) -> None:
        self._staged = staged
        self.name = name
        self._graph = graph
        self._parts = parts
        self._driver = driver
        self._said: queue.SimpleQueue[Message | LabError] = queue.SimpleQueue()
        self._requests: dict[tuple[int, int], str] = {}
        self._open: set[str] = set()
        self._quiet_since = 0.0

    # ---------------------------------------------------------------- from other threads

    def hear(self, message: Message) -> None:
        """The worker says something of this run."""
        self._said.put(message)

    def cancel(self) -> None:
        """Whoever asked for the run wants it no more."""
        self._said.put(Cancelled("The run was cancelled."))

    def lose(self, error: LabError) -> None:
        """Nothing more will come of the run."""
        self._said.put(error)

    def ended(self, id: str) -> None:
        """A request has ended, as it should; the worker may have more to say of it."""
        self._quiet_since = time.monotonic()
        self._open.discard(id)

    def refused(self, id: str, error: BaseException) -> None:
        """A request is not taken by vLLM."""
        if id in self._open:
            self._said.put(
                BadInput(
                    f"vLLM does not take a prompt of this run: {error}",
                    hint="Use fewer or shorter prompts.",
                )
            )

    # ---------------------------------------------------------------- on the run's own thread

    def follow(self, emit: Emit) -> None:
        """Submit the first part, and go on until the run has ended."""
        begun = time.perf_counter()
        plan = self._laid_down(Plan(self._graph, self._parts).to_bytes())
        prompts = [(row, 0, ids) for row, ids in enumerate(self._parts[0].rows)]
        last: Done | Failed | LabError | None = None
        try:
            self._submit(0, prompts, plan)
            while (last := self._event(emit)) is None:
                pass
        finally:
            self._driver.abort(self._requests.values())
            if self._staged or not isinstance(last, Done):
                self._forget(wait=isinstance(plan, str) and not isinstance(last, Done | Failed))
            if isinstance(plan, str):
                Path(plan).unlink(missing_ok=True)
        if isinstance(last, Done):
            seconds = {"run": time.perf_counter() - begun}
            emit(contract.Done(seconds, steps=last.steps, ended=last.ended))
        else:
            emit(contract.Failed(last.error if isinstance(last, Failed) else last))

    def _laid_down(self, plan: bytes) -> bytes | str:
        """The plan, or the file it is put into when it is large: a request is copied many times."""
        folder = self._driver.folder
        if folder is None or len(plan) <= _LARGE:
            return plan
        path = folder / f"{self.name}.plan"
        path.write_bytes(plan)
        return str(path)

    def _forget(self, *, wait: bool) -> None:
        """Tell the workers that nothing more is wanted. wait: until all of them have heard it.

        If one had read the file of a plan and another found it gone, they would part ways, and the
        first would wait for the other for ever.
        """
        if not wait:
            self._driver.tell("lab_forget", self.name)
            return
        with suppress(Exception):  # of an engine that has died, no worker is left
            self._driver.rpc("lab_forget", self.name)

    def _event(self, emit: Emit) -> Done | Failed | LabError | None:
        """Take one message; gives the last one."""
        try:
            message = self._said.get(timeout=PATIENCE_S)
        except queue.Empty:
            return self._left_alone()
        match message:
            case Saved(name=name, value=value):
                emit(contract.Saved(name, value))
            case Token(step=step, ids=ids):
                emit(contract.Token(step, ids))
            case Submit(part=part, rows=rows):
                self._again(part, rows)
            case _:
                return message
        return None

    def _left_alone(self) -> LabError | None:
        """Nothing was said for long. If nothing is being computed either, nothing will be."""
        if self._open or time.monotonic() - self._quiet_since < PATIENCE_S:
            return None
        return EngineFailed(
            "vLLM ended the requests of this run before the run had all it needs.",
            hint="Run it once more; if it stays so, report it with the graph.",
        )

    def _again(self, part: int, rows: Iterable[_Row]) -> None:
        rows = list(rows)
        gone = (self._requests.get((part, row)) for row, _, _ in rows)
        old = [id for id in gone if id is not None]
        self._open.difference_update(old)
        self._driver.abort(old)
        self._submit(part, rows)

    def _submit(self, part: int, rows: Iterable[_Row], plan: bytes | str | None = None) -> None:
        """Rows of a part, each with all its tokens so far; the plan goes with the first of them."""
        requests = []
        for row, attempt, ids in rows:
            errand = Errand(self.name, part, row, attempt, plan)
            plan = None
            inputs = self._parts[part]
            left = inputs.passes - (len(ids) - len(inputs.rows[row]))
            name = f"{self.name}/{part}/{row}/{attempt}"
            self._requests[part, row] = name
            self._open.add(name)
            requests.append(Request(name, ids, max(1, left), salt=name, extra=errand.to_plain()))
        self._driver.submit(requests)
