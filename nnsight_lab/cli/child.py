"""A server in a process of its own, for as long as a `with` block lasts.

The token goes through the environment, never through the arguments, which others can read. The
server is stopped however the block ends; a polite signal first.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self
from urllib.parse import urlsplit

from nnsight_lab.errors import ServerError

__all__ = ["ChildServer", "stopped", "stopping_on_signals"]

_POLITE_S = 10.0
_LOADING_S = 600.0
_PAUSE_S = 0.2


class ChildServer:
    """`nnsight-lab serve` as a child process on a free port."""

    def __init__(self, models: tuple[str, ...] = ("tiny",)) -> None:
        self.token = secrets.token_urlsafe(24)
        self.url = ""
        self._models = models
        self._process: subprocess.Popen[str] | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of a process that should find this server."""
        here = {"NNSIGHT_LAB_SERVER": self.url, "NNSIGHT_LAB_TOKEN": self.token}
        return {**os.environ, **here}

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "nnsight_lab.cli", "serve", *self._models, "--port", "0"]
        environment = {**os.environ, "NNSIGHT_LAB_TOKEN": self.token}
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            self.url = self._announced_url(self._process)
        except BaseException:
            stopped(self._process)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            stopped(self._process)

    def _announced_url(self, process: subprocess.Popen[str]) -> str:
        line = process.stdout.readline() if process.stdout is not None else ""
        found = re.search(r"http://\S+", line)
        if found is None:
            raise ServerError(
                f"The server did not start (exit status {process.poll()}).",
                hint="Start it by itself to see why: nnsight-lab serve tiny.",
            )
        return found[0]

    def wait_ready(self, say: Callable[[str], None]) -> None:
        """Wait until every model can take jobs. `say` is told what is waited for.

        Raises:
            ServerError: the server ended, or took too long.
        """
        deadline, told = time.monotonic() + _LOADING_S, ""
        while time.monotonic() < deadline:
            states = self._states()
            if states is not None and all(state == "ready" for state in states.values()):
                return
            now = ", ".join(f"{name} is {state}" for name, state in (states or {}).items())
            if now and now != told:
                say(f"{now} …")
                told = now
            if self._process is None or self._process.poll() is not None:
                raise ServerError("The server ended before its models were loaded.")
            time.sleep(_PAUSE_S)
        raise ServerError(f"The models were not loaded in {_LOADING_S:.0f} s.")

    def _states(self) -> dict[str, str] | None:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5.0)
        try:
            connection.request("GET", "/readyz")
            body = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        return dict(body["models"])


def stopped(process: subprocess.Popen[str]) -> int:
    """End a process, politely first; its exit status."""
    if process.poll() is None:
        process.terminate()
    try:
        status = process.wait(_POLITE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    if process.stdout is not None:
        process.stdout.close()
    return status


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Let every polite signal end the block as Ctrl-C does, so that children are stopped too.

    Children have a session of their own: Ctrl-C reaches this process alone, which stops them in
    order instead of letting each of them ask questions on one terminal.
    """

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    polite = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, interrupt) for number in polite}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
