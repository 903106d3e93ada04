"""`OneProcessDriver`: vLLM's engine in this process, stepped by a thread. For tests and tools.

It starts in seconds, a debugger reaches the worker, and nothing crosses a process. It is no way to
serve: an engine that dies takes its memory with it, and the process has to be left.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from nnsight_lab.errors import EngineFailed
from nnsight_lab_server.vllm.channel import Here
from nnsight_lab_server.vllm.driver import Ears, Request, on_gpu, prepare, prompt, sampling
from nnsight_lab_server.vllm.options import VllmOptions

__all__ = ["OneProcessDriver"]

_Task = Callable[[], None]


class OneProcessDriver:
    """Implements `Driver`. The engine is made, stepped and let go on one thread."""

    def __init__(self, model: str, options: VllmOptions, ears: Ears) -> None:
        self._ears = ears
        self._here = Here(ears.message)
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._engine: Any = None
        self._names: dict[str, str] = {}
        self._alive = True
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._work, args=(model, options, started), name="vllm-steps", daemon=True
        )
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._alive = False
            self._here.close()
            raise

    @property
    def address(self) -> str:
        """Of this process."""
        return self._here.address

    @property
    def folder(self) -> Path | None:
        """None: nothing leaves this process."""
        return None

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._alive

    @property
    def under_way(self) -> int:
        """How many requests have not ended."""
        return len(self._names)

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue requests; they are scheduled together."""
        given = list(requests)
        self._tasks.put(lambda: self._add(given))

    def abort(self, ids: Iterable[str]) -> None:
        """End requests after the step under way."""
        given = list(ids)
        self._tasks.put(lambda: self._abort(given))

    def tell(self, name: str, *args: Any) -> None:
        """Call a method of the worker between two steps."""
        self._tasks.put(lambda: self._call(name, args))

    def rpc(self, name: str, *args: Any) -> list[Any]:
        """Call a method of the worker between two steps, and wait for it."""
        answer: Future[list[Any]] = Future()

        def call() -> None:
            try:
                answer.set_result(list(self._engine.collective_rpc(name, args=args)))
            except Exception as exc:  # noqa: BLE001 - it belongs to whoever waits
                answer.set_exception(exc)

        self._tasks.put(call)
        while not wait([answer], timeout=1.0).done:
            if not self._thread.is_alive():
                raise EngineFailed("vLLM has ended.", hint="Start it again.")
        return answer.result()

    def close(self) -> None:
        """Stop stepping, and free what the engine holds."""
        self._tasks.put(None)
        self._thread.join()
        self._here.close()

    # ---------------------------------------------------------------- the engine's thread

    def _work(self, model: str, options: VllmOptions, started: Future[None]) -> None:
        try:
            self._engine = _made(model, options)
        except Exception as exc:  # noqa: BLE001 - a seam: whatever vLLM raises when it cannot start
            failed = EngineFailed(
                f"vLLM does not start: {type(exc).__name__}: {exc}",
                hint="Its own words in the log say more.",
            )
            failed.__cause__ = exc
            started.set_exception(failed)
            return
        started.set_result(None)
        try:
            while (task := self._next()) is not None:
                task()
        except BaseException as exc:  # noqa: BLE001 - a seam: a step that raises ends the engine
            self._alive = False
            self._ears.died(exc)
        self._alive = False
        _let_go(self._engine)
        self._engine = None

    def _next(self) -> _Task | None:
        """A task that waits; a step, when none does and there are requests."""
        try:
            return self._tasks.get(block=not self._engine.has_unfinished_requests())
        except queue.Empty:
            return self._step

    def _call(self, name: str, args: tuple[Any, ...]) -> None:
        self._engine.collective_rpc(name, args=args)

    def _add(self, requests: Iterable[Request]) -> None:
        for request in requests:
            try:
                name = self._engine.add_request(request.id, prompt(request), sampling(request))
                self._names[request.id] = name
            except Exception as exc:  # noqa: BLE001 - vLLM refuses this request; others go on
                self._ears.ended(request.id, exc)

    def _abort(self, ids: Iterable[str]) -> None:
        self._engine.abort_request([id for id in ids if id in self._names])
        for id in ids:
            if self._names.pop(id, None) is not None:
                self._ears.ended(id, None)

    def _step(self) -> None:
        with self._here.together():
            outputs = self._engine.step()
        for output in outputs:
            if output.finished and self._names.pop(output.request_id, None) is not None:
                self._ears.ended(output.request_id, None)


def _made(model: str, options: VllmOptions) -> Any:
    prepare(options, processes=False)
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    arguments = options.arguments(model, on_gpu=on_gpu())
    return LLMEngine.from_engine_args(EngineArgs(**arguments))


def _let_go(engine: Any) -> None:
    """Free the engine, so that another can be made in this process."""
    from vllm.distributed import cleanup_dist_env_and_memory

    engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()
