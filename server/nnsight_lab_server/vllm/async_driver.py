"""`AsyncDriver`: vLLM's async engine on an event loop in a thread of its own. What a server has.

vLLM's own processes compute: one that schedules and one worker for each rank. Any of them may die;
that is heard of within a second, from whatever waits for it or from a look at its health.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from nnsight_lab.errors import EngineFailed
from nnsight_lab_server.vllm.channel import Receiver
from nnsight_lab_server.vllm.driver import Ears, Request, on_gpu, prepare, prompt, sampling
from nnsight_lab_server.vllm.halting import Halt, Stalled, end_others, processes_here
from nnsight_lab_server.vllm.options import VllmOptions

__all__ = ["AsyncDriver"]

_log = logging.getLogger(__name__)
_LOOK_S = 0.5
_LEAST_CALL_S = 60.0
_MARGIN_S = 10.0
_STOP_S = 5.0


class AsyncDriver:
    """Implements `Driver`. halt: may be asked while it starts."""

    def __init__(
        self, model: str, options: VllmOptions, ears: Ears, halt: Halt | None = None
    ) -> None:
        self._ears = ears
        self._halt = halt or Halt()
        # Between two steps nothing takes longer than a step may, unless that is a very short one.
        self._call_s = max(float(options.step_s), _LEAST_CALL_S)
        self._receiver = Receiver(ears.message)
        self._engine: Any = None
        self._dead: BaseException | None = None
        self._closing = False
        self._processes: list[Any] = []
        self._asked: set[Future[Any]] = set()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._turn, name="vllm", daemon=True)
        self._thread.start()
        end = partial(end_others, processes_here())
        try:
            self._halt.wait(self._call(self._start(model, options)), end)
        except Exception as exc:  # a seam: whatever vLLM raises when it cannot start
            self.close()
            self._halt.check()
            raise EngineFailed(
                f"vLLM does not start: {type(exc).__name__}: {exc}",
                hint="Its own words in the log say more.",
            ) from exc
        except BaseException:  # Ctrl-C where nobody else hears it
            end()
            self.close()
            raise

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
        return self._engine is not None and self._dead is None and not self._closing

    @property
    def under_way(self) -> int:
        """How many requests have not ended."""
        return len(self._under_way)

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue requests in their order."""
        self._soon(self._submit, list(requests))

    def abort(self, ids: Iterable[str]) -> None:
        """End requests; the worker hears of it with its next step."""
        self._soon(self._abort, list(ids))

    def tell(self, name: str, *args: Any) -> None:
        """Call a method of every worker between two steps."""

        async def call() -> None:
            # A worker that has died needs to be told no more.
            with suppress(Exception):
                await self._engine.collective_rpc(name, args=args)

        self._soon(lambda: asyncio.create_task(call()))

    def rpc(self, name: str, *args: Any) -> list[Any]:
        """Call a method of every worker between two steps, and wait for it.

        Raises:
            Stalled: not all of them answer.
        """
        if self._closing:
            raise EngineFailed("The engine was closed.", hint="Ask once more when it is started.")
        answer = self._call(self._answer(name, args))
        self._asked.add(answer)
        try:
            found: list[Any] = self._halt.wait(answer, self._end)
        finally:
            self._asked.discard(answer)
        return found

    def close(self) -> None:
        """Stop all its processes, and the thread; no matter if it was done before."""
        if self._closing:
            return
        self._closing = True
        if self._halt.asked:
            self._end()
        with suppress(Exception):
            self._call(self._stop()).result(_STOP_S * 4)
        # One that hangs has not heard that it should end, and would keep its memory.
        self._end()
        self._soon(self._loop.stop)
        self._thread.join(_STOP_S)
        for answer in [*self._asked]:
            answer.cancel()  # it never comes: the loop has ended
        self._receiver.close()

    def _end(self) -> None:
        """End its processes on this machine, whatever they do."""
        for process in self._processes:
            with suppress(Exception):
                process.kill()

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _soon(self, callback: Callable[..., object], *args: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: there is nobody to tell any more
            self._loop.call_soon_threadsafe(callback, *args)

    # ---------------------------------------------------------------- on the loop

    def _turn(self) -> None:
        """Run the loop until it is stopped, and leave nothing of it behind."""
        self._loop.run_forever()
        self._loop.run_until_complete(self._clear())
        self._loop.close()

    async def _clear(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        _close_sockets(self._engine)

    async def _start(self, model: str, options: VllmOptions) -> None:
        prepare(options, processes=True)
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._halt.check()
        arguments = options.arguments(model, on_gpu=on_gpu())
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self._processes = _on_this_machine(await self._engine.collective_rpc("lab_process"))
        self._looking = asyncio.create_task(self._look())

    async def _answer(self, name: str, args: tuple[Any, ...]) -> Any:
        """What all workers return; they are waited for by the one that schedules, and that here."""
        call = self._engine.collective_rpc(name, timeout=self._call_s, args=args)
        try:
            return await asyncio.wait_for(call, self._call_s + _MARGIN_S)
        except Exception as exc:
            # vLLM hands an error of another process on as a text.
            if not isinstance(exc, TimeoutError) and f"RPC call to {name} timed out" not in str(
                exc
            ):
                raise
            raise Stalled(
                f"vLLM's workers have not answered {name} within {self._call_s:.0f} s.",
                hint="They may wait for each other, or the machine is too busy: start it again, or"
                " give a larger step_s.",
            ) from exc

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


def _close_sockets(engine: Any) -> None:
    """Close the sockets of vLLM's client, if it has not.

    When its processes die, a thread of its own leaves that to the loop, which may have been stopped
    meanwhile. Then whatever thread collects garbage next would wait for them for ever: zmq ends a
    context only when all its sockets are closed.
    """
    zmq: Any = import_module("zmq")
    resources = getattr(getattr(engine, "engine_core", None), "resources", None)
    for held in () if resources is None else [*vars(resources).values()]:
        if isinstance(held, zmq.Socket) and not held.closed:
            held.close(linger=0)


def _on_this_machine(workers: Iterable[tuple[str, int]]) -> list[Any]:
    """Handles of workers and of who started them, by numbers that may be another process's later."""
    psutil = import_module("psutil")
    here = socket.gethostname()
    found = [psutil.Process(number) for host, number in workers if host == here]
    above = {process.parent() for process in found} - {None, psutil.Process()}
    return [*above, *found]
