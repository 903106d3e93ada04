"""Requests on the way to vLLM's processes: each ends once, also one that is aborted at once.

The engine here computes nothing and never ends by itself; everything around it is the real driver.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from nnsight_lab.errors import EngineFailed
from nnsight_lab_server.vllm.async_driver import AsyncDriver
from nnsight_lab_server.vllm.driver import Ears, Request, sampling
from nnsight_lab_server.vllm.options import VllmOptions


class Endless:
    """An engine whose requests and calls go on until somebody ends them."""

    errored = False

    async def generate(self, *_: Any) -> AsyncIterator[None]:
        await asyncio.sleep(3600.0)
        yield

    async def collective_rpc(self, *_: Any, **__: Any) -> None:
        await asyncio.sleep(3600.0)

    def shutdown(self) -> None:
        """Nothing runs."""


class EndlessDriver(AsyncDriver):
    async def _start(self, model: str, options: VllmOptions) -> None:
        self._engine = Endless()
        self._looking = asyncio.create_task(asyncio.sleep(3600.0))


@pytest.fixture
def ended() -> list[tuple[str, BaseException | None]]:
    return []


@pytest.fixture
def driver(ended: list[tuple[str, BaseException | None]]) -> Iterator[AsyncDriver]:
    ears = Ears(lambda _: None, lambda id, error: ended.append((id, error)))
    made = EndlessDriver("", VllmOptions(), ears)
    yield made
    made.close()


@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_an_aborted_request_ends_whether_it_has_begun_or_not(
    driver: AsyncDriver, ended: list[tuple[str, BaseException | None]], pause: float
) -> None:
    request = Request("r/0/0/0", (1, 2), 1, salt="r")
    sampling(request)  # the first time takes seconds: vLLM is imported

    def both() -> None:
        # In one turn of the loop, as when a client cancels at once.
        driver._submit([request])
        if not pause:
            driver._abort(["r/0/0/0"])

    driver._loop.call_soon_threadsafe(both)
    time.sleep(pause)
    driver.abort(["r/0/0/0"])

    end = time.monotonic() + 10.0
    while driver.under_way or not ended:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert ended == [("r/0/0/0", None)]


def test_who_waits_for_a_call_is_let_go_when_the_engine_is_closed(driver: AsyncDriver) -> None:
    failed: list[BaseException] = []

    def call() -> None:
        try:
            driver.rpc("lab_stats")
        except Exception as exc:  # noqa: BLE001 - whatever it is told
            failed.append(exc)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.1)
    driver.close()
    thread.join(5.0)

    assert not thread.is_alive()
    assert failed
    with pytest.raises(EngineFailed):
        driver.rpc("lab_stats")


def test_closing_twice_is_closing_once(driver: AsyncDriver) -> None:
    driver.close()
    begun = time.monotonic()
    driver.close()
    assert time.monotonic() - begun < 1.0


def test_sockets_that_vllm_leaves_to_a_stopped_loop_keep_nobody_waiting(
    driver: AsyncDriver,
) -> None:
    """As when its processes die while it is closed: its own thread leaves the sockets to the loop.

    A zmq context ends when all its sockets are closed. If they stay open, a collection of garbage
    on any thread waits for them without an end.
    """
    zmq: Any = import_module("zmq")
    zmq_asyncio: Any = import_module("zmq.asyncio")
    core_client: Any = import_module("vllm.v1.engine.core_client")
    context = zmq.Context(io_threads=2)
    above = zmq_asyncio.Context(context)
    resources = core_client.BackgroundResources(ctx=context)

    async def opened() -> None:
        resources.output_socket = above.socket(zmq.PULL)
        resources.output_socket.bind("inproc://test")

    driver._call(opened()).result(5.0)
    driver._engine.engine_core = SimpleNamespace(resources=resources)
    loop = driver._loop
    driver.close()

    assert loop.is_closed()
    assert resources.output_socket.closed
    ending = threading.Thread(target=context.term, daemon=True)
    ending.start()
    ending.join(10.0)
    assert not ending.is_alive()


def test_what_is_said_to_a_driver_that_was_closed_is_no_matter(driver: AsyncDriver) -> None:
    driver.close()

    driver.abort(["r/0/0/0"])
    driver.tell("lab_forget", "r")
    assert not driver.alive
