"""`AsyncDriver`: vLLM's async engine on an event loop in a thread of its own. What a server has.

vLLM's own processes compute: one that schedules and one worker for each rank. Any of them may die;
that is heard of within a second, from whatever waits for it or from a look at its health.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from nnsight_lab.errors import EngineFailed
from nnsight_lab_server.vllm.channel import Receiver
from nnsight_lab_server.vllm.driver import Ears, Request, on_gpu, prepare, prompt, sampling
from nnsight_lab_server.vllm.options import VllmOptions

__all__ = ["AsyncDriver"]

_log = logging.getLogger(__name__)
_LOOK_S = 0.5
_CALL_S = 600.0
_STOP_S = 5.0


class AsyncDriver:
    """Implements `Driver`."""

    def __init__(self, model: str, options: VllmOptions, ears: Ears) -> None:
        self._ears = ears
        self._receiver = Receiver(ears.message)
        self._engine: Any = None
        self._dead: BaseException | None = None
        self._closing = False
        self._workers: list[Any] = []
        self._asked: set[Future[Any]] = set()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        try:
            self._call(self._start(model, options)).result()
        except Exception as exc:  # a seam: whatever vLLM raises when it cannot start
            self.close()
            raise EngineFailed(
                f"vLLM does not start: {type(exc).__name__}: {exc}",
                hint="Its own words in the log say more.",
            ) from exc

    @property
    def address(self) -> str:
        """A socket, beside a folder in shared memory."""
        return self._receiver.address

    @property
    def folder(self) -> Path | None:
        """The folder beside the socket."""
        return self._receiver.folder

    @property
    def alive(self) -> bool:
        """Whether all its processes run, as far as is known."""
        return self._engine is not None and self._dead is None

    @property
    def under_way(self) -> int:
        """How many requests have not ended."""
        return len(self._under_way)

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue requests in their order."""
        self._loop.call_soon_threadsafe(self._submit, list(requests))

    def abort(self, ids: Iterable[str]) -> None:
        """End requests; the worker hears of it with its next step."""
        self._loop.call_soon_threadsafe(self._abort, list(ids))

    def tell(self, name: str, *args: Any) -> None:
        """Call a method of every worker between two steps."""

        async def call() -> None:
            # A worker that has died needs to be told no more.
            with suppress(Exception):
                await self._engine.collective_rpc(name, args=args)

        self._call(call())

    def rpc(self, name: str, *args: Any) -> list[Any]:
        """Call a method of every worker between two steps, and wait for it."""
        if self._closing:
            raise EngineFailed("The engine was closed.", hint="Ask once more when it is started.")
        answer = self._call(self._engine.collective_rpc(name, timeout=_CALL_S, args=args))
        self._asked.add(answer)
        try:
            found: list[Any] = answer.result()
        finally:
            self._asked.discard(answer)
        return found

    def close(self) -> None:
        """Stop all its processes, and the thread; no matter if it was done before."""
        if self._closing:
            return
        self._closing = True
        with suppress(Exception):
            self._call(self._stop()).result(_STOP_S * 4)
        for process in self._workers:
            # One that hangs has not heard that it should end, and would keep its memory.
            with suppress(Exception):
                process.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_S)
        for answer in [*self._asked]:
            answer.cancel()  # it never comes: the loop has ended
        self._receiver.close()

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    # ---------------------------------------------------------------- on the loop

    async def _start(self, model: str, options: VllmOptions) -> None:
        prepare(options, processes=True)
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = options.arguments(model, on_gpu=on_gpu())
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self._workers = _on_this_machine(await self._engine.collective_rpc("lab_process"))
        self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while self._dead is None:
            try:
                await self._engine.check_health()
            except Exception as exc:  # noqa: BLE001 - whatever it says, it is not well
                self._died(exc)
            await asyncio.sleep(_LOOK_S)

    def _submit(self, requests: list[Request]) -> None:
        for request in requests:
            task = asyncio.create_task(self._follow(request))
            self._under_way[request.id] = task
            # Not within the task: one that is cancelled before it begins never comes to its end.
            task.add_done_callback(partial(self._over, request.id))

    async def _follow(self, request: Request) -> None:
        """One request, from its beginning to its end; nothing is made of what it says."""
        async for _ in self._engine.generate(prompt(request), sampling(request), request.id):
            pass

    def _over(self, id: str, task: asyncio.Task[None]) -> None:
        """A request has ended; one that was aborted, without an error."""
        self._under_way.pop(id, None)
        error = None if task.cancelled() else task.exception()
        if error is not None and self._engine.errored:
            self._died(error)
        self._ears.ended(id, error)

    def _abort(self, ids: list[str]) -> None:
        for id in ids:
            task = self._under_way.get(id)
            if task is not None:
                task.cancel()

    def _died(self, error: BaseException) -> None:
        if self._dead is None and not self._closing:
            self._dead = error
            _log.error("vLLM has died: %s: %s", type(error).__name__, error)
            # Not on the loop: whoever is told may want to call it.
            threading.Thread(target=self._ears.died, args=(error,), daemon=True).start()

    async def _stop(self) -> None:
        if self._engine is None:
            return
        self._looking.cancel()
        for task in list(self._under_way.values()):
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        self._engine.shutdown()


def _on_this_machine(workers: Iterable[tuple[str, int]]) -> list[Any]:
    """Handles of worker processes, which stay theirs when a number is given to another process."""
    psutil = import_module("psutil")
    here = socket.gethostname()
    return [psutil.Process(number) for host, number in workers if host == here]
