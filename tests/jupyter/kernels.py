"""A real ipykernel for a test: cells in, all its messages out, and Interrupt as a notebook sends it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

__all__ = ["Kernel", "real_kernel"]

ROOT = Path(__file__).parents[2]
Message = dict[str, Any]


class Kernel:
    """One kernel, with `lm` the bundled model."""

    def __init__(self, manager: Any, client: Any) -> None:
        self.manager = manager
        self._client = client

    def send(self, code: str) -> str:
        """Run a cell without waiting for it; gives its id."""
        sent: str = self._client.execute(code)
        return sent

    def until(self, done: Callable[[Message], bool], wait_s: float = 60.0) -> list[Message]:
        """The messages up to the first that is meant, on all cells."""
        found: list[Message] = []
        ends = time.monotonic() + wait_s
        while not (found and done(found[-1])):
            found.append(self._client.get_iopub_msg(timeout=max(ends - time.monotonic(), 0.01)))
        return found

    def cell(self, code: str) -> list[Message]:
        """Run a cell to its end; its messages."""
        sent = self.send(code)
        return [each for each in self.until(lambda m: is_end(m, sent)) if parent(each) == sent]

    def interrupt(self) -> None:
        """Interrupt the kernel, by a signal."""
        self.manager.interrupt_kernel()


def parent(message: Message) -> str:
    """The cell that a message belongs to."""
    found: str = message["parent_header"].get("msg_id", "")
    return found


def is_end(message: Message, cell: str) -> bool:
    """Whether a message says that a cell has ended."""
    idle = message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
    return idle and parent(message) == cell


def text_of(messages: list[Message]) -> str:
    """Everything that messages print, show and raise, as text."""
    parts = []
    for message in messages:
        content = message["content"]
        parts.append(content.get("text", ""))
        parts.append(content.get("data", {}).get("text/plain", ""))
        parts += content.get("traceback", [])
    return "\n".join(filter(None, parts))


@contextmanager
def real_kernel() -> Iterator[Kernel]:
    """A kernel of this Python, the extension loaded."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "server")])
    manager: Any = KernelManager(kernel_name="python3")
    manager.start_kernel(env={**os.environ, "PYTHONPATH": paths})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        kernel = Kernel(manager, client)
        kernel.cell("%colors nocolor")
        kernel.cell("%load_ext nnsight_lab\nimport nnsight_lab as nl, time, torch")
        kernel.cell('lm = nl.LanguageModel("tiny")\nlm.card.layers')
        yield kernel
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
